"""`steer report` as it is typed: files in, a page and its Markdown out, or one line and nothing."""

import csv
import io
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from model_adapters.errors import SteerError
from steer_tasks.analysis.export import export_records
from steer_tasks.analysis.record import Log, Record
from steer_tasks.cli import main
from steer_tasks.report import budgets_of, groups_of
from tests import report_cases as cases
from tests.peak_memory import TOLD, last_megabytes, need_status
from tests.report_html import cells_of, read

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = (
    *("query", "steering_method", "system_prompt", "user_prompt", "response", "analysis", "steering_time"),
    *("behavior", "coherence"),
)


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def steer(*words: object) -> Done:
    """Run `steer report …` through its own entry."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["report", *map(str, words)])
    return Done(code, out.getvalue(), err.getvalue())


def started(*words: object) -> Done:
    """Run `steer report …` in a process of its own."""
    return python("-m", "steer_tasks.cli", "report", *words)


def python(*words: object) -> Done:
    """Run Python in a process of its own, over this checkout."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "startup")])
    line = [sys.executable, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def refused(folder: Path, *words: object) -> str:
    """Run a report that must fail: exit 2, one line, and no file where there was none. Gives the line."""
    before = sorted(path.name for path in folder.iterdir())
    done = steer(*words, "--out", folder / "report.html")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == before
    return done.stderr.strip()


def study(path: Path, rows: Sequence[dict[str, object]], columns: Sequence[str] = COLUMNS) -> Path:
    """A table in the study's layout."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: row.get(name, "") for name in columns} for row in rows)
    return path


def row(arm: str, behavior: str, number: int, score: object, coherence: object) -> dict[str, object]:
    """One row of it."""
    return {
        "query": f"be {behavior}",
        "steering_method": arm,
        "system_prompt": f"be {behavior}" if arm == "Simple Prompting" else "",
        "user_prompt": f"What of {number}?",
        "response": f"{arm} on {number}",
        "behavior": score,
        "coherence": coherence,
    }


def small(path: Path) -> Path:
    """Two arms, two behaviors, twelve prompts; prompting is one or two points better."""
    rows = [
        row(arm, behavior, number, (1 + number % 3) + (arm != "Control") * (1 + number % 2), 5 - number % 2)
        for arm in ("Control", "Simple Prompting")
        for behavior in ("funny", "concise and direct")
        for number in range(12)
    ]
    return study(path, rows)


def exported(path: Path, held: Sequence[Record]) -> Path:
    export_records([Log(cases.source(), tuple(held))], path)
    return path


def levels(page: Path) -> dict[str, list[str]]:
    """The arm table of a page, by arm."""
    cells = cells_of(read(page.read_text(encoding="utf-8")), "Levels by arm")
    return {line[0]: line[1:] for line in cells}


def test_a_table_becomes_a_page_and_markdown(tmp_path: Path) -> None:
    """From the study's layout to HTML and Markdown: the means are those of the file, and the verdict is printed."""
    done = started(small(tmp_path / "small.csv"), "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path}/report.html and {tmp_path}/report.md"
    found = levels(tmp_path / "report.html")
    # Behavior 1, 2, 3 in turn: mean 2; prompting adds 1 and 2 in turn: 3.5. Coherence 5 and 4 in turn: 4.5.
    assert [cells[0].split()[0] for cells in found.values()] == ["2.000", "3.500"]
    assert [cells[1].split()[0] for cells in found.values()] == ["4.500", "4.500"]
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| Simple Prompting | behavior | +1.50 |" in markdown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md", "small.csv"]


def test_figures_are_files_of_their_own(tmp_path: Path) -> None:
    """`--figures` writes each figure as an SVG file that is named by what it shows."""
    words = ["--out", tmp_path / "report.md", "--figures", tmp_path / "drawn"]
    assert steer(small(tmp_path / "small.csv"), *words).returncode == 0
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        "behaviors-behavior.svg",
        "behaviors-coherence.svg",
        "scores-behavior.svg",
        "scores-coherence.svg",
        "tradeoff-coherence.svg",
    ]
    root = ElementTree.parse(tmp_path / "drawn" / "tradeoff-coherence.svg").getroot()
    assert "Simple Prompting: behavior +1.50" in (root.findtext("{http://www.w3.org/2000/svg}desc") or "")


def test_markdown_alone(tmp_path: Path) -> None:
    """An .md file is written alone."""
    assert steer(small(tmp_path / "small.csv"), "--out", tmp_path / "report.md").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.md", "small.csv"]


def test_equal_input_gives_equal_files(tmp_path: Path) -> None:
    """The same command twice writes the same bytes."""
    small(tmp_path / "small.csv")
    pages = []
    for _ in range(2):
        assert started(tmp_path / "small.csv", "--out", tmp_path / "report.html").returncode == 0
        pages.append((tmp_path / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_export_is_read_again_to_the_same_report(tmp_path: Path) -> None:
    """Records that `--export` writes make the same verdict and numbers as the logs they came from."""
    done = steer(
        small(tmp_path / "small.csv"), "--out", tmp_path / "one.html", "--export", tmp_path / "records.parquet"
    )
    assert done.returncode == 0, done.stderr
    again = steer(tmp_path / "records.parquet", "--out", tmp_path / "two.html")
    assert again.returncode == 0, again.stderr
    assert done.stdout.splitlines()[:-1] == again.stdout.splitlines()[:-1]
    assert levels(tmp_path / "one.html") == levels(tmp_path / "two.html")


def test_target_budget_and_level_change_what_is_said(tmp_path: Path) -> None:
    """`--target`, `--budget` and `--level` reach the statistics and are named in the page."""
    words = ["--target", "fixed", "--budget", "coherence:0.75", "--level", "0.9"]
    assert steer(small(tmp_path / "small.csv"), *words, "--out", tmp_path / "report.html").returncode == 0
    text = read((tmp_path / "report.html").read_text()).get_text(" ")
    assert "under these very steerings" in text
    assert "90 % intervals" in text
    assert "0.75" in text


def test_a_named_control_is_the_control(tmp_path: Path) -> None:
    """`--control` names the arm that the others are compared with."""
    words = ["--control", "Simple Prompting", "--out", tmp_path / "report.md"]
    assert steer(small(tmp_path / "small.csv"), *words).returncode == 0
    assert "| Control | behavior | −1.50 |" in (tmp_path / "report.md").read_text()


def test_one_arm_only_is_reported_as_levels(tmp_path: Path) -> None:
    """One arm alone has a report that says so and shows its levels."""
    path = study(tmp_path / "one.csv", [row("AutoSteer", "funny", number, 2 + number % 2, 4) for number in range(6)])
    done = steer(path, "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    assert levels(tmp_path / "report.html")["AutoSteer"][0].startswith("2.500")
    assert "One arm only" in (tmp_path / "report.html").read_text()


def test_constant_scores_are_reported_as_such(tmp_path: Path) -> None:
    """Scores that never vary have a report that says there is nothing to test."""
    rows = [row(arm, "funny", number, 3, 5) for arm in ("Control", "AutoSteer") for number in range(8)]
    done = steer(study(tmp_path / "same.csv", rows), "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report.html").read_text()
    assert "Every score of behavior is 3 in every arm: nothing to test." in text
    assert "No verdict on behavior" in done.stdout


def test_all_scores_missing_is_nothing_to_report(tmp_path: Path) -> None:
    """Where every score is missing there is nothing to report, and the line gives the reasons."""
    rows = [row(arm, "funny", number, "", "") for arm in ("Control", "AutoSteer") for number in range(3)]
    said = refused(tmp_path, study(tmp_path / "none.csv", rows))
    assert said.startswith("steer: nothing to report: none: every score is missing (")
    assert "the file has no score here" in said


def test_a_refusal_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """As a process of its own a report that can't be made says one line on stderr and exits with 2."""
    done = started(tmp_path, "--out", tmp_path / "report.html")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """A folder without logs is refused by its name."""
    (tmp_path / "logs").mkdir()
    assert str(tmp_path / "logs") in refused(tmp_path, tmp_path / "logs")


def test_other_columns_are_refused(tmp_path: Path) -> None:
    """A table with other columns is refused, and the columns that it lacks are named."""
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert "lacks the columns" in refused(tmp_path, tmp_path / "other.csv")


def test_logs_without_answers_say_why(tmp_path: Path) -> None:
    """Runs that were killed before their first answer: the line says of which log, and how it ended."""
    said = "the run ended as 'started': 0 of 12 samples are in the log"
    logs = [Log(cases.source(path=f"{number}.eval", remarks=(said,)), ()) for number in range(5)]
    export_records(logs, tmp_path / "none.json")
    line = refused(tmp_path, tmp_path / "none.json")
    assert f"the logs hold no answers (0.eval: {said}; 1.eval: {said}; 2.eval: {said}; and 2 more)" in line


def test_what_a_folder_holds_beside_logs_is_named_once(tmp_path: Path) -> None:
    """A file that is no log is named on top with its reason, and the reason isn't headed twice."""
    small(tmp_path / "small.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert steer(tmp_path, "--out", tmp_path / "report.html").returncode == 0
    flag = read((tmp_path / "report.html").read_text(encoding="utf-8")).select_one("header .flag")
    assert flag.b.get_text() == "Left out"
    assert flag.p.get_text().startswith(f"{tmp_path / 'other.csv'}: is no table of records")


def test_no_control_is_refused_with_the_arms(tmp_path: Path) -> None:
    """Without a control the line names the arms to choose from."""
    rows = [row(arm, "funny", number, 2, 4) for arm in ("AutoSteer", "Simple Prompting") for number in range(3)]
    said = refused(tmp_path, study(tmp_path / "two.csv", rows))
    assert "no arm is a control" in said
    assert "AutoSteer, Simple Prompting" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "speed:1"], "write NAME:LOSS with a name of accuracy, answered, coherence"),
        (["--budget", "accuracy:-1"], "a loss is a number above 0"),
        (["--budget", "accuracy:0.1,accuracy:0.2"], "names accuracy twice"),
        (["--budget", "accuracy:5"], "--budget accuracy:5: accuracy can't fall by more than 1"),
        (["--export", "records.txt"], "records are exported as .parquet, .csv, .json"),
        (["--export", "nowhere/records.csv"], "there is no folder nowhere"),
        (["--figures", f"{__file__}/figures"], "can't be made"),
        (["--level", "95"], "a level lies between 0.5 and 1"),
        (["--compare", "paper"], "the questions are"),
        (["--control", "nobody"], "there is no arm 'nobody'"),
    ],
)
def test_bad_options_are_refused_in_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    """An option that can't be meant is refused in one line that says how it is written, and nothing is written."""
    assert said in refused(tmp_path, small(tmp_path / "small.csv"), *words)


def test_out_must_be_a_page_in_a_folder_that_exists(tmp_path: Path) -> None:
    """Another suffix, or a folder that isn't there, is refused before any log is read."""
    for out in (tmp_path / "report.pdf", tmp_path / "none" / "report.html"):
        done = steer(tmp_path / "unread.csv", "--out", out)
        assert done.returncode == 2
        assert str(out) in done.stderr


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    """A report that can't be made leaves the file of an earlier one as it was."""
    (tmp_path / "report.html").write_text("kept")
    rows = [row("Control", "funny", number, "", "") for number in range(3)]
    assert steer(study(tmp_path / "none.csv", rows), "--out", tmp_path / "report.html").returncode == 2
    assert (tmp_path / "report.html").read_text() == "kept"


def test_a_page_whose_markdown_has_no_place_is_not_written(tmp_path: Path) -> None:
    """Where one of two files can't be written, because a folder has its name, neither is."""
    (tmp_path / "report.md").mkdir()
    assert "report.md (it is a folder)" in refused(tmp_path, small(tmp_path / "small.csv"))


def test_the_paper_stands_beside_the_studys_questions(tmp_path: Path) -> None:
    """With `--compare paper` over the 171 questions the eight published rows stand in page and Markdown."""
    held = [replace(one, question_set="mmlu_171", protocol="isolated") for one in cases.records()]
    done = steer(exported(tmp_path / "r.json", held), "--compare", "paper", "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report.md").read_text()
    assert text.count("Instruct, published") == 8
    assert "| Auto Steer | Llama-3.3-70B-Instruct, published | 0.734 | 3.571 | 3.894 | −0.121 | +0.48 | −1.05 |" in text


def test_models_stand_one_below_the_other(tmp_path: Path) -> None:
    """Two models make two sections; one that can't be concluded is left out, and page and terminal say why."""
    other = [replace(one, model="other") for one in cases.records()]
    bare = [
        replace(one, model="bare", accuracy=None, answered=None, behavior_score=None, coherence_score=None)
        for one in cases.records()[:5]
    ]
    done = steer(exported(tmp_path / "r.json", [*cases.records(), *other, *bare]), "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    soup = read((tmp_path / "report.html").read_text())
    assert [one.get_text() for one in soup.find_all("h2")][:2] == ["tiny/model-1B", "other"]
    assert "bare: every score is missing" in soup.header.get_text()
    assert "left out: bare: every score is missing" in done.stdout


def test_protocols_of_one_model_are_kept_apart() -> None:
    """Answers of two protocols are never compared with each other: each protocol has a section of its own."""
    held = [replace(one, protocol="isolated") for one in cases.records()]
    held += [replace(one, protocol="as_run") for one in cases.records()]
    titles = [group.title for group in groups_of([cases.log(held)])]
    assert titles == ["tiny/model-1B · isolated", "tiny/model-1B · as_run"]


def test_budgets_are_read_by_name() -> None:
    """`accuracy:0.02,coherence:0.25` are the losses by outcome."""
    assert budgets_of("accuracy:0.02, coherence:0.25") == {"accuracy": 0.02, "coherence_score": 0.25}
    with pytest.raises(SteerError, match="write NAME:LOSS"):
        budgets_of("")


def test_starting_steer_brings_no_figures() -> None:
    """The command line starts without matplotlib, scipy or jinja2."""
    code = "import sys, steer_tasks.cli; print(sorted({'matplotlib', 'scipy', 'jinja2', 'torch'} & set(sys.modules)))"
    path = os.pathsep.join([str(ROOT), str(ROOT / "startup")])
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_twenty_thousand_records_take_less_than_a_minute_and_a_gigabyte(tmp_path: Path) -> None:
    """20,000 records become a report in under 60 seconds and 1 GB."""
    need_status()
    arms = ("control", "prompt", "caa dose=0.1", "caa dose=0.3", "caa dose=0.6", "random_vector dose=0.3", "auto_steer")
    behaviors = [f"behavior {number}" for number in range(14)]
    held = [
        cases.record(
            arm,
            behavior,
            f"subject/{number}",
            draw=draw,
            completion="word " * 300,
            accuracy=float((number * 7 + place + draw) % 4 > 0),
            behavior_score=float(1 + (number + place * 2 + len(behavior)) % 5),
            coherence_score=float(5 - (number * place) % 3),
        )
        for place, arm in enumerate(arms)
        for draw in range(3 if arm.startswith("random") else 1)
        for behavior in behaviors
        for number in range(159)
    ]
    assert len(held) == 20_034
    path = exported(tmp_path / "records.json", held)
    script = f"import sys; from steer_tasks.cli import main; assert main(sys.argv[1:]) == 0\n{TOLD}"
    began = time.monotonic()
    done = python("-c", script, "report", path, "--out", tmp_path / "report.html")
    took = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert took < 60, f"{took:.0f} s"
    assert last_megabytes(done.stdout) < 1000
    assert (tmp_path / "report.html").stat().st_size < 2_000_000


@pytest.fixture
def ember(shared: Path) -> Path:
    """The study's public answers of the 70B model; skipped by name where they aren't."""
    path = shared / "data" / "ember_open_ended_70b.csv"
    if not path.exists():
        pytest.skip(f"needs {path}; STEER_TASKS_SHARED names the folder that holds data/ember_open_ended_70b.csv")
    return path


def test_public_answers_have_the_means_of_their_file(ember: Path, tmp_path: Path) -> None:
    """Over the study's public answers the arm means of the page are those of the file, to three digits."""
    done = steer(ember, "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    scores: dict[str, list[tuple[int, int]]] = {}
    with ember.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            scores.setdefault(line["steering_method"], []).append((int(line["behavior"]), int(line["coherence"])))
    found = levels(tmp_path / "report.html")
    assert set(found) == set(scores)
    for arm, pairs in scores.items():
        means = [f"{sum(values) / len(values):.3f}" for values in zip(*pairs, strict=True)]
        assert [cell.split()[0] for cell in found[arm][:2]] == means
    assert "carries the prompt" not in (tmp_path / "report.html").read_text()


def test_a_planted_leak_is_flagged_on_top(ember: Path, tmp_path: Path) -> None:
    """With Simple Prompting's sentence in the rows of AutoSteer the page begins with the leak."""
    with ember.open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, object]] = [dict(line) for line in csv.DictReader(file)]
    sentences = {one["query"]: one["system_prompt"] for one in rows if one["steering_method"] == "Simple Prompting"}
    for one in rows:
        if one["steering_method"] == "AutoSteer":
            one["system_prompt"] = sentences[one["query"]]
    done = steer(study(tmp_path / "leaked.csv", rows), "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    flags = [one.b.get_text() for one in read((tmp_path / "report.html").read_text()).select(".flag.grave")]
    assert flags == ["AutoSteer carries the prompt of the arm Simple Prompting"]


def test_the_readme_shows_the_public_answers_as_they_are(ember: Path, tmp_path: Path) -> None:
    """The README's means are those of the file, and its picture is the one that its command draws."""
    scores: dict[str, list[tuple[int, int]]] = {}
    with ember.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            scores.setdefault(line["steering_method"], []).append((int(line["behavior"]), int(line["coherence"])))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for arm, pairs in scores.items():
        behavior, coherence = (sum(values) / len(values) for values in zip(*pairs, strict=True))
        assert f"| {arm} | {behavior:.3f} | {coherence:.3f} | {len(pairs)} |" in readme
    done = steer(ember, "--figures", tmp_path / "figures", "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    told = "{http://www.w3.org/2000/svg}desc"
    drawn = ElementTree.parse(tmp_path / "figures" / "tradeoff-coherence.svg").getroot().findtext(told)
    assert drawn == ElementTree.parse(ROOT / "docs" / "tradeoff_70b.svg").getroot().findtext(told)

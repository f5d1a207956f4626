"""The tasks `behavior` and `coherence`: what each arm is sent, and what is known before anything runs."""

from collections import Counter

import pytest
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.model._model import active_model_context_var, init_active_model, init_model_roles

import steer_tasks.providers  # noqa: F401 (registers the providers)
from model_adapters.behavior import behavior_slugs
from model_adapters.errors import Refused, SteerError
from model_adapters.harnesses.inspect_messages import our_messages
from model_adapters.steering import AddVector, Steering
from model_adapters.steering_file import save_steering
from steer_tasks.behavior import behavior
from steer_tasks.coherence import coherence
from steer_tasks.experiment import drawn
from steer_tasks.protocols import load_protocol

pytestmark = pytest.mark.usefixtures("mmlu")


def scorers(task):
    from inspect_ai._util.registry import registry_info

    return [registry_info(one).name.split("/")[-1] for one in task.scorer]


@pytest.fixture
def under_test():
    """Makes a model the one that Inspect sets up an eval for, with roles."""
    tokens = []

    def set_(model, **roles):
        tokens.append(active_model_context_var.set(None))
        init_active_model(get_model(model, memoize=False), GenerateConfig())
        init_model_roles({name: get_model(one, memoize=False) for name, one in roles.items()})

    yield set_
    init_model_roles({})
    for token in reversed(tokens):
        active_model_context_var.reset(token)


def test_as_typed_it_is_twelve_questions_of_all_behaviors():
    """Without arguments: contrast vectors at dose 0.3, 14 behaviors × the same 12 questions, question by question."""
    task = behavior()
    ids = [sample.id for sample in task.dataset]
    assert len(ids) == len(set(ids)) == 14 * 12
    assert [one.split("/")[0] for one in ids[:14]] == list(behavior_slugs())
    questions = Counter(sample.metadata["question_id"] for sample in task.dataset)
    assert set(questions.values()) == {14}
    assert task.metadata["arm"]["method"] == "caa"
    assert task.metadata["arm"]["parameters"]["dose"] == 0.3
    assert scorers(task) == ["accuracy", "answered", "signals"]
    assert (task.config.temperature, task.config.max_tokens) == (0.0, 2048)


def test_the_same_ids_in_every_arm():
    """Whatever the arm, protocol or method, samples pair by id."""
    arms = [
        behavior(method="control"),
        behavior(method="prompt", protocol="as_run"),
        behavior(method="caa", dose=0.5),
        behavior(method="auto_steer", prompting=True, draw=3),
        coherence(method="random_vector", dose=0.2),
    ]
    assert len({tuple(sample.id for sample in task.dataset) for task in arms}) == 1


def test_fewer_questions_are_part_of_more():
    """A draw of 5 lies within a draw of 12, whatever questions are missing from the source; 0 takes all."""
    names = [f"q/{number}" for number in range(171)]
    assert drawn(names, 5) < drawn(names, 12)
    assert drawn(names, 0) == set(names)
    lost = next(iter(set(names) - drawn(names, 12)))
    assert drawn([name for name in names if name != lost], 12) == drawn(names, 12)
    assert len(behavior(behavior="funny", questions_per_behavior=0).dataset) == 171


def test_open_ended_prompts_have_no_accuracy():
    """A third of the prompts are the behavior's own topics; there is nothing to be right about, and no tags."""
    task = behavior(behavior=["funny", "concise"], questions="open_ended", method="prompt")
    assert scorers(task) == ["signals"]
    sources = Counter(tuple(sample.id.split("/")[:2]) for sample in task.dataset)
    assert sources == {
        ("funny", "common"): 8,
        ("concise", "common"): 8,
        ("funny", "funny"): 4,
        ("concise", "concise"): 4,
    }
    [system, user] = our_messages(task.dataset[0].input)
    assert system.content == "You are a helpful assistant."
    assert "<answer>" not in user.content
    free = behavior(behavior="be like a pirate captain", questions="open_ended", method="prompt")
    assert {sample.metadata["subject"] for sample in free.dataset} == {"common"}


def test_a_judge_brings_its_scorers(under_test):
    """With a bound grader, or `judge=`, behavior and coherence are scored; `coherence` has the one."""
    under_test("stand_in_steered/m", grader="stand_in_judge/j")
    assert scorers(behavior()) == ["accuracy", "answered", "behavior", "coherence", "signals"]
    assert scorers(coherence()) == ["accuracy", "answered", "coherence", "signals"]
    under_test("stand_in_steered/m")
    assert scorers(behavior()) == ["accuracy", "answered", "signals"]
    assert "behavior" in scorers(behavior(judge="stand_in_judge/j"))


@pytest.mark.parametrize("named", ["role", "argument", "default"])
def test_a_model_does_not_judge_itself(under_test, named):
    """The model under test as grader, as `judge=`, and the default model where none was given, are refused."""
    name = "hook_steered/embedded" if named == "default" else "stand_in_steered/m"
    model = "none/none" if named == "default" else name
    if named == "role":
        under_test(model, grader=name)
    else:
        under_test(model)
    with pytest.raises(Refused, match=f"the judge {name} is the model under test"):
        behavior(judge=None if named == "role" else name)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"behavior": "fuzzy"}, "fuzzy"),
        ({"questions": "gsm8k"}, "there are mmlu_171, mmlu_114, open_ended"),
        ({"questions_per_behavior": -1}, "whole number, 0 for all"),
        ({"rubrics": "absent"}, "is not a folder"),
        ({"protocol": "as_runn"}, "did you mean 'as_run'"),
        ({"method": "prompt", "prompting": True}, "leave prompting out"),
        ({"method": "prompt", "layer": 3}, "no parameter 'layer'"),
        ({"method": "caa", "dose": 0.1, "coefficient": 1.0}, "both coefficient and dose"),
    ],
)
def test_what_can_be_known_is_refused_while_the_task_is_made(arguments, line):
    """Unknown names, folders and parameters are one-line errors before any weight is loaded."""
    with pytest.raises(SteerError, match=line) as caught:
        behavior(**arguments)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_of_rubrics_is_refused(tmp_path):
    """A rubric folder without criteria is said at once, as is a behavior that it doesn't have."""
    with pytest.raises(SteerError, match="hold no criteria"):
        behavior(rubrics=str(tmp_path))
    (tmp_path / "criteria").mkdir()
    (tmp_path / "criteria" / "funny.md").write_text("Count the jokes.")
    (tmp_path / "behavior.md").write_text("$PROMPT $RESPONSE $STEERING_QUERY $CRITERIA")
    (tmp_path / "coherence.md").write_text("$PROMPT $RESPONSE")
    assert behavior(rubrics=str(tmp_path), behavior="funny")
    with pytest.raises(SteerError, match="no criteria for 'concise'"):
        behavior(rubrics=str(tmp_path), behavior=["funny", "concise"])


def test_the_version_tells_changed_questions_and_wording(tmp_path):
    """Another protocol, another set or draw of questions is another version, the same ones are the same."""
    import yaml

    from steer_tasks.protocols import _FOLDER

    content = yaml.safe_load((_FOLDER / "isolated.yaml").read_text())
    path = tmp_path / "mine.yaml"
    versions = []
    for system in ("Be brief.", "Be long."):
        content["forms"]["chain_of_thought"]["system"] = system
        path.write_text(yaml.safe_dump(content))
        versions.append(behavior(protocol=str(path)).version)
    versions += [behavior(questions_per_behavior=3).version, behavior(questions="open_ended").version]
    assert len(set(versions)) == 4
    assert behavior().version == behavior(method="prompt").version


def test_a_file_is_complete(tmp_path):
    """A frozen steering's file brings its behavior; one without can't be judged for any."""
    named = Steering((AddVector(1, [1.0, 2.0], 1.0),)).described(behavior={"slug": "funny", "text": "be funny"})
    task = behavior(steering=str(save_steering(named, tmp_path / "a.json")))
    assert {sample.metadata["behavior"] for sample in task.dataset} == {"funny"}
    unnamed = save_steering(Steering((AddVector(1, [1.0, 3.0], 1.0),)), tmp_path / "b.json")
    with pytest.raises(SteerError, match="names no behavior"):
        behavior(steering=str(unnamed))


def test_a_protocol_as_run_samples_as_the_study_did():
    """Temperature 0.6, top_p 0.9, seed 42 and 2048 tokens come from the protocol."""
    config = behavior(protocol="as_run", method="control").config
    assert (config.temperature, config.top_p, config.seed, config.max_tokens) == (0.6, 0.9, 42, 2048)


# What each arm is sent

TASK = load_protocol("isolated").forms["chain_of_thought"].system
SERVICE = load_protocol("as_run").service
SAYS = "In everything you write, be funny."

SENT = {
    ("isolated", "control"): [TASK],
    ("isolated", "prompt"): [f"{TASK}\n\n{SAYS}"],
    ("isolated", "auto_steer"): [TASK],
    ("isolated", "combined"): [f"{TASK}\n\n{SAYS}"],
    ("as_run", "control"): [SERVICE, TASK],
    ("as_run", "prompt"): [SERVICE, SAYS],
    ("as_run", "auto_steer"): [SERVICE, SAYS],
    ("as_run", "combined"): [SERVICE, SAYS],
}
ARMS = {
    "control": {"method": "control"},
    "prompt": {"method": "prompt"},
    "auto_steer": {"method": "auto_steer"},
    "combined": {"method": "auto_steer", "prompting": True},
}


def sent_by(log):
    """The system messages of the first question under `funny`, and whether a user message follows them."""
    [sample] = [one for one in log.samples if one.id == log.samples[0].id]
    messages = sample.output.metadata["steer"]["messages_sent"]
    assert [one["role"] for one in messages] == ["system"] * (len(messages) - 1) + ["user"]
    return [one["content"] for one in messages[:-1]], messages[-1]["content"]


@pytest.mark.parametrize(("protocol", "arm"), SENT)
def test_every_arm_sends_its_messages_word_for_word(protocol, arm, tmp_path, monkeypatch):
    """System messages are those of the table above, the user message is equal in all arms, on the stand-in."""
    from inspect_ai import eval

    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path / "cache"))
    task = behavior(behavior="funny", questions_per_behavior=1, protocol=protocol, **ARMS[arm])
    [log] = eval(task, model="stand_in_steered/m", log_dir=str(tmp_path / "logs"), display="none")
    assert log.status == "success", log.error
    systems, user = sent_by(log)
    assert systems == SENT[protocol, arm]
    [asked] = [one.content for one in our_messages(task.dataset[0].input) if one.role == "user"]
    assert user == asked
    edited = log.samples[0].output.metadata["steer"]["proof"]["level"] == "acknowledged"
    assert edited == (arm in ("auto_steer", "combined"))


@pytest.mark.slow
@pytest.mark.embedded
def test_the_four_arms_on_the_embedded_model(tmp_path, monkeypatch):
    """Both protocols, 2 behaviors × 6 questions, on real weights: every arm's messages word for word, and its proof."""
    from inspect_ai import eval

    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    says = {"funny": "be funny", "concise": "be concise and direct"}
    for (protocol, arm), systems in SENT.items():
        features = {"dictionary": "demo"} if arm in ("auto_steer", "combined") else {}
        task = behavior(behavior=list(says), questions_per_behavior=6, protocol=protocol, **ARMS[arm], **features)
        [log] = eval(
            *[task],
            model="hook_steered/embedded",
            log_dir=str(tmp_path / protocol / arm),
            display="none",
            max_tokens=12,
        )
        assert log.status == "success", log.error
        assert len(log.samples) == 12
        for sample in log.samples:
            report = sample.output.metadata["steer"]
            expected = [text.replace("be funny", says[sample.metadata["behavior"]]) for text in systems]
            sent = report["messages_sent"]
            assert [one["content"] for one in sent[:-1]] == expected
            assert sent[-1]["role"] == "user"
            assert report["proof"]["level"] == "measured"
            assert bool(report["proof"]["doses"]) == (arm in ("auto_steer", "combined"))
            assert sample.scores["signals"].value["reference_nll"] >= 0


def test_the_setup_solver_stops_a_model_that_judges_itself():
    """`independent_judge` refuses, sample by sample, a judge that was bound after the task was made."""
    import asyncio

    from steer_tasks.solvers import independent_judge

    model = get_model("stand_in_steered/m", memoize=False)
    token = active_model_context_var.set(None)
    init_active_model(model, GenerateConfig())
    try:
        init_model_roles({"grader": model})
        with pytest.raises(Refused, match="is the model under test"):
            asyncio.run(independent_judge()(None, None))
        init_model_roles({"grader": get_model("stand_in_judge/j", memoize=False)})
        assert asyncio.run(independent_judge("stand_in_steered/m")("state", None)) == "state"
    finally:
        init_model_roles({})
        active_model_context_var.reset(token)

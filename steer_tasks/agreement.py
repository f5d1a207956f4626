"""`steer agreement`: how far two judges agree, or a judge and people's labels, read from a table or an Inspect log.

Light: scipy, sklearn and inspect_ai are imported when it runs.
"""

import argparse
import csv
import io
import json
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from model_adapters.errors import SteerError

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample

    from judges.agreement import Agreement, Estimate

CLUSTER = "question_id"
"""Sample metadata that says which answers of a log belong together: those to one question."""

FEW = 30
"""Below this many items, or clusters, a percentile interval is rough: a rule of thumb for bootstraps of a mean."""

KINDS = "a .csv or .jsonl table, or an Inspect log (.eval, .json)"

_WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")


@dataclass(frozen=True)
class Ratings:
    """Two raters' ratings of the same rows, None where one is missing, and each row's cluster if there are any."""

    first_name: str
    second_name: str
    first: tuple[int | None, ...]
    second: tuple[int | None, ...]
    clusters: tuple[Hashable, ...] | None


def add_agreement_options(one: argparse.ArgumentParser) -> None:
    """The options of `steer agreement`."""
    one.add_argument("file", help=KINDS)
    one.add_argument("--first", metavar="NAME", help="first rater: a column, a key, or a score of the log")
    one.add_argument("--second", metavar="NAME", help="second rater (default: the only two that can be meant)")
    cluster = f"what says which rows belong together; of a log a metadata key (default there: {CLUSTER})"
    one.add_argument("--cluster", metavar="COLUMN", help=cluster)
    one.add_argument("--json", action="store_true", help="print JSON")


def run_agreement(given: argparse.Namespace) -> None:
    """Print how far two raters agree. Raises SteerError for a file that can't be read as two raters' ratings."""
    from judges.agreement import agreement

    ratings = read_ratings(given.file, given.first, given.second, given.cluster)
    result = agreement(ratings.first, ratings.second, clusters=ratings.clusters)
    if given.json:
        named = {"first": ratings.first_name, "second": ratings.second_name, **asdict(result)}
        print(json.dumps(named, indent=2, allow_nan=False))
    else:
        print(agreement_text(ratings, result))


def read_ratings(
    path: str | Path, first: str | None = None, second: str | None = None, cluster: str | None = None
) -> Ratings:
    """Two raters' ratings from a file.

    - A table: columns of a .csv, keys of a .jsonl. By default the only two columns that hold nothing but whole numbers
      1 to 5. An empty cell, null, or a key that a line lacks is a missing rating. `cluster` is a column too.
    - An Inspect log: two of its scores, by default the only two names of which one begins with the other, such as
      `coherence` and `coherence1`. A score that is NaN or absent is a missing rating. Clusters are the samples'
      metadata `cluster`, by default `question_id` where every sample has it.

    Whether the numbers lie on the scale is left to `agreement`. Raises SteerError for a file that can't be read, for
    names that aren't there or aren't unique, and for a rating that is no whole number, with its row (from 1).
    """
    path = Path(path)
    match path.suffix:
        case ".csv":
            return _table_ratings(path, _csv_table(path), first, second, cluster)
        case ".jsonl":
            return _table_ratings(path, _jsonl_table(path), first, second, cluster)
        case ".eval" | ".json":
            return _log_ratings(path, first, second, cluster)
        case _:
            raise SteerError(f"{path} is in no known format of ratings; give {KINDS}")


# Tables

Row = Mapping[str, object]


def _csv_table(path: Path) -> list[Row]:
    try:
        lines = list(csv.reader(io.StringIO(_text(path), newline=""), strict=True))
    except csv.Error as problem:
        raise SteerError(f"{path} isn't well-formed CSV ({problem}); mend or restore it") from problem
    header = lines[0] if lines else []
    if len(set(header)) < len(header):
        raise SteerError(f"{path} has two columns of one name ({', '.join(header)}); rename one")
    rows = [cells for cells in lines[1:] if cells]
    for number, cells in enumerate(rows, 1):
        if len(cells) != len(header):
            raise SteerError(f"row {number} of {path} has {len(cells)} cells where {len(header)} are expected; mend it")
    return [dict(zip(header, cells, strict=True)) for cells in rows]


def _jsonl_table(path: Path) -> list[Row]:
    rows: list[Row] = []
    # Not splitlines(): that also breaks at characters which JSON leaves unescaped inside a string.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise SteerError(f"line {number} of {path} isn't JSON ({problem}); mend or restore it") from problem
        if not isinstance(row, dict):
            raise SteerError(f"line {number} of {path} holds {type(row).__name__} where an object is expected")
        rows.append(row)
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as problem:
        raise SteerError(f"can't read {path} ({problem.strerror}); give {KINDS}") from problem
    except UnicodeDecodeError as problem:
        raise SteerError(f"{path} isn't text in UTF-8; save it as that") from problem


def _table_ratings(
    path: Path, rows: Sequence[Row], first: str | None, second: str | None, cluster: str | None
) -> Ratings:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        raise SteerError(f"{path} holds no rows; give {KINDS}")
    _known(path, "column", names, cluster)
    offered = [name for name in names if name in (first, second) or (name != cluster and _looks_rated(rows, name))]
    one, other = chosen = _chosen(path, "column", names, list(combinations(offered, 2)), first, second)
    ratings = {name: _column(path, name, [row.get(name) for row in rows]) for name in chosen}
    clusters = None if cluster is None else _clusters(path, cluster, [row.get(cluster) for row in rows])
    return Ratings(one, other, ratings[one], ratings[other], clusters)


def _looks_rated(rows: Sequence[Row], name: str) -> bool:
    try:
        found = {rating(row.get(name)) for row in rows} - {None}
    except ValueError:
        return False
    return bool(found) and found <= {1, 2, 3, 4, 5}


# Logs


def _log_ratings(path: Path, first: str | None, second: str | None, cluster: str | None) -> Ratings:
    samples = _samples(path)
    names = sorted({name for sample in samples for name in sample.scores or {}})
    alike = [pair for pair in combinations(names, 2) if pair[1].startswith(pair[0])]
    one, other = chosen = _chosen(path, "score", names, alike, first, second)
    ratings = {name: _column(path, name, [_score(sample, name) for sample in samples]) for name in chosen}
    held = [sample.metadata.get(cluster or CLUSTER) for sample in samples]
    clusters = None if cluster is None and None in held else _clusters(path, cluster or CLUSTER, held)
    return Ratings(one, other, ratings[one], ratings[other], clusters)


def _samples(path: Path) -> "list[EvalSample]":
    from inspect_ai.log import read_eval_log

    if not path.is_file():
        raise SteerError(f"there is no file {path}; give {KINDS}")
    try:
        samples = read_eval_log(str(path)).samples
    except Exception as problem:  # what a broken file raises depends on its format and on Inspect's release
        said = f"{type(problem).__name__}: {problem}".splitlines()[0]
        raise SteerError(f"{path} can't be read as an Inspect log ({said}); give {KINDS}") from problem
    if not samples:
        raise SteerError(f"{path} holds no samples; give the log of an eval that ran")
    return samples


def _score(sample: "EvalSample", name: str) -> object:
    score = (sample.scores or {}).get(name)
    return None if score is None else score.value


# Both


def rating(cell: object) -> int | None:
    """The whole number that a cell or a score holds, None for an empty one and for NaN. Raises ValueError for others.

    4, 4.0, "4" and "4.0" are 4: a table with gaps often holds its whole numbers as floats.
    """
    if isinstance(cell, str):
        if not cell.strip():
            return None
        if whole := _WHOLE.fullmatch(cell.strip()):
            return int(whole[1])
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, int | float) and not isinstance(cell, bool) and cell == cell // 1:
        return int(cell)
    raise ValueError(f"{cell!r} is no whole number")


def _column(path: Path, name: str, cells: Sequence[object]) -> tuple[int | None, ...]:
    found = []
    for number, cell in enumerate(cells, 1):
        try:
            found.append(rating(cell))
        except ValueError as problem:
            short = repr(cell) if len(repr(cell)) <= 60 else f"{repr(cell)[:60]}…"
            remedy = "ratings are whole numbers, or empty where one is missing"
            raise SteerError(f"{path}, row {number}: {name} is {short}; {remedy}") from problem
    return tuple(found)


def _clusters(path: Path, name: str, cells: Sequence[object]) -> tuple[Hashable, ...]:
    for number, cell in enumerate(cells, 1):
        if not isinstance(cell, str | int) or cell == "":
            raise SteerError(
                f"{path}, row {number}: {name} is {cell!r}; each row needs a text or a number as its cluster"
            )
    return tuple(cell for cell in cells if isinstance(cell, str | int))


def _chosen(
    path: Path,
    kind: str,
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    first: str | None,
    second: str | None,
) -> tuple[str, str]:
    """The two names asked for, or the only one of `pairs` that holds those which were."""
    _known(path, kind, names, first)
    _known(path, kind, names, second)
    if first is not None and first == second:
        raise SteerError(f"--first and --second are both {first}; name two different ones")
    if first is not None and second is not None:
        return first, second
    fitting = [pair for pair in pairs if {first, second} - {None} <= set(pair)]
    if len(fitting) != 1:
        meant = ", ".join(dict.fromkeys(name for pair in fitting for name in pair)) or "none"
        held = f"it has {', '.join(names) or 'none'}, and as ratings could be meant {meant}"
        raise SteerError(f"{path}: name two of its {kind}s with --first and --second; {held}")
    one, other = fitting[0]
    return (other, one) if first == other or second == one else (one, other)


def _known(path: Path, kind: str, names: Sequence[str], name: str | None) -> None:
    if name is not None and name not in names:
        raise SteerError(f"{path} has no {kind} {name}; it has {', '.join(names) or 'none'}")


# Text


def agreement_text(ratings: Ratings, result: "Agreement") -> str:
    """A small table: what was compared, the statistics with their intervals, and the counts of every pair."""
    units = f" in {result.clusters} clusters" if result.clusters is not None else ""
    lines = [
        f"first   {ratings.first_name}, {result.missing[0]} of {result.rows} missing",
        f"second  {ratings.second_name}, {result.missing[1]} of {result.rows} missing",
        f"both    {result.items} items{units}",
        "",
        _estimate_line("kappa, quadratic", result.kappa, result.resamples),
        _estimate_line("Spearman", result.spearman, result.resamples),
        _estimate_line("alpha, ordinal", result.alpha, result.resamples),
        f"{'exact':<18}{result.exact:6.3f}",
        f"{'within one':<18}{result.within_one:6.3f}",
        f"{'mean difference':<18}{result.bias:+6.3f}  second − first",
        "",
        "rows: first, columns: second",
    ]
    width = max(len(str(count)) for row in (result.categories, *result.confusion) for count in row) + 2
    cells = [["", *map(str, result.categories)]]
    cells += [[str(name), *map(str, row)] for name, row in zip(result.categories, result.confusion, strict=True)]
    lines += ["".join(f"{cell:>{width}}" for cell in row) for row in cells]
    resampled, word = (result.items, "items") if result.clusters is None else (result.clusters, "clusters")
    if resampled < FEW:
        lines += ["", f"The intervals rest on fewer than {FEW} {word} ({resampled}): they are rough."]
    return "\n".join(lines)


def _estimate_line(name: str, one: "Estimate", resamples: int) -> str:
    if one.value is None:
        return f"{name:<18}     –  undefined: too few items, or no variation"
    said = "no interval" if one.low is None else f"95 % {one.low:6.3f} to {one.high:6.3f}"
    left_out = f", {one.undefined} of {resamples} resamples undefined" if one.undefined else ""
    return f"{name:<18}{one.value:6.3f}  {said}{left_out}"

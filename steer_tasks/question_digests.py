"""How a question is recognised without its text being kept here: a digest each. Standard library and rows only.

`mmlu_dev_digests.csv` lists, in dataset order, the 285 rows of split `dev` of config `all` of `cais/mmlu`
(five per subject, 57 subjects) and the accepted variants of some of them. Its columns are the question's id
(`subject/row within the subject`), a kind, and SHA-256. The kinds:

- `original`: the row as the hub has it.
- `spacing`: the same characters with white space where the original has none, or the other way round.
- `wording`: the same question with the same right answer, other punctuation or a mended typing error; each was
  compared by hand (`tests/make_digests.py` makes the file, and says which were refused and why).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from model_adapters.errors import SteerError
from steer_tasks.question_rows import LETTERS, Row

TABLE = "mmlu_dev_digests.csv"
SUBSETS: Mapping[str, range] = MappingProxyType({"mmlu_171": range(0, 3), "mmlu_114": range(3, 5)})
"""Which rows of each subject belong to which set: the first three, and the other two."""


@dataclass(frozen=True)
class Known:
    """What a digest stands for: the kind of the variant (`original`, `spacing`, `wording`) and the question's id.

    There may be two ids: the split holds college_physics/0 again as college_physics/3.
    """

    ids: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Table:
    """The committed digests: `known` finds a question by digest, `originals` holds id -> digest in dataset order."""

    known: Mapping[str, Known]
    originals: Mapping[str, str]

    def ids(self, name: str) -> tuple[str, ...]:
        """The ids of a set (`mmlu_171` or `mmlu_114`) in dataset order; a SteerError for any other name."""
        if name not in SUBSETS:
            raise SteerError(f"no question set is called {name!r}: take {' or '.join(SUBSETS)}")
        return tuple(id_ for id_ in self.originals if int(id_.rpartition("/")[2]) in SUBSETS[name])


def normalised(text: str) -> str:
    """The text with each run of Unicode white space (as `str.split` sees it) as one space, and none at the ends."""
    return " ".join(text.split())


def row_digest(row: Row) -> str:
    """SHA-256 of a row's content, in hexadecimal: equal for rows that differ in runs of white space only.

    Hashed is the JSON array `[subject, question, [choice, ...], letter]`, its texts normalised, non-ASCII escaped,
    no spaces between items.
    """
    content = [
        normalised(row.subject),
        normalised(row.question),
        [normalised(choice) for choice in row.choices],
        LETTERS[row.answer],
    ]
    return hashlib.sha256(json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def joint_digest(digests: Iterable[tuple[str, str]]) -> str:
    """First 16 hexadecimal digits of SHA-256 over the lines `id digest`, in ascending order of id.

    A row accepted as `spacing` counts with its original's digest; one accepted as `wording` with its own, because a
    model was asked something else.
    """
    lines = sorted(f"{id_} {digest}" for id_, digest in digests)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@cache
def committed() -> Table:
    """The digests that are committed with this package."""
    known: dict[str, Known] = {}
    originals: dict[str, str] = {}
    for line in files("steer_tasks").joinpath(TABLE).read_text("utf-8").splitlines()[1:]:
        id_, kind, digest = line.split(",")
        same = known[digest].ids if digest in known else ()
        known[digest] = Known((*same, id_), kind)
        if kind == "original":
            originals[id_] = digest
    return Table(MappingProxyType(known), MappingProxyType(originals))

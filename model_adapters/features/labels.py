"""Labels of features: read from the layouts they are published in, searched without a network.

scikit-learn is imported by the search only.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from model_adapters.errors import SteerError

INDEX_NAMES = ("index", "index_in_sae", "feature", "feature_index")
LABEL_NAMES = ("label", "description", "labels", "explanation")
"""What rows call a feature's index and its label."""


class Labels(Mapping[int, str]):
    """Labels by index; features without one are not in it.

    Search is TF-IDF over words and parts of words (scikit-learn's `char_wb` n-grams of 3 to 5 characters, so that
    "joking" finds "jokes"), compared by cosine. It needs no model, no network, and gives the same order every time.
    """

    def __init__(self, by_index: Mapping[int, str]) -> None:
        self._by_index = dict(sorted(by_index.items()))

    def __getitem__(self, index: int) -> str:
        return self._by_index[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_index)

    def __len__(self) -> int:
        return len(self._by_index)

    def of(self, index: int) -> str:
        """The label of a feature; `feature N` where it has none."""
        return self._by_index.get(index, f"feature {index}")

    def search(self, query: str, limit: int) -> list[tuple[int, float]]:
        """Features whose labels fit a text, best first: (index, cosine in [0, 1]). None that fit nothing."""
        return self.rerank(query, list(self._by_index), limit, at_least=1e-9)

    def rerank(self, query: str, indices: Sequence[int], limit: int, at_least: float = 0.0) -> list[tuple[int, float]]:
        """The given features ordered by how well their labels fit, equal ones in the order given; unlabelled last."""
        if not self._by_index or not indices:
            return [(index, 0.0) for index in indices][:limit] if at_least <= 0 else []
        vectorizer, table, places = self._table
        scores = (table @ vectorizer.transform([query]).T).toarray()[:, 0]
        scored = [(index, float(scores[places[index]]) if index in places else 0.0) for index in indices]
        fitting = [pair for pair in scored if pair[1] >= at_least]
        return sorted(fitting, key=lambda pair: -pair[1])[:limit]

    @cached_property
    def _table(self) -> tuple[Any, Any, dict[int, int]]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, lowercase=True)
        table = vectorizer.fit_transform(self._by_index.values())
        return vectorizer, table, {index: place for place, index in enumerate(self._by_index)}


def read_labels(path: str | Path, n_features: int | None = None) -> Labels:
    """Labels from JSON (`{index: label}`, a list of rows, or `[{"vectors": [{index, labels}]}]`), JSONL or CSV rows.

    Rows have an index (`index`, `feature`, …) and a label (`label`, `description`, `labels` as a list of one); a
    `.gz` is unpacked. Raises SteerError for other layouts, an index twice, and one of `n_features` or above.
    """
    path = Path(path).expanduser()
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as problem:
        raise SteerError(f"{path}: labels can't be read ({problem}); give JSON, JSONL or CSV") from problem
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    found: dict[int, str] = {}
    for index, label in _pairs(path, kind, text):
        if index in found:
            raise SteerError(f"{path}: feature {index} has two labels; keep one")
        if n_features is not None and index >= n_features:
            raise SteerError(f"{path}: feature {index} is out of range; the dictionary has {n_features}")
        found[index] = label
    return Labels(found)


def _pairs(path: Path, kind: str, text: str) -> Iterator[tuple[int, str]]:
    if kind == ".csv":
        yield from _rows(path, csv.DictReader(io.StringIO(text)))
    elif kind == ".jsonl":
        yield from _rows(path, (_parsed(path, line) for line in text.splitlines() if line.strip()))
    else:
        whole = _parsed(path, text)
        if isinstance(whole, dict) and "vectors" not in whole:
            for key, label in whole.items():
                yield _index(path, key), _label(path, key, label)
            return
        lists = [whole] if isinstance(whole, dict) else whole
        if not isinstance(lists, list):
            raise SteerError(f"{path}: labels are an object or a list, not {type(whole).__name__}")
        for one in lists:
            yield from _rows(path, one["vectors"] if isinstance(one, dict) and "vectors" in one else [one])


def _rows(path: Path, rows: Iterable[Any]) -> Iterator[tuple[int, str]]:
    for row in rows:
        if not isinstance(row, Mapping):
            raise SteerError(f"{path}: a row is {type(row).__name__}; it has an index and a label")
        index = next((row[name] for name in INDEX_NAMES if row.get(name) is not None), None)
        label = next((row[name] for name in LABEL_NAMES if row.get(name) is not None), None)
        if index is None or label is None:
            raise SteerError(f"{path}: a row has {', '.join(map(str, row))}; it needs index and label")
        yield _index(path, index), _label(path, index, label)


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise SteerError(f"{path}: not JSON ({problem}); give JSON, JSONL or CSV") from problem


def _index(path: Path, given: object) -> int:
    # ASCII only: other scripts' digits are digits to Python too.
    if isinstance(given, bool) or not (str(given).isascii() and str(given).strip().isdigit()):
        raise SteerError(f"{path}: {given!r} is no index; indices are whole numbers from 0")
    return int(str(given))


def _label(path: Path, index: object, given: Any) -> str:
    one = given[0] if isinstance(given, list) and len(given) == 1 else given
    if not isinstance(one, str):
        raise SteerError(f"{path}: the label of feature {index} is {given!r}; it is a text, or a list of one")
    return one

"""Where the questions may come from when the user gives no file: the hub, then lm-eval's own development questions.

Imports neither torch nor lm-eval (its folder is found without importing it); hub, HTTP and YAML inside functions.
"""

import os
import re
import threading
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from model_adapters.errors import SteerError
from steer_tasks.question_rows import LETTERS, Row, parquet_rows

REPOSITORY = "cais/mmlu"
# The long-standing head of the repository's main branch. The digests are what is trusted, whatever this serves.
REVISION = "c30699e8356da336a370243923dbaf21066bb9fe"
FILE = "all/dev-00000-of-00001.parquet"
PROBE_S = 4.0

_SAMPLE = re.compile(r"(.*?)\s*\n\s*\(A\)(.*)\(B\)(.*)\(C\)(.*)\(D\)(.*)", re.DOTALL)
_TARGET = re.compile(r"the answer is \(([A-Z])\)", re.IGNORECASE)


class Unavailable(Exception):
    """A source that isn't there; the text says why in a few words."""


def hub_rows() -> tuple[list[Row], str]:
    """The rows of the hub's development split, from its local cache or else the network, and a short name for it.

    Raises Unavailable within seconds where there is neither; a file that is there but unreadable is a SteerError.
    """
    name = f"{REPOSITORY} at {REVISION[:12]}, config all, split dev"
    if cached := cached_file():
        return parquet_rows(cached), f"{name} (the hub's local cache)"
    from huggingface_hub import constants

    if _is_offline():
        raise Unavailable("HF_HUB_OFFLINE is set and the hub's cache lacks it")
    if refusal := hub_refusal(constants.ENDPOINT):
        raise Unavailable(refusal)
    return parquet_rows(_download()), f"{name} (the hub)"


def cached_file() -> Path | None:
    """The file at the pinned revision in the hub's local cache, or None."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(
        REPOSITORY, FILE, cache_dir=constants.HF_HUB_CACHE, revision=REVISION, repo_type="dataset"
    )
    return Path(found) if isinstance(found, str) else None


def _is_offline() -> bool:
    from huggingface_hub import constants

    # The constant is read when the hub's package is imported; a variable set since then counts too.
    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@cache
def hub_refusal(endpoint: str) -> str | None:
    """Why the hub at `endpoint` can't serve the file, or None when it can; asked once a process, for 4 s at most."""
    answer: list[str | None] = []

    def ask() -> None:
        import httpx

        url = f"{endpoint}/datasets/{REPOSITORY}/resolve/{REVISION}/{FILE}"
        try:
            status = httpx.head(url, timeout=PROBE_S - 1).status_code
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            answer.append(f"{endpoint} can't be reached: {type(error).__name__}")
        else:
            answer.append(None if status < 400 else f"{endpoint} answers {status}")

    # In a thread, because no time limit of a client covers the look-up of a name.
    probe = threading.Thread(target=ask, daemon=True)
    probe.start()
    probe.join(PROBE_S)
    return answer[0] if answer else f"{endpoint} doesn't answer within {PROBE_S:.0f} s"


def _download() -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(REPOSITORY, FILE, revision=REVISION, repo_type="dataset", etag_timeout=PROBE_S))
    except Exception as error:  # which classes these are depends on the hub's release and its transport
        raise Unavailable(f"the download from the hub failed: {type(error).__name__}") from error


def lm_eval_rows() -> tuple[list[Row], str]:
    """The development questions that lm-eval ships as chain-of-thought examples, and a short name for them.

    They stand in another order than the dataset's, some are edited, and not all are there; a sample that isn't a
    question with four choices and one answer is left out. Raises Unavailable where lm-eval isn't installed.
    """
    spec = find_spec("lm_eval")
    places = spec.submodule_search_locations if spec else None
    folder = Path(next(iter(places))) / "tasks/mmlu/flan_cot_fewshot" if places else None
    found = sorted(folder.glob("mmlu_*.yaml")) if folder else []
    if not found:
        raise Unavailable("lm-eval's own development questions aren't installed")
    try:
        release = version("lm_eval")
    except PackageNotFoundError:
        release = "of unknown version"
    rows = [row for path in found for row in sample_rows(path.read_text("utf-8"), path.name)]
    return rows, f"lm-eval {release}'s own development questions"


def sample_rows(text: str, name: str) -> list[Row]:
    """Rows of one of lm-eval's task files, whose examples hold question and choices in one text.

    A sample's `question` ends in the four choices, marked (A) to (D) from a new line on; its `target` says once that
    "the answer is (X)". A text that isn't YAML, or holds no samples, is a SteerError.
    """
    import yaml

    try:
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        samples = [(str(sample["question"]), str(sample["target"])) for sample in found["fewshot_config"]["samples"]]
        subject = str(found["dataset_name"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise SteerError(f"{name} of lm-eval isn't as expected; reinstall lm-eval, or set STEER_TASKS_MMLU") from error
    rows = []
    for number, (question, target) in enumerate(samples, 1):
        parts, letters = _SAMPLE.fullmatch(question), _TARGET.findall(target)
        if parts and len(letters) == 1 and letters[0] in LETTERS:
            choices = tuple(choice.strip() for choice in parts.groups()[1:])
            rows.append(Row(subject, parts[1].strip(), choices, LETTERS.index(letters[0]), f"{name}, sample {number}"))
    return rows

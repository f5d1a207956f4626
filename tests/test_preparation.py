"""Preparation: one search per key, found again by every later run; doses by hand; what is stored and what refused."""

# Vectors and files are given as lists and texts here, which the product takes.
# mypy: disable-error-code="arg-type"

import asyncio
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from model_adapters.backend import Message, Messages
from model_adapters.behavior import Behavior, Contrast, neutral_prompts
from model_adapters.cache import cache_folder
from model_adapters.dose import doses_of, residual_norms, with_dose
from model_adapters.errors import Refused, SteerError, SteeringFileError
from model_adapters.method import Context, SteeringMethod
from model_adapters.methods.caa import CAA
from model_adapters.methods.combined import Combined
from model_adapters.methods.control import Control
from model_adapters.methods.prompt import SimplePrompt
from model_adapters.methods.random_vector import RandomVector
from model_adapters.preparation import Prepared, preparation_key, prepare, store
from model_adapters.steering import CONTROL, AblateDirection, AddVector, Steering, SystemPrompt
from model_adapters.steering_file import load_steering, save_steering
from tests.fake_backend import IDENTITY, ReadingBackend, SpeakingBackend

pytestmark = pytest.mark.usefixtures("empty_cache")

ROOT = Path(__file__).resolve().parent.parent
GLAD = Behavior(
    "glad",
    "be glad",
    "For these tests.",
    (Contrast("How?", "joy joy fun", "dull"), Contrast("Why?", "fun", "grey dull grey")),
)
EMBEDDINGS = {"joy": [3, 0, 0], "fun": [0, 3, 0], "dull": [0, 0, 1], "grey": [0, 0, 4]}
SEARCH = 4
"""Answers read in one search: two contrasts of two answers."""


def says_joy_dull(messages: Messages) -> str:
    return "joy dull"


def reading(**given: Any) -> ReadingBackend:
    return ReadingBackend(**{"answer": says_joy_dull, "embeddings": EMBEDDINGS, **given})


def run(method: SteeringMethod, behavior: Behavior | None = GLAD, backend: Any = None, **given: Any) -> Prepared:
    return asyncio.run(prepare(method, behavior, backend or reading(), **given))


def stored(folder: str = "preparations") -> list[str]:
    """Every file but locks, hidden ones included."""
    return sorted(one.name for one in cache_folder(folder).iterdir() if one.suffix != ".lock")


def added(steering: Steering) -> AddVector:
    (one,) = steering.interventions
    assert isinstance(one, AddVector)
    return one


# Once


def test_a_search_runs_once():
    """The second preparation reads nothing from the model and gives the same steering in the same file."""
    backend = reading()
    first, second = (run(CAA(layer=2, coefficient=1.0), backend=backend) for _ in range(2))
    assert len(backend.read) == SEARCH
    assert second == first
    assert load_steering(first.path) == first.steering
    assert first.path == cache_folder("steerings") / f"{first.steering.fingerprint}.json"
    assert added(first.steering).vector.tolist() == [3.0, 6.0, -6.0]


ELSEWHERE = """
import asyncio, json
from tests.test_preparation import CAA, GLAD, prepare, reading
backend = reading()
found = asyncio.run(prepare(CAA(layer=2, dose=0.3), GLAD, backend))
print(json.dumps([len(backend.read), len(backend.asked), found.steering.fingerprint, str(found.path)]))
"""


def elsewhere() -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", ELSEWHERE], env=environment, stdout=subprocess.PIPE, text=True)


def outcome(process: "subprocess.Popen[str]") -> list[Any]:
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    answer: list[Any] = json.loads(said.splitlines()[-1])
    return answer


def test_another_process_finds_it_again():
    """A later process with the same cache neither searches nor measures norms, and has the same steering and file."""
    here = run(CAA(layer=2, dose=0.3))
    assert outcome(elsewhere()) == [0, 0, here.steering.fingerprint, str(here.path)]


def test_two_processes_search_once():
    """Of two processes that prepare the same at once, one searches and measures, and the other finds its result."""
    processes = [elsewhere(), elsewhere()]
    one, two = (outcome(process) for process in processes)
    assert one[2:] == two[2:]
    assert one[0] + two[0] == SEARCH + len(neutral_prompts())
    assert one[1] + two[1] == len(neutral_prompts())


def test_two_coroutines_search_once():
    """Two preparations at once in one event loop neither search twice nor wait for each other for ever."""
    backend = reading()

    async def both() -> list[Prepared]:
        wanted = (prepare(CAA(layer=2, dose=dose), GLAD, backend) for dose in (0.3, 0.3, 0.5))
        return await asyncio.wait_for(asyncio.gather(*wanted), 30)

    first, second, third = asyncio.run(both())
    assert len(backend.read) == SEARCH + len(neutral_prompts())
    assert first == second != third


def test_two_threads_search_once():
    """Two threads, each with a loop of its own, share one search."""
    backend, found = reading(), []
    threads = [threading.Thread(target=lambda: found.append(run(CAA(coefficient=1.0), backend=backend))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(backend.read) == SEARCH
    assert found[0] == found[1]


def test_a_sweep_shares_one_search():
    """Other coefficients and doses are applied to the stored search, so a sweep reads the contrasts once."""
    backend = reading()
    methods = [CAA(layer=2, coefficient=k) for k in (0.5, 1.0, -2.0)] + [CAA(layer=2, dose=d) for d in (0.1, 0.3)]
    found = [run(method, backend=backend).steering for method in methods]
    assert len(backend.read) == SEARCH + len(neutral_prompts())
    assert len([name for name in stored() if name.endswith(".json")]) == 1
    assert [added(one).coefficient for one in found[:3]] == [0.5, 1.0, -2.0]
    assert {added(one).vector.tobytes() for one in found} == {added(found[0]).vector.tobytes()}
    assert len({one.fingerprint for one in found}) == 5


# The key

BASE: dict[str, Any] = {"method": CAA(layer=1, coefficient=1.0), "behavior": GLAD, "backend": reading(), "draw": 0}


def key(**changed: Any) -> str:
    given = {**BASE, **changed}
    return preparation_key(given.pop("method"), given.pop("behavior"), given.pop("backend"), **given)


def with_identity(**changed: Any) -> ReadingBackend:
    return reading(identity=replace(IDENTITY, **changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"draw": 1},
        {"behavior": replace(GLAD, text="be very glad")},
        {"behavior": replace(GLAD, contrasts=GLAD.contrasts[:1])},
        {"method": CAA(layer=2, coefficient=1.0)},
        {"method": CAA(layer=1, coefficient=1.0, contrasts="own")},
        {"method": SimplePrompt()},
        {"backend": with_identity(model_digest="1" * 16)},
        {"backend": with_identity(model_digest=None)},
        {"backend": with_identity(revision="other")},
        {"backend": with_identity(dtype="bfloat16")},
        {"backend": with_identity(template_digest="other")},
        {"backend": with_identity(arguments={"template_arguments": "thinking"})},
        {"backend": with_identity(dictionary_digest="other")},
        {"writer": SpeakingBackend()},
        {"writer": SpeakingBackend(identity=replace(IDENTITY, dtype="bfloat16"))},
        {"steerings": {"match": Steering((AddVector(0, [1.0]),))}},
        {"steerings": {"match": Steering((AddVector(0, [2.0]),))}},
    ],
)
def test_what_the_search_depends_on_makes_a_new_preparation(changed):
    """Draw, behavior, method, its search's parameters, model, dtype, template, writer and named steerings are keyed."""
    others: list[dict[str, Any]] = [{}, {"draw": 2}, {"steerings": {"match": CONTROL}}]
    others.append({"writer": SpeakingBackend(identity=replace(IDENTITY, dtype="float16"))})
    assert key(**changed) not in {key(**other) for other in others}
    assert key(**changed) == key(**changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": CAA(layer=1, coefficient=7.0)},
        {"method": CAA(layer=1, dose=0.3)},
        {"backend": with_identity(name="/elsewhere/model")},
        {"backend": with_identity(template_mode="always")},
        {"behavior": replace(GLAD)},
    ],
)
def test_what_the_search_doesn_t_depend_on_shares_a_preparation(changed):
    """Coefficient, dose, and where the same weights lie make no new preparation."""
    assert key(**changed) == key()


def test_a_file_counts_by_its_content(tmp_path):
    """A placebo's match under another path is the same preparation; other content under the same path is another."""
    match = save_steering(Steering((AddVector(1, [3.0, 4.0, 0.0]),)), tmp_path / "one")
    moved = save_steering(load_steering(match), tmp_path / "elsewhere" / "two")
    first = run(RandomVector(match=str(match)))
    assert run(RandomVector(match=str(moved))).steering == first.steering
    assert len([name for name in stored() if name.endswith(".json")]) == 1
    save_steering(Steering((AddVector(1, [6.0, 8.0, 0.0]),)), match)
    second = run(RandomVector(match=str(match)))
    assert len([name for name in stored() if name.endswith(".json")]) == 2
    lengths = [float(np.linalg.norm(added(one.steering).vector)) for one in (first, second)]
    assert lengths == pytest.approx([5.0, 10.0], rel=1e-6)


def test_combined_takes_two_files(tmp_path):
    """Two stored steerings, one of them a prompt, become one, each found by its parameter's name."""
    prompt = run(SimplePrompt())
    vector = run(CAA(layer=2, coefficient=0.5))
    both = run(Combined(first=str(prompt.path), second=str(vector.path)), None)
    assert both.steering == prompt.steering + vector.steering
    with pytest.raises(SteeringFileError, match="no such steering file"):
        run(Combined(first=str(tmp_path / "no.json"), second=str(vector.path)), None)


@dataclass(frozen=True)
class Sampled:
    """Finds a vector of its draw and of how often it searched."""

    name: ClassVar[str] = "sampled"
    found: ClassVar[list[int]] = []

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """Counts."""
        self.found.append(context.draw)
        return Steering((AddVector(0, [1.0, float(context.draw), float(len(self.found))]),))


def test_a_redraw_searches_again_and_replaces():
    """Another draw is another preparation; `redraw` searches the same one again, and later runs find the new result."""
    Sampled.found.clear()
    first, other = run(Sampled()), run(Sampled(), draw=1)
    again = run(Sampled(), redraw=True)
    assert Sampled.found == [0, 1, 0]
    assert [added(one.steering).vector.tolist() for one in (first, other, again)] == [[1, 0, 1], [1, 1, 2], [1, 0, 3]]
    assert run(Sampled()) == again
    assert run(Sampled(), draw=1) == other
    assert load_steering(first.path) == first.steering  # what earlier results name is still there


# Doses


def test_norms_are_means_over_all_response_tokens():
    """By hand: 24 answers, one `joy joy joy` and 23 `dull`, so (3·3 + 23·1) / 26, times 1 to 4 for the four blocks."""
    first = neutral_prompts()[0]
    backend = reading(answer=lambda messages: "joy joy joy" if messages[-1].content == first else "dull")
    assert len(neutral_prompts()) == 24
    norms = asyncio.run(residual_norms(backend))
    assert norms == pytest.approx([layer * 32 / 26 for layer in (1, 2, 3, 4)], rel=1e-12)
    assert [request.prompt for request in backend.asked] == [(Message("user", one),) for one in neutral_prompts()]
    assert {(one.sampling.max_tokens, one.sampling.is_greedy, one.steering) for one in backend.asked} == {
        (64, True, CONTROL)
    }


def test_norms_are_measured_once_per_model():
    """Norms are stored under the model's identity; the same model is not asked again, another dtype is."""
    one, again, other = reading(), reading(), with_identity(dtype="bfloat16")
    assert asyncio.run(residual_norms(one)) == asyncio.run(residual_norms(again))
    asyncio.run(residual_norms(other))
    assert [len(backend.asked) for backend in (one, again, other)] == [24, 0, 24]
    assert stored("norms") == sorted(f"{backend.identity.digest}.json" for backend in (one, other))
    document = json.loads((cache_folder("norms") / f"{one.identity.digest}.json").read_text())
    assert document == {"model": IDENTITY.as_dict(), "tokens": 48, "norms": [2.0, 4.0, 6.0, 8.0]}


def test_a_dose_is_relative_to_the_residual():
    """By hand: the vector (3, 6, -6) of length 9 at a residual of mean length 6 gets coefficient 0.3 · 6 / 9 = 0.2."""
    found = run(CAA(layer=2, dose=0.3)).steering
    assert added(found).vector.tolist() == [3.0, 6.0, -6.0]
    assert added(found).coefficient == pytest.approx(0.2, rel=1e-12)
    assert doses_of(found, (2.0, 4.0, 6.0, 8.0)) == pytest.approx({2: 0.3}, rel=1e-12)
    assert found.provenance["residual_norms"] == {"2": 6.0}
    assert added(run(CAA(layer=2, dose=-0.3)).steering).coefficient == -added(found).coefficient


def test_every_added_vector_gets_the_dose():
    """Each vector is sized at its own layer, whatever coefficient it had; other interventions stay as they are."""
    prompt, ablate = SystemPrompt("Be glad."), AblateDirection(0, [1.0])
    steering = Steering((prompt, AddVector(0, [4.0], 9.0), ablate, AddVector(2, [0.5], -1.0, "all")), {"kept": True})
    sized = with_dose(steering, 0.5, (2.0, 4.0, 8.0))
    assert sized == Steering((prompt, AddVector(0, [4.0], 0.25), ablate, AddVector(2, [0.5], 8.0, "all")))
    assert sized.provenance == {"kept": True}


def test_doses_of_one_layer_are_of_the_sum():
    """Vectors at one layer add up before their length is taken: (3, 0) and (0, 4) are 5 long, and v - v is nothing."""
    one, two = AddVector(1, [3.0, 0.0]), AddVector(1, [0.0, 2.0], 2.0)
    assert doses_of(Steering((one, two)), (1.0, 10.0)) == {1: 0.5}
    assert doses_of(Steering((one, replace(one, coefficient=-1.0))), (1.0, 10.0)) == {1: 0.0}
    assert doses_of(CONTROL, (1.0,)) == {}


def test_a_dose_needs_a_vector():
    """A zero vector and a steering without vectors have no dose."""
    with pytest.raises(SteerError, match="the vector at layer 0 is zero; it has no dose"):
        with_dose(Steering((AddVector(0, [0.0]),)), 0.3, (1.0,))
    with pytest.raises(SteerError, match="this steering adds none; leave dose out"):
        with_dose(Steering((SystemPrompt("Be glad."),)), 0.3, (1.0,))


def test_dose_zero_does_nothing():
    """A vector at dose 0 or coefficient 0 has coefficient 0, and both are the same steering."""
    zeros = [run(method).steering for method in (CAA(layer=2, dose=0.0), CAA(layer=2, coefficient=0.0))]
    assert [added(one).coefficient for one in zeros] == [0.0, 0.0]
    assert zeros[0].fingerprint == zeros[1].fingerprint


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (reading(answer=lambda messages: ""), "the unsteered model says nothing"),
        (reading(embeddings={**EMBEDDINGS, "dull": [math.inf, 0, 0]}), "activations hold NaN or infinity"),
        (SpeakingBackend(), "method dose needs a backend that reads activations"),
    ],
)
def test_norms_that_can_t_be_measured_are_refused(backend, said):
    """A silent model, activations that aren't finite and a backend without activations are refused; nothing is kept."""
    with pytest.raises(Refused, match=said):
        asyncio.run(residual_norms(backend))
    assert stored("norms") == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}"]
    + [f'{{"norms": {norms}}}' for norms in ("3", "[1, 2]", '[1, 2, 3, "x"]', "[1, 2, 3, NaN]", "[0, 1, 2, 3]")],
)
def test_broken_norms_are_named(text):
    """A file of norms that is cut, altered or of another model is refused by its path, with the remedy."""
    path = cache_folder("norms") / f"{IDENTITY.digest}.json"
    path.write_text(text)
    with pytest.raises(SteerError) as caught:
        asyncio.run(residual_norms(reading()))
    assert str(caught.value).startswith(f"{path}: not ")
    assert str(caught.value).endswith("delete it to measure them again")


# What is recorded


def test_provenance_says_where_a_steering_came_from():
    """Method, parameters, behavior, draw, model, contrasts, norms, versions and date are in the stored file."""
    provenance = load_steering(run(CAA(layer=2, dose=0.3), draw=5).path).provenance
    assert provenance["method"] == "caa"
    assert provenance["parameters"] == {
        "layer": 2,
        "coefficient": None,
        "dose": 0.3,
        "positions": "response",
        "contrasts": "auto",
    }
    assert provenance["behavior"] == {"slug": "glad", "text": "be glad", "digest": GLAD.digest}
    assert provenance["draw"] == 5
    assert provenance["model"] == IDENTITY.as_dict()
    assert provenance["contrast_pairs"] == 2
    assert len(provenance["contrast_digest"]) == 16
    assert set(provenance["versions"]) == {"steer-tasks", "torch", "transformers", "numpy"}
    assert provenance["date"].endswith("+00:00")


def test_storing_twice_keeps_the_first():
    """A steering is stored under its fingerprint; storing it again changes no byte, and a broken file is replaced."""
    steering = Steering((AddVector(0, [1.0]),), {"note": "first"})
    path = store(steering)
    before = path.read_bytes()
    assert store(steering.described(note="second")) == path
    assert path.read_bytes() == before
    path.with_suffix(".safetensors").write_bytes(b"cut")
    store(steering)
    assert load_steering(path) == steering


# What is refused


def test_a_method_without_its_behavior_is_refused():
    """A method that needs a behavior says so before anything is asked; one that doesn't runs without."""
    backend = reading()
    for method in (CAA(dose=0.3), SimplePrompt()):
        with pytest.raises(SteerError) as caught:
            run(method, None, backend)
        assert str(caught.value) == (
            f"method {method.name} needs behavior=…; `steer behaviors` lists them, other text works too"
        )
    assert (backend.asked, backend.read) == ([], [])
    assert run(Control(), None).steering == CONTROL
    assert run(RandomVector(layer=0, dose=0.3), None).steering.layers == (0,)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (CAA(dose=0.3, coefficient=1.0), "both coefficient and dose are given"),
        (CAA(), "give one of dose=…, coefficient=…"),
        (CAA(layer=-1, dose=0.3), "caa.layer is -1"),
        (RandomVector(match="a.json", dose=0.3), "match sets layers, positions and norms"),
    ],
)
def test_contradicting_parameters_are_refused_for_methods_made_in_python(method, said):
    """A method made directly is checked like one built from text, before anything is asked or read."""
    backend = reading()
    with pytest.raises(SteerError, match=said):
        run(method, GLAD, backend)
    assert (backend.asked, backend.read) == ([], [])


@pytest.mark.parametrize("draw", [-1, 1.0, True, "1", None])
def test_a_draw_is_a_whole_number(draw):
    """A draw that is negative or no whole number is refused by name."""
    with pytest.raises(SteerError) as caught:
        run(Control(), None, draw=draw)
    assert str(caught.value) == f"draw is {draw!r}; draws are whole numbers from 0"


def test_what_the_backend_can_t_run_is_refused_before_anything_is_spent():
    """A layer that isn't there is refused before norms are measured, and nothing is stored."""
    backend = reading()
    with pytest.raises(Refused) as caught:
        run(RandomVector(layer=99, dose=0.3), None, backend)
    assert str(caught.value) == "AddVector: layer 99 is out of range; fake/model has layers 0 to 3"
    assert (backend.asked, backend.read) == ([], [])
    assert stored() == stored("steerings") == []


def test_what_was_prepared_elsewhere_is_refused_where_it_can_t_run():
    """A stored search that this backend can't run is refused by the backend's reasons."""
    run(CAA(coefficient=1.0))
    with pytest.raises(Refused, match="fake: AddVector can't be applied; use a local model"):
        run(CAA(coefficient=1.0), GLAD, SpeakingBackend())


def altered_number(path: Path) -> None:
    document = json.loads(path.read_text())
    document["interventions"][0]["coefficient"] = 2.0
    path.write_text(json.dumps(document))


def altered_vector(path: Path) -> None:
    file = path.with_suffix(".safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


@pytest.mark.parametrize("alter", [altered_number, altered_vector, lambda path: path.write_text("{")])
def test_an_altered_preparation_is_refused(alter):
    """A stored search that was altered is refused by its path and with the remedy, and the remedy works."""
    before = run(CAA(coefficient=1.0))
    path = cache_folder("preparations") / next(name for name in stored() if name.endswith(".json"))
    alter(path)
    backend = reading()
    with pytest.raises(SteeringFileError) as caught:
        run(CAA(coefficient=1.0), backend=backend)
    assert str(caught.value).startswith(str(path.with_suffix("")))
    assert str(caught.value).endswith("prepare it again (with redraw=true)")
    assert backend.read == []
    assert run(CAA(coefficient=1.0), redraw=True).steering == before.steering
    assert run(CAA(coefficient=1.0)).steering == before.steering


def test_a_failed_search_stores_nothing_and_frees_the_lock():
    """A search that fails or is cancelled leaves no file, and the next one runs."""
    broken = reading(embeddings={**EMBEDDINGS, "joy": [math.nan, 0, 0]})
    with pytest.raises(Refused, match="give no difference"):
        run(CAA(coefficient=1.0), backend=broken)

    async def cancelled() -> None:
        task = asyncio.create_task(prepare(CAA(coefficient=1.0), GLAD, reading()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert stored() == stored("steerings") == []
    backend = reading()
    run(CAA(coefficient=1.0), backend=backend)
    assert len(backend.read) == SEARCH


def test_a_preparation_can_be_carried_to_another_cache(tmp_path, monkeypatch):
    """A cache folder that was copied is a cache: nothing in it names where it lies."""
    before = run(CAA(layer=2, dose=0.3))
    shutil.copytree(cache_folder(), tmp_path / "moved")
    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path / "moved"))
    backend = reading()
    after = run(CAA(layer=2, dose=0.3), backend=backend)
    assert (backend.read, backend.asked) == ([], [])
    assert after.steering == before.steering
    assert after.path == tmp_path / "moved" / "steerings" / before.path.name

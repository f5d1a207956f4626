"""Methods: what every one of them keeps, how they are found and built, and the numbers of each."""

# Vectors and files are given as lists and texts here, which the product takes.
# mypy: disable-error-code="arg-type"

import asyncio
import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import MISSING, FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_adapters.backend import Backend, Likelihood, Message, Messages
from model_adapters.behavior import Behavior, Contrast, find_behavior, neutral_prompts
from model_adapters.errors import Refused, SteerError
from model_adapters.method import Context, SteeringMethod
from model_adapters.methods import build_method, method_class, method_names, parameter_fields, parameters_of
from model_adapters.methods.caa import CAA
from model_adapters.methods.combined import Combined
from model_adapters.methods.neutral_prompt import NeutralPrompt
from model_adapters.methods.prompt import SimplePrompt
from model_adapters.methods.random_vector import RandomVector, unit_vector
from model_adapters.steering import CONTROL, KINDS, AddVector, Steering, SystemPrompt
from model_adapters.steering_file import load_steering, save_steering
from tests.fake_backend import ReadingBackend, SpeakingBackend
from tests.tiny_dictionary import tiny_dictionary

ROOT = Path(__file__).resolve().parent.parent

GLAD = Behavior(
    "glad",
    "be glad",
    "For these tests.",
    (Contrast("How?", "joy joy fun", "dull"), Contrast("Why?", "fun", "grey dull grey")),
)
EMBEDDINGS = {"joy": [3, 0, 0], "fun": [0, 3, 0], "dull": [0, 0, 1], "grey": [0, 0, 4]}
TWO = Steering(
    (SystemPrompt("Be glad."), AddVector(1, [3.0, 4.0, 0.0], 2.0, "all"), AddVector(3, [0.0, 0.0, 0.5], -1.0))
)


def reading(**given: Any) -> ReadingBackend:
    return ReadingBackend(embeddings=EMBEDDINGS, **given)


def prepared(
    method: SteeringMethod, backend: Backend | None = None, behavior: Behavior = GLAD, **given: Any
) -> Steering:
    return asyncio.run(method.prepare(behavior, Context(backend or reading(), **given)))


def refusal(make: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(SteerError) as caught:
        make(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def added(steering: Steering) -> tuple[AddVector, ...]:
    assert all(isinstance(one, AddVector) for one in steering.interventions)
    return tuple(one for one in steering.interventions if isinstance(one, AddVector))


# The contract of every registered method


@pytest.fixture(params=method_names())
def method(request: pytest.FixtureRequest) -> SteeringMethod:
    """Every registered method, with the fewest parameters it can have."""
    known = {item.name: item for item in parameter_fields(method_class(request.param))}
    given: dict[str, object] = {
        key: f"{key}.json" for key, item in known.items() if item.default is item.default_factory is MISSING
    }
    fitting = {"edits": "1@0.5", "magnitude": 0.5, "everywhere": 1.0}
    given |= {key: value for key, value in fitting.items() if key in known}
    size = next((key for key in ("dose", "coefficient") if key in known), None)
    return build_method(request.param, {**given, **({size: 1.0} if size else {})})


def context(backend: Backend | None = None, draw: int = 0) -> Context:
    named = {"first": Steering((SystemPrompt("Be glad."),)), "second": Steering((AddVector(2, [1.0, 2.0, 3.0]),))}
    picks = SpeakingBackend(lambda _: '[{"index": 0, "value": 0.3}]')
    return Context(backend or reading(), picks, tiny_dictionary(), named, draw)


def test_a_method_changes_nothing_it_is_given(method):
    """Preparing leaves behavior, parameters and named steerings as they were, and a method can't be changed."""
    given, behavior = context(), GLAD
    before = copy.deepcopy((parameters_of(method), behavior, dict(given.steerings), given.draw))
    asyncio.run(method.prepare(behavior, given))
    assert (parameters_of(method), behavior, dict(given.steerings), given.draw) == before
    with pytest.raises((FrozenInstanceError, AttributeError)):
        method.anything = 1


@pytest.mark.parametrize("behavior", [GLAD, find_behavior("be a little glad")], ids=["contrasts", "free"])
def test_equal_inputs_give_equal_fingerprints(method, behavior):
    """The same method, behavior, model and draw find the same steering, bit for bit, in a second search."""
    found = [asyncio.run(method.prepare(behavior, context(draw=3))) for _ in range(2)]
    assert found[0].fingerprint == found[1].fingerprint
    assert found[0] == found[1]


def test_what_a_method_finds_can_be_kept(method, tmp_path):
    """What a method finds survives saving and loading, provenance included, and holds known interventions only."""
    found = asyncio.run(method.prepare(GLAD, context()))
    loaded = load_steering(save_steering(found, tmp_path / "found"))
    assert loaded == found
    assert loaded.provenance == found.provenance
    assert {type(one).__name__ for one in found.interventions} <= set(KINDS)


def test_a_method_says_what_a_backend_lacks(method):
    """On a backend that only speaks, a method either works or names itself, the capability and the remedy."""
    backend, problem = SpeakingBackend(), ""
    try:
        found = asyncio.run(method.prepare(GLAD, context(backend)))
    except Refused as refused:
        problem = str(refused)
    if problem:
        searcher = getattr(method, "search", method).name
        assert problem.startswith(f"method {searcher} needs a backend that reads activations; 'fake' doesn't: use ")
        assert backend.asked == []
    else:
        assert found == asyncio.run(method.prepare(GLAD, context()))
    assert bool(problem) or method.name not in ("auto_steer", "auto_steer_scaled", "caa", "random_vector")


def test_a_method_leaves_its_size_to_the_package(method):
    """A method with a coefficient or a dose gives vectors with coefficient 1, whatever the parameter says."""
    for size in {"coefficient", "dose"} & parameters_of(method).keys():
        none = {"coefficient": None, "dose": None}
        other = replace(method, **{key: none[key] for key in none.keys() & parameters_of(method).keys()} | {size: 0.7})
        found = asyncio.run(other.prepare(GLAD, context()))
        assert [one.coefficient for one in added(found)] == [1.0]
        assert found == asyncio.run(method.prepare(GLAD, context()))


def test_a_method_has_one_name(method):
    """A method is registered under the name it bears, and its class says in a docstring what it does."""
    assert method_class(method.name) is type(method)
    assert (type(method).__doc__ or "").strip()
    assert method_names() == tuple(sorted(method_names()))
    assert {"caa", "combined", "control", "prompt", "random_vector"} <= set(method_names())


# Adding a method

MINE = '''
from dataclasses import dataclass
from typing import ClassVar

from model_adapters.steering import AddVector, Steering


@dataclass(frozen=True)
class Mine:
    """Adds ones."""

    name: ClassVar[str] = "mine"
    layer: int = 1

    async def prepare(self, behavior, context):
        return Steering((AddVector(self.layer, [1.0] * context.backend.d_model),))
'''
USE = """
import asyncio, json
from model_adapters.behavior import find_behavior
from model_adapters.errors import SteerError
from model_adapters.methods import build_method, method_class, method_names
from model_adapters.preparation import prepare
from tests.fake_backend import ReadingBackend
try:
    found = asyncio.run(prepare(build_method("mine", {"layer": "2"}), find_behavior("funny"), ReadingBackend()))
except SteerError as problem:
    print(json.dumps(["refused", str(problem)]))
else:
    where = method_class("mine").__module__
    print(json.dumps([method_names(), where, found.steering.fingerprint, found.steering.provenance["method"]]))
"""


def in_a_fresh_interpreter(code: str, cache: Path, *paths: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *paths))),
            "STEER_TASKS_CACHE": str(cache),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def distribution(folder: Path, name: str, points: Mapping[str, str], source: str = MINE) -> Path:
    """An installed distribution with one module of that name and entry points for methods."""
    folder = folder / name
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"{key} = {value}\n" for key, value in points.items())
    (info / "entry_points.txt").write_text(f"[steer_tasks.methods]\n{lines}")
    return folder


def test_a_new_method_is_one_new_file(tmp_path):
    """A file put beside the other methods is found, built and prepared with no other edit."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text(MINE)
    extend = f"import model_adapters.methods; model_adapters.methods.__path__.append({str(tmp_path / 'methods')!r})\n"
    found = in_a_fresh_interpreter(extend + USE, tmp_path)
    expected = Steering((AddVector(2, [1.0, 1.0, 1.0]),))
    assert found == [sorted([*method_names(), "mine"]), "model_adapters.methods.mine", expected.fingerprint, "mine"]


def test_another_distribution_brings_a_method(tmp_path):
    """A method that another distribution names in the group `steer_tasks.methods` is found, built and prepared."""
    package = distribution(tmp_path, "theirs", {"mine": "theirs:Mine"})
    found = in_a_fresh_interpreter(USE, tmp_path, package)
    expected = Steering((AddVector(2, [1.0, 1.0, 1.0]),))
    assert found == [sorted([*method_names(), "mine"]), "theirs", expected.fingerprint, "mine"]


def test_two_methods_of_one_name_are_refused(tmp_path):
    """A name that two distributions claim is refused naming both modules, and so is one of the package's own."""
    one = distribution(tmp_path, "theirs", {"mine": "theirs:Mine"})
    two = distribution(tmp_path, "others", {"mine": "others:Mine"})
    status, said = in_a_fresh_interpreter(USE, tmp_path, one, two)
    assert status == "refused"
    assert said in [
        f"method 'mine' is defined by {first} and by {second}; uninstall or rename one"
        for first, second in (("theirs", "others"), ("others", "theirs"))
    ]
    caa = distribution(tmp_path, "rival", {"caa": "rival:Mine"}, MINE.replace('"mine"', '"caa"'))
    assert in_a_fresh_interpreter(USE, tmp_path, caa) == [
        "refused",
        "method 'caa' is defined by model_adapters.methods.caa and by rival; uninstall or rename one",
    ]


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ({"mine": "theirs:MINE"}, "entry point mine = theirs:MINE can't be loaded (module 'theirs' has no attribute"),
        ({"mine": "gone:Mine"}, "entry point mine = gone:Mine can't be loaded (No module named 'gone'); repair or"),
        ({"mine": "theirs:dataclass"}, "entry point mine = theirs:dataclass: not a method; it must be a frozen"),
        ({"yours": "theirs:Mine"}, "entry point yours = theirs:Mine: the method there is named 'mine'; give both"),
    ],
)
def test_a_broken_entry_point_is_named(tmp_path, points, said):
    """An entry point that can't be loaded, is no method or bears another name is refused in a line that names it."""
    status, problem = in_a_fresh_interpreter(USE, tmp_path, distribution(tmp_path, "theirs", points))
    assert status == "refused"
    assert problem.startswith(said)
    assert "\n" not in problem


# Building


def test_an_unknown_method_is_met_with_close_ones():
    """A misspelt method is refused with what may have been meant, or with all there are."""
    assert refusal(build_method, "cca") == "unknown method 'cca'; did you mean caa?"
    assert refusal(build_method, "xyz") == f"unknown method 'xyz'; there are {', '.join(method_names())}"


def test_an_unknown_parameter_is_met_with_the_known_ones():
    """A parameter that the method doesn't have is refused with those it has; the first by alphabet of several."""
    assert refusal(build_method, "caa", {"strength": 1, "dose": 1, "alpha": 2}) == (
        "method caa has no parameter 'alpha'; it takes layer, coefficient, dose, positions, contrasts"
    )
    assert refusal(build_method, "control", {"dose": 1}) == "method control has no parameter 'dose'; it takes none"


@pytest.mark.parametrize("layer", ["14", 14, 14.0, "14.0", " 14 ", np.int64(14)])
def test_a_whole_number_may_be_spelt_in_any_way(layer):
    """Command lines give text and YAML gives floats; both become the layer that was meant, as an int."""
    built = build_method("caa", {"layer": layer, "dose": 0.3})
    assert built == CAA(layer=14, dose=0.3)
    assert type(parameters_of(built)["layer"]) is int


@pytest.mark.parametrize("layer", [14.5, "x", "", True, "true", [14], float("nan"), float("inf"), "inf", "1e999"])
def test_a_layer_that_is_no_whole_number_is_refused(layer):
    """A value that isn't a whole number is refused by name; a truth value is not 1."""
    said = refusal(build_method, "caa", {"layer": layer, "dose": 0.3})
    assert said == f"caa.layer is {layer!r}; it must be a whole number"


@pytest.mark.parametrize("name", ["caa", "random_vector"])
@pytest.mark.parametrize("layer", [-1, -1.0, "-1"])
def test_a_negative_layer_is_refused_when_building(name, layer):
    """Layers are counted from 0, so -1 is refused before a model is opened, and never taken for the last block."""
    assert refusal(build_method, name, {"layer": layer, "dose": 0.3}) == (
        f"{name}.layer is -1; layers are counted from 0, the first block"
    )


@pytest.mark.parametrize("dose", ["nan", float("nan"), float("inf"), "-inf", "much", True, [0.3], 10**400])
def test_a_dose_is_a_finite_number(dose):
    """NaN, infinity and what is no number are refused by the parameter's name."""
    assert refusal(build_method, "caa", {"dose": dose}) == f"caa.dose is {dose!r}; it must be a finite number"


@pytest.mark.parametrize("dose", ["0.3", 0.3, " 0.3"])
def test_a_number_may_be_text(dose):
    """A number from a command line is that number."""
    assert build_method("caa", {"dose": dose}) == CAA(dose=0.3)
    assert build_method("caa", {"coefficient": 2, "layer": None, "dose": "none"}) == CAA(coefficient=2.0)


def test_options_are_those_the_method_names():
    """A value that is none of the options is refused with all of them."""
    assert refusal(build_method, "caa", {"dose": 1, "positions": "sideways"}) == (
        "caa.positions is 'sideways'; it is one of all, prompt, response"
    )
    assert refusal(build_method, "caa", {"dose": 1, "contrasts": ["own"]}) == (
        "caa.contrasts is ['own']; it is one of auto, written, own"
    )
    assert refusal(build_method, "prompt", {"placement": None}) == "prompt.placement can't be empty"


@pytest.mark.parametrize("text", [True, ["a"], {"a": 1}])
def test_a_text_is_text(text):
    """A text parameter takes text; a list or a truth value isn't turned into one."""
    assert refusal(build_method, "prompt", {"text": text}) == f"prompt.text is {text!r}; it must be text"


def test_a_file_may_be_a_path(tmp_path):
    """A FILE parameter takes a path, or its name."""
    built = build_method("combined", {"first": tmp_path / "a.json", "second": "b.json"})
    assert built == Combined(str(tmp_path / "a.json"), "b.json")


def test_exactly_one_size_is_given():
    """A vector needs a dose or a coefficient, one of them."""
    assert refusal(build_method, "caa", {"dose": 0.3, "coefficient": 1}) == (
        "method caa: both coefficient and dose are given; give one"
    )
    assert refusal(build_method, "caa") == "method caa: give one of dose=…, coefficient=…"
    assert refusal(build_method, "caa", {"dose": None}) == "method caa: give one of dose=…, coefficient=…"
    assert refusal(build_method, "random_vector", {"layer": 1}) == ("method random_vector: give one of dose=…, match=…")
    assert build_method("caa", {"dose": 0}) == CAA(dose=0.0)


@pytest.mark.parametrize(("key", "value"), [("dose", 0.3), ("dose", 0), ("layer", 0), ("positions", "all")])
def test_a_placebo_takes_everything_from_its_match(key, value):
    """Beside `match`, a dose, layer or positions would be ignored, so they are refused."""
    assert refusal(build_method, "random_vector", {"match": "a.json", key: value}) == (
        f"method random_vector: match sets layers, positions and norms; leave {key} out"
    )
    assert build_method("random_vector", {"match": "a.json"}) == RandomVector(match="a.json")


def test_what_a_method_can_t_do_without_is_named():
    """A parameter without a default that isn't given is named."""
    assert refusal(build_method, "combined", {"first": "a.json"}) == "method combined needs second=…"


def test_parameters_are_all_fields():
    """The parameters of a method are all its fields with their values, defaults included."""
    assert parameters_of(CAA(dose=0.3)) == {
        "layer": None,
        "coefficient": None,
        "dose": 0.3,
        "positions": "response",
        "contrasts": "auto",
    }
    assert [item.name for item in parameter_fields(CAA)] == [item.name for item in fields(CAA)]


# control, prompt, combined


def test_the_control_is_the_empty_steering():
    """The control does nothing and needs no behavior."""
    assert prepared(build_method("control")) == CONTROL
    assert method_class("control").needs_behavior is False  # type: ignore[attr-defined]


def test_simple_prompting_is_one_sentence():
    """The prompt asks for the behavior by the study's text, after the system message that is there."""
    found = prepared(SimplePrompt(), behavior=find_behavior("funny"))
    assert found == Steering((SystemPrompt("In everything you write, be funny.", "after"),))


def test_the_sentence_can_be_replaced():
    """`text` is sent as it is but for `{behavior}`, wherever and how often that stands; other braces stay."""
    found = prepared(SimplePrompt("{behavior}! {name} {behavior}", "before"))
    assert found == Steering((SystemPrompt("be glad! {name} be glad", "before"),))
    assert prepared(SimplePrompt("Be brief.")) == Steering((SystemPrompt("Be brief."),))


def test_combined_is_the_sum_in_order():
    """Two frozen steerings are put one after the other, and refused where they don't add."""
    parts = {"first": TWO, "second": Steering((AddVector(0, [1.0, 1.0, 1.0]),))}
    found = prepared(Combined("a", "b"), steerings=parts)
    assert found.interventions == TWO.interventions + parts["second"].interventions
    replacing = Steering((SystemPrompt("Only this.", "replace"),))
    with pytest.raises(SteerError, match="two SystemPrompts replace"):
        prepared(Combined("a", "b"), steerings={"first": replacing, "second": replacing})


# caa


def test_caa_is_the_mean_over_answers_of_means_over_tokens():
    """A hand-worked difference: each answer is averaged over its own tokens first, then answers over contrasts.

    After block 2 a word is 3 times its embedding. First contrast: (joy + joy + fun) / 3 = (2, 1, 0) against (0, 0, 1),
    second: (0, 3, 0) against (4 + 1 + 4) / 3 = (0, 0, 3). Their mean is (1, 2, -2), times 3.
    """
    (one,) = added(prepared(CAA(layer=2, dose=1.0)))
    assert (one.layer, one.coefficient, one.positions) == (2, 1.0, "response")
    assert one.vector.tolist() == [3.0, 6.0, -6.0]


def test_caa_reads_each_answer_after_its_own_prompt():
    """Activations are read at the answers, after the contrast's prompt and with no instruction in it."""
    backend = reading()
    prepared(CAA(dose=1.0), backend)
    assert backend.asked == []
    assert sorted(backend.read, key=str) == sorted(
        [((Message("user", one.prompt),), text) for one in GLAD.contrasts for text in (one.positive, one.negative)],
        key=str,
    )


@pytest.mark.parametrize(("n_layers", "middle"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (30, 14), (32, 15)])
@pytest.mark.parametrize("method", [CAA(dose=1.0), RandomVector(dose=1.0)])
def test_the_default_layer_is_the_middle(method, n_layers, middle):
    """Where no layer is given, it is (n_layers - 1) // 2, counted from 0."""
    backend = reading()
    backend.n_layers = n_layers
    assert prepared(method, backend).layers == (middle,)


def test_caa_takes_positions_and_says_what_it_read():
    """The positions asked for are in the steering; number and digest of the contrasts are in its provenance."""
    found = prepared(CAA(dose=1.0, positions="all"))
    assert added(found)[0].positions == "all"
    assert found.provenance["contrast_pairs"] == 2
    other = prepared(CAA(dose=1.0), behavior=replace(GLAD, contrasts=GLAD.contrasts[:1]))
    assert other.provenance["contrast_pairs"] == 1
    assert other.provenance["contrast_digest"] != found.provenance["contrast_digest"]


def glad_when_asked(messages: Messages) -> str:
    """Speaks gladly where the system message asks for it."""
    is_asked = messages[0] == Message("system", "In everything you write, be glad.")
    return "joy fun" if is_asked else "dull"


@pytest.mark.parametrize(
    ("method", "behavior"),
    [
        (CAA(layer=0, dose=1.0), replace(GLAD, contrasts=())),
        (CAA(layer=0, dose=1.0, contrasts="own"), GLAD),
        (CAA(layer=0, dose=1.0, contrasts="own"), replace(GLAD, contrasts=())),
    ],
)
def test_a_free_behavior_makes_its_own_contrasts(method, behavior):
    """Without written contrasts the model's own answers, asked and not asked for the behavior, stand in.

    Both are greedy answers of 64 tokens to all neutral prompts, and both are read after the plain prompt. By hand:
    (joy + fun) / 2 = (1.5, 1.5, 0) against (0, 0, 1).
    """
    backend = reading(answer=glad_when_asked)
    found = prepared(method, backend, behavior)
    assert added(found)[0].vector.tolist() == [1.5, 1.5, -1.0]
    prompts = [(Message("user", prompt),) for prompt in neutral_prompts()]
    asked = Message("system", "In everything you write, be glad.")
    assert [request.prompt for request in backend.asked] == [*((asked, *prompt) for prompt in prompts), *prompts]
    assert {(one.sampling.max_tokens, one.sampling.is_greedy, one.steering) for one in backend.asked} == {
        (64, True, CONTROL)
    }
    assert sorted(backend.read, key=str) == sorted(
        [(prompt, text) for prompt in prompts for text in ("joy fun", "dull")], key=str
    )
    assert found.provenance["contrast_pairs"] == len(prompts)


def test_an_empty_answer_is_no_contrast():
    """Prompts that the model answers with nothing, in either voice, are left out; if none is left, that is refused."""
    silent = neutral_prompts()[0]
    backend = reading(answer=lambda messages: "" if messages[-1].content == silent else glad_when_asked(messages))
    found = prepared(CAA(layer=0, dose=1.0, contrasts="own"), backend)
    assert found.provenance["contrast_pairs"] == len(neutral_prompts()) - 1
    assert refusal(prepared, CAA(dose=1.0, contrasts="own"), reading(answer=lambda messages: " ")).startswith(
        "caa: the model answers no neutral prompt with and without glad; "
    )


def test_caa_refuses_what_gives_no_vector():
    """Missing contrasts, layers that aren't there, and contrasts without a difference are refused by name."""
    free = replace(GLAD, contrasts=())
    assert refusal(prepared, CAA(dose=1.0, contrasts="written"), behavior=free) == (
        "caa: behavior glad has no written contrasts; use contrasts=own"
    )
    for layer in (4, -1):
        backend = reading()
        assert refusal(prepared, CAA(layer=layer, dose=1.0), backend) == (
            f"caa: layer {layer} is out of range; the model has layers 0 to 3"
        )
        assert backend.read == []
    same = replace(GLAD, contrasts=(Contrast("How?", "joy fun", "fun joy"),))
    assert refusal(prepared, CAA(dose=1.0), behavior=same) == (
        "caa: the contrasts of glad give no difference at layer 1; give others"
    )
    broken = ReadingBackend(embeddings={**EMBEDDINGS, "joy": [float("nan"), 0, 0]})
    assert "give no difference" in refusal(prepared, CAA(dose=1.0), broken)


# random_vector


def test_a_placebo_matches_layers_norms_and_positions():
    """Each added vector is replaced by a random one at its layer and positions, as long as coefficient times vector."""
    found = added(prepared(RandomVector(match="two.json"), steerings={"match": TWO}))
    assert [(one.layer, one.positions, one.coefficient) for one in found] == [(1, "all", 1.0), (3, "response", 1.0)]
    lengths = [float(np.linalg.norm(one.vector.astype(np.float64))) for one in found]
    assert lengths == pytest.approx([10.0, 0.5], rel=1e-6)
    assert abs(float(found[0].vector @ found[1].vector)) < 0.99 * 5.0  # and not twice the same direction


def test_a_placebo_for_no_vector_is_refused():
    """A steering that adds no vector has no norm to match."""
    prompt = Steering((SystemPrompt("Be glad."),))
    assert refusal(prepared, RandomVector(match="p.json"), steerings={"match": prompt}) == (
        "random_vector: p.json adds no vector, so there is no norm to match"
    )


def test_draws_differ_and_repeat():
    """Every draw is another direction of length 1; the same draw is the same, bit for bit."""
    draws = [added(prepared(RandomVector(dose=1.0), draw=draw))[0].vector for draw in range(20)]
    assert len({vector.tobytes() for vector in draws}) == 20
    assert [float(np.linalg.norm(vector)) for vector in draws] == pytest.approx([1.0] * 20, rel=1e-6)
    again = added(prepared(RandomVector(dose=1.0), draw=7))[0].vector
    assert again.tobytes() == draws[7].tobytes()


def test_random_directions_are_spread_over_the_sphere():
    """Directions of many draws have mean 0 and covariance 1 / d_model, within five standard errors."""
    units = np.stack([unit_vector(8, draw, index) for draw in range(1000) for index in range(2)]).astype(np.float64)
    assert np.abs(units.mean(axis=0)).max() < 5 / np.sqrt(8 * 2000)
    assert np.abs(units.T @ units / 2000 - np.eye(8) / 8).max() < 5 * 0.125 * np.sqrt(2 / 2000)


def test_the_neutral_prompt_is_as_long_as_the_one_it_stands_in_for():
    """The placebo sentence has as many words as the behavior's, or tokens where the backend scores text."""
    asked = "In everything you write, be persuasive and socially influential."
    placebo = prepared(NeutralPrompt(), behavior=replace(GLAD, text="be persuasive and socially influential"))
    [prompt] = placebo.system_prompts
    assert len(prompt.text.split()) == len(asked.split())
    assert "persuasive" not in prompt.text
    assert placebo.provenance["length"] == placebo.provenance["length_wanted"] == 9


def test_the_neutral_prompt_counts_tokens_where_it_can():
    """With a backend that scores text the lengths are its tokens."""

    class Scoring(SpeakingBackend):
        async def score(self, prompt, continuation, steering):
            return Likelihood((0.0,) * len(continuation.replace(" ", "")), False, None)

        async def score_rolling(self, text, steering):
            raise NotImplementedError

    placebo = prepared(NeutralPrompt(text="Please be very glad in all of your answers: {behavior}!"), Scoring())
    assert placebo.provenance["length_in"] == "tokens"
    assert abs(placebo.provenance["length"] - placebo.provenance["length_wanted"]) <= 4

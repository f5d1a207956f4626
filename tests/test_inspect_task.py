"""The Inspect task `mmlu_171`, its solver, scorers and metric."""

import ast
import asyncio
import inspect as python_inspect
import math
from dataclasses import fields, replace

import numpy as np
import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessageUser,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from inspect_ai.model._model import active_model_context_var, init_active_model
from inspect_ai.scorer import SampleScore, Score, Target, stderr
from inspect_ai.solver import TaskState

import model_adapters.harnesses.inspect_hook as providers_module
import steer_tasks.providers  # noqa: F401 (registers the providers)
from model_adapters.backends.scripted import ScriptedBackend
from model_adapters.errors import NotApplied, Refused, SteerError
from model_adapters.harnesses.documents import messages_of
from model_adapters.harnesses.inspect import HookSteered
from model_adapters.harnesses.inspect_engines import Engines
from model_adapters.harnesses.inspect_messages import our_messages
from model_adapters.harnesses.inspect_spec import Spec
from model_adapters.methods import methods
from model_adapters.methods.prompt import SimplePrompt
from model_adapters.steering import CONTROL, AddVector, Steering, SystemPrompt
from model_adapters.steering_file import save_steering
from steer_tasks.analysis.clustered import clustered_variance
from steer_tasks.behavior import behavior
from steer_tasks.coherence import coherence
from steer_tasks.lm_eval_support import document
from steer_tasks.mmlu_171 import mmlu_171
from steer_tasks.parameters import hosted_parameters
from steer_tasks.protocols import load_protocol
from steer_tasks.questions import load_questions
from steer_tasks.scorers import accuracy, answered, two_way_stderr
from steer_tasks.solvers import check_report, steered_api, steered_generate
from tests.tiny_model import tiny_model

pytestmark = pytest.mark.usefixtures("mmlu")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny random Llama in float32, width 32, four blocks."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def inspect_folders(tmp_path, monkeypatch):
    """Inspect's caches and logs of one test."""
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "inspect-cache"))
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))


@pytest.fixture
def under_test():
    """Makes a model the one that Inspect is setting up an eval for."""
    tokens = []

    def set_(model, **arguments):
        tokens.append(active_model_context_var.set(None))
        init_active_model(get_model(model, memoize=False, **arguments), GenerateConfig())

    yield set_
    for token in reversed(tokens):
        active_model_context_var.reset(token)


@pytest.fixture
def scripted(monkeypatch):
    """A backend behind `hook_steered/scripted` that answers C; its `requests` are what it was asked."""
    backend = ScriptedBackend(lambda _: "<thinking>hm</thinking><answer>C</answer>")
    monkeypatch.setattr(providers_module, "ENGINES", Engines(lambda name, **_: backend))
    return backend


def run(task, tmp_path, model="hook_steered/scripted", **options):
    """One eval with a model of its own, no display; the log."""
    config = options.pop("config", GenerateConfig())
    made = get_model(model, memoize=False, config=config, **options.pop("model_args", {}))
    [log] = eval(task, model=made, log_dir=str(tmp_path / "logs"), display="none", **options)
    return log


def push(size=2.0, layer=1, width=32):
    return Steering((AddVector(layer, np.random.default_rng(0).standard_normal(width), size),))


# What is asked


def test_as_typed_it_is_171_questions_of_the_control():
    """Without arguments: each question once, by its own id, under the control, greedy, at most 2048 tokens."""
    task = mmlu_171()
    asked = load_questions("mmlu_171")
    assert [sample.id for sample in task.dataset] == [question.id for question in asked.questions]
    assert len(task.dataset) == 171
    assert {sample.metadata["behavior"] for sample in task.dataset} == {"none"}
    assert (task.config.temperature, task.config.max_tokens) == (0.0, 2048)
    assert [sample.target for sample in task.dataset] == [question.letter for question in asked.questions]


def test_the_messages_are_those_of_the_other_harness():
    """Every sample's messages equal, byte for byte, what lm-eval's task of that name sends."""
    protocol = load_protocol("isolated")
    theirs = [
        messages_of(document(question, protocol, "chain_of_thought"))
        for question in load_questions("mmlu_171").questions
    ]
    ours = [our_messages(sample.input) for sample in mmlu_171().dataset]
    assert ours == theirs


def test_ids_are_equal_in_every_arm():
    """Arms with the same behaviors have the same ids in the same order, question by question, so results pair."""
    behaviors = ["funny", "be concise and direct"]
    arms = [
        mmlu_171(behavior=behaviors),
        mmlu_171(behavior=behaviors, method="prompt"),
        mmlu_171(behavior=behaviors, method="caa", dose=0.3),
    ]
    ids = [[sample.id for sample in task.dataset] for task in arms]
    assert ids[0] == ids[1] == ids[2]
    assert ids[0][:3] == ["funny/abstract_algebra/0", "concise/abstract_algebra/0", "funny/abstract_algebra/1"]
    assert len(set(ids[0])) == 342
    assert len(mmlu_171(behavior="all", method="prompt").dataset) == 14 * 171


def test_metadata_is_flat():
    """Each sample carries question, subject and behavior as plain text, which Inspect's tables read."""
    sample = mmlu_171(behavior="funny", method="prompt").dataset[5]
    expected = {"question_id": "anatomy/2", "subject": "anatomy", "behavior": "funny", "behavior_text": "be funny"}
    assert sample.metadata == expected


def test_the_log_says_where_the_questions_come_from(mmlu):
    """Source, count and digest of the questions, the wording, the arm and versions are in the task's metadata."""
    metadata = mmlu_171(behavior="funny", method="caa", dose=0.3, draw=2).metadata
    drawn = {"per_behavior": 0, "seed": 0}
    assert metadata["questions"] == load_questions("mmlu_171").provenance() | drawn
    assert metadata["questions"]["count"] == 171
    assert metadata["protocol"] == load_protocol("isolated").provenance()
    assert metadata["arm"]["method"] == "caa"
    assert metadata["arm"]["parameters"]["dose"] == 0.3
    assert metadata["arm"]["draw"] == 2
    assert metadata["versions"]["inspect-ai"]


def test_a_frozen_steering_pairs_with_the_run_that_prepared_it(tmp_path):
    """A file's samples are marked with the behavior in its provenance; without one, with none."""
    known = save_steering(push().described(behavior={"slug": "funny", "text": "be funny"}), tmp_path / "a.json")
    unknown = save_steering(push(), tmp_path / "b.json")
    assert mmlu_171(steering=str(known)).dataset[0].id == "funny/abstract_algebra/0"
    assert mmlu_171(steering=str(unknown)).dataset[0].id == "abstract_algebra/0"


def test_every_parameter_of_our_methods_is_a_task_argument():
    """A parameter that a method of this package gains must become an argument of the task: this test asks for it."""
    ours = {name: made for name, made in methods().items() if made.__module__.startswith("model_adapters.")}
    wanted = {field.name for made in ours.values() for field in fields(made)}
    arguments = set(python_inspect.signature(mmlu_171).parameters)
    assert wanted <= arguments
    for made in (mmlu_171, behavior, coherence):
        shown = python_inspect.signature(made).parameters
        assert wanted <= set(shown)
        assert all(one.annotation is not one.empty and one.default is not one.empty for one in shown.values())


def test_the_protocol_may_set_the_sentence(tmp_path, scripted):
    """Simple prompting uses the protocol's sentence unless `text` is given."""
    for arguments, sentence in (
        ({}, "In everything you write, be funny."),
        ({"text": "Now {behavior}!"}, "Now be funny!"),
    ):
        log = run(mmlu_171(behavior="funny", method="prompt", **arguments), tmp_path, limit=1)
        assert log.status == "success", log.error
        assert scripted.requests[-1].steering == Steering((SystemPrompt(sentence),))


# Which model


def test_the_embedded_model_is_the_default_only_without_a_model(under_test, tiny):
    """With neither --model nor the environment the task brings its own; any given model stays."""
    under_test("none/none")
    assert str(mmlu_171().model) == "hook_steered/embedded"
    under_test(f"hook_steered/{tiny}")
    assert mmlu_171().model is None


def test_outside_an_eval_the_task_brings_no_model():
    """Made in Python before `eval(task, model=…)`, the task doesn't override the model of the call."""
    assert mmlu_171().model is None


@pytest.mark.parametrize("method", ["control", "prompt"])
def test_a_model_that_does_not_steer_is_refused_with_the_remedy(under_test, method):
    """mockllm under any method, the control included, is refused while the task is made, and told what to use."""
    under_test("mockllm/model")
    with pytest.raises(Refused, match="--model prompt_steered/mockllm/model"):
        mmlu_171(method=method, behavior="funny")


def test_a_model_that_does_not_steer_is_refused_before_it_generates(tmp_path):
    """The same where the task was made before the model was known: the log's error names the remedy."""
    log = run(mmlu_171(), tmp_path, model="mockllm/model", limit=1)
    assert log.status == "error"
    assert "prompt_steered/mockllm/model" in log.error.message
    assert [event for event in log.samples[0].events if event.event == "model"] == []


# What bad input gets, without any weights


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"method": "cca"}, "did you mean caa"),
        ({"method": "caa", "dose": 0.3}, "needs behavior"),
        ({"method": "caa", "behavior": "fuzzy", "dose": 0.3}, "fuzzy"),
        ({"method": "caa", "behavior": "funny"}, "give one of dose=…, coefficient=…"),
        ({"method": "caa", "behavior": "funny", "dose": 0.3, "coefficient": 1.0}, "both coefficient and dose"),
        ({"method": "caa", "behavior": "funny", "dose": math.nan}, "dose is nan"),
        ({"method": "prompt", "behavior": "funny", "layer": 3}, "no parameter 'layer'"),
        ({"method": "caa", "behavior": "funny", "dose": 1, "parameters": "warmth=3"}, "no parameter 'warmth'"),
        ({"method": "combined", "first": "a.json", "second": "b.json"}, "a.json"),
        ({"steering": "absent.json"}, "absent.json"),
        ({"steering": "absent.json", "method": "caa", "behavior": "funny"}, "leave method, behavior out"),
        ({"protocol": "isolatd"}, "did you mean 'isolated'"),
        ({"questions": "absent.json"}, "absent.json"),
        ({"draw": -1}, "draw=-1"),
        ({"parameters": "warmth"}, "write it as NAME=VALUE"),
    ],
)
def test_what_can_be_known_is_checked_while_the_task_is_made(arguments, line):
    """Names, parameters and files are checked before any weight is loaded; the line names the thing."""
    with pytest.raises(SteerError, match=line):
        mmlu_171(**arguments)


def test_layers_and_widths_are_checked_against_the_models_config(under_test, tiny, tmp_path):
    """A layer that the model doesn't have, and a vector of another width, are refused from its config alone."""
    under_test(f"hook_steered/{tiny}")
    with pytest.raises(Refused, match="layer 4 is out of range; the model has layers 0 to 3"):
        mmlu_171(method="caa", behavior="funny", layer=4, dose=0.3)
    for steering, line in ((push(layer=9), "layer 9"), (push(width=16), "vector has width 16, the model has 32")):
        path = str(save_steering(steering, tmp_path / "s.json"))
        for arguments in ({"steering": path}, {"method": "random_vector", "match": path}):
            with pytest.raises(Refused, match=line):
                mmlu_171(**arguments)
    assert mmlu_171(method="caa", behavior="funny", layer=3, dose=0.3)


def test_a_vector_behind_a_prompt_is_refused_while_the_task_is_made(under_test, tmp_path):
    """A frozen vector can't run on a model that only takes prompts, and that is said at once."""
    under_test("prompt_steered/mockllm/model")
    with pytest.raises(Refused, match="AddVector"):
        mmlu_171(steering=str(save_steering(push(), tmp_path / "s.json")))


def test_nothing_is_written_for_what_is_refused(empty_cache, tmp_path):
    """A refused task leaves no preparation and no steering behind."""
    with pytest.raises(SteerError):
        mmlu_171(method="caa", behavior="funny", dose=1, coefficient=1)
    assert list(empty_cache.rglob("*.json")) == []


@pytest.mark.parametrize("given", [{"a": 1, "b": "x"}, '{"a": 1, "b": "x"}', ["a=1", "b=x"], "a=1,b=x", "a=1; b=x"])
def test_parameters_come_in_every_form_that_a_command_line_makes(given):
    """An object, its JSON, a list of pairs, and one text of pairs mean the same."""
    assert {name: str(value) for name, value in hosted_parameters(given).items()} == {"a": "1", "b": "x"}
    assert hosted_parameters(None) == {}


@pytest.mark.parametrize("given", ["a=1,a=2", ["a=1", " a=2"], "a=1;b", "a=1,=2", "{a: 1}"])
def test_parameters_that_say_two_things_or_nothing_are_refused(given):
    """A name given twice, a word without name or sign, and broken JSON are refused."""
    with pytest.raises(SteerError, match="parameters"):
        hosted_parameters(given)


# The solver


def test_each_request_carries_its_spec(tmp_path, scripted):
    """Fingerprint, file, run identity and sample number are in the request, and the proof is in the output."""
    log = run(mmlu_171(behavior=["funny", "concise"], method="prompt"), tmp_path, limit=2, epochs=2)
    assert log.status == "success", log.error
    specs = {}
    for sample in log.samples:
        [event] = [event for event in sample.events if event.event == "model"]
        specs[sample.id, sample.epoch] = spec = event.config.extra_body["steer"]
        assert sample.output.metadata["steer"]["spec"] == spec
        assert spec["identity"] == scripted.identity.run(spec["fingerprint"])
        assert spec["sample_index"] == sample.epoch - 1
        assert sample.metadata["fingerprint"] == spec["fingerprint"]
        assert spec["file"].endswith(f"steerings/{spec['fingerprint']}.json")
    assert len(specs) == 4
    assert len({spec["fingerprint"] for spec in specs.values()}) == 2
    assert sorted(request.sample_index for request in scripted.requests) == [0, 0, 1, 1]


def test_the_control_is_said_and_has_no_file(tmp_path, scripted):
    """The control is the empty steering's fingerprint with a null file, so a lost spec is not mistaken for it."""
    log = run(mmlu_171(), tmp_path, limit=1)
    [event] = [event for event in log.samples[0].events if event.event == "model"]
    assert event.config.extra_body["steer"]["fingerprint"] == CONTROL.fingerprint
    assert event.config.extra_body["steer"]["file"] is None


def test_a_steering_is_prepared_once_for_all_samples(tmp_path, scripted, monkeypatch):
    """Many samples that start at once wait for one preparation per behavior, and a second run prepares nothing new."""
    prepared = []
    original = SimplePrompt.prepare

    async def counted(self, behavior, context):
        prepared.append(behavior.slug)
        return await original(self, behavior, context)

    monkeypatch.setattr(SimplePrompt, "prepare", counted)
    arguments = {"behavior": ["funny", "concise"], "method": "prompt", "text": f"{tmp_path} {{behavior}}"}
    for _ in range(2):
        assert run(mmlu_171(**arguments), tmp_path, limit=20).status == "success"
    assert sorted(prepared) == ["concise", "funny"]


def test_a_refusal_of_the_backend_comes_before_any_request(tmp_path, scripted, monkeypatch):
    """What the backend can't run ends the eval with its line, and the model was asked nothing."""
    monkeypatch.setattr(scripted, "_refuses", lambda steering: ["no vectors here"])
    path = str(save_steering(push(), tmp_path / "s.json"))
    log = run(mmlu_171(steering=path), tmp_path, limit=1)
    assert log.status == "error"
    assert "no vectors here" in log.error.message
    assert scripted.requests == []


def test_other_entries_of_extra_body_are_kept(tmp_path, scripted):
    """`--extra-body` reaches the provider beside our spec; here the provider refuses what it doesn't know, by name."""
    task = mmlu_171()
    task.config.extra_body = {"min_p": 0.1}
    for log in (
        run(mmlu_171(), tmp_path, limit=1, extra_body={"min_p": 0.1}),
        run(mmlu_171(), tmp_path, limit=1, config=GenerateConfig(extra_body={"min_p": 0.1})),
        run(task, tmp_path, limit=1),
    ):
        assert log.status == "error"
        assert "min_p" in log.error.message


def test_two_voices_about_the_steering_are_refused(tmp_path, scripted):
    """A spec on the command line beside a task that says itself what is steered is an error, not overwritten."""
    spec = Spec(CONTROL.fingerprint, None).as_dict()
    log = run(mmlu_171(), tmp_path, limit=1, extra_body={"steer": spec})
    assert log.status == "error"
    assert "steering=FILE" in log.error.message


class Deaf(HookSteered):
    """A provider that looks like ours and ignores extra_body."""

    async def generate(self, input, tools, tool_choice, config):
        output = ModelOutput.from_content("deaf", "<answer>A</answer>")
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return output


@modelapi(name="deaf_test")
def deaf_test():
    return Deaf


def test_a_provider_that_ignores_the_spec_is_an_error(tmp_path, scripted):
    """An answer that doesn't say what steering ran is never scored."""
    log = run(mmlu_171(), tmp_path, model="deaf_test/m", limit=1)
    assert log.status == "error"
    assert "prompt_steered/deaf_test/m" in log.error.message
    assert not log.samples[0].scores


@pytest.mark.parametrize("change", ["spec", "fingerprint", "identity"])
def test_requested_and_applied_must_agree(change):
    """A report of another spec, another steering or another run withholds the answer."""
    spec = Spec("0" * 16, "f.json", "1" * 16, 0)
    proof = {"fingerprint": spec.fingerprint, "identity": spec.identity}
    check_report({"steer": {"spec": spec.as_dict(), "proof": proof}}, spec, "m")
    wrong = {"spec": replace(spec, sample_index=1).as_dict(), "proof": proof}
    if change != "spec":
        wrong = {"spec": spec.as_dict(), "proof": proof | {change: "x"}}
    with pytest.raises(NotApplied):
        check_report({"steer": wrong}, spec, "m")


class Plain(ModelAPI):
    """A provider of somebody else."""

    async def generate(self, input, tools, tool_choice, config):
        raise AssertionError("asked")


@modelapi(name="plain_test")
def plain_test():
    return Plain


def test_only_a_provider_that_steers_is_asked():
    """Any other provider is refused by name with what to use instead."""
    with pytest.raises(Refused, match="--model prompt_steered/plain_test/m"):
        steered_api(get_model("plain_test/m", memoize=False))
    with pytest.raises(Refused, match="--model hook_steered/embedded"):
        steered_api(get_model("none"))


def test_the_solver_steers_any_task(tmp_path, scripted):
    """Used as a solver of somebody else's task it steers that task's samples."""
    task = Task(dataset=[Sample(input="Hi")], solver=steered_generate("prompt", "funny", parameters="text=Be odd."))
    assert run(task, tmp_path).status == "success"
    [request] = scripted.requests
    assert request.steering == Steering((SystemPrompt("Be odd."),))


def test_a_sample_of_an_unknown_behavior_is_refused(tmp_path, scripted):
    """A sample marked with a behavior that this run doesn't have is an error, not steered with another."""
    task = Task(
        dataset=[Sample(input="Hi", metadata={"behavior": "funny"})], solver=steered_generate("prompt", "concise")
    )
    log = run(task, tmp_path)
    assert log.status == "error"
    assert "'funny'" in log.error.message


# The scorers


def state(text):
    output = ModelOutput.from_content("m", text)
    return TaskState("m", "s", 1, [ChatMessageUser(content="?")], [ChatMessageUser(content="?")], output=output)


async def _scores(text):
    return await accuracy()(state(text), Target("C")), await answered()(state(text), Target("C"))


@pytest.mark.parametrize(
    ("text", "right", "has_letter"),
    [
        ("<thinking>x</thinking><answer> c </answer>", 1.0, 1.0),
        ("<answer>A</answer><answer>C</answer>", 0.0, 1.0),
        ("<answer>Carbon</answer>", 1.0, 1.0),
        ("<answer>Z</answer>", 0.0, 0.0),
        ("<answer>C", 0.0, 0.0),
        ("<answer></answer>", 0.0, 0.0),
        ("C", 0.0, 0.0),
    ],
)
def test_an_answer_is_right_wrong_or_missing(text, right, has_letter):
    """The first closed tag's first character decides; what can't be read is a miss and not answered."""
    first, second = asyncio.run(_scores(text))
    assert (first.value, second.value) == (right, has_letter)


def scored(rows):
    return [
        SampleScore(score=Score(value=value), sample_metadata={"question_id": question, "behavior": behavior})
        for question, behavior, value in rows
    ]


def test_the_two_way_error_of_four_scores_by_hand():
    """Values 1, 1, 0, 1 of 2 questions by 2 behaviors: each of the three parts is 1/16, and so is the whole."""
    rows = scored([("q1", "a", 1.0), ("q1", "b", 1.0), ("q2", "a", 0.0), ("q2", "b", 1.0)])
    # Mean 3/4, residuals 1/4 1/4 -3/4 1/4. By question: sums 1/2, -1/2: 2 * (1/4 + 1/4) / 16 = 1/16; the same by
    # behavior; by both: 4/3 * (3/16 + 9/16) / 16 = 1/16. Together 1/16.
    assert math.isclose(two_way_stderr()(rows), 1 / 4)


def test_the_two_way_error_by_hand_where_the_three_parts_differ():
    """Six values of 3 questions by 2 behaviors, each part worked by hand."""
    values = {
        ("q1", "a"): 5.0,
        ("q1", "b"): 3.0,
        ("q2", "a"): 3.0,
        ("q2", "b"): 1.0,
        ("q3", "a"): 1.0,
        ("q3", "b"): -1.0,
    }
    rows = scored([(question, behavior, value) for (question, behavior), value in values.items()])
    # Mean 2; residuals 3 1 1 -1 -1 -3. By question: sums 4 0 -4, 3/2 * 32 / 36 = 4/3. By behavior: sums 3 -3, so 1.
    # By both: 6/5 * (9 + 1 + 1 + 1 + 1 + 9) / 36 = 11/15. Together 4/3 + 1 - 11/15 = 8/5.
    assert math.isclose(two_way_stderr()(rows), math.sqrt(8 / 5))


def test_with_one_behavior_it_is_the_one_way_error():
    """One behavior leaves clustering by question, which equals Inspect's own."""
    generator = np.random.default_rng(0)
    rows = scored([(f"q{n // 3}", "a", float(generator.normal())) for n in range(30)])
    assert math.isclose(two_way_stderr()(rows), stderr(cluster="question_id")(rows))


def test_the_two_way_error_is_never_less_than_a_one_way_error():
    """Where the formula goes below the larger of the two one-way errors, or below zero, that one is given."""
    rows = scored([("q1", "a", 1.0), ("q1", "b", 0.0), ("q2", "a", 0.0), ("q2", "b", 1.0)])
    assert two_way_stderr()(rows) == 0.0
    # By question 1/3, by behavior 0, by both 4/15.
    values = [
        ("q1", "a", 4.0),
        ("q1", "b", 2.0),
        ("q2", "a", 1.0),
        ("q2", "b", 1.0),
        ("q3", "a", 1.0),
        ("q3", "b", 3.0),
    ]
    assert math.isclose(two_way_stderr()(scored(values)), math.sqrt(1 / 3))
    rows = scored([("q1", "a", 1.0), ("q1", "b", 0.0), ("q2", "a", 0.0), ("q2", "b", 1.0), ("q3", "a", 0.4)])
    values = [one.score.as_float() for one in rows]
    by = {
        key: clustered_variance(values, [row.sample_metadata[key] for row in rows])
        for key in ("question_id", "behavior")
    }
    both = clustered_variance(values, [tuple(row.sample_metadata.values()) for row in rows])
    assert sum(by.values()) - both < 0
    assert math.isclose(two_way_stderr()(rows), math.sqrt(max(by.values())))


def test_few_scores_and_missing_marks():
    """Fewer than two scores have error 0; a sample without the cluster's name is an error that names it."""
    assert two_way_stderr()(scored([("q", "a", 1.0)])) == 0.0
    with pytest.raises(ValueError, match="no metadata 'place'"):
        two_way_stderr("place")(scored([("q", "a", 1.0), ("q", "b", 1.0)]))


def test_the_numbers_of_a_log_are_those_of_its_answers(tmp_path, scripted):
    """Every answer C: accuracy is the share of questions whose letter is C, and all are answered."""
    log = run(mmlu_171(), tmp_path)
    assert log.status == "success", log.error
    letters = [question.letter for question in load_questions("mmlu_171").questions]
    found = {score.name: score.metrics for score in log.results.scores}
    assert math.isclose(found["accuracy"]["mean"].value, letters.count("C") / 171)
    assert found["answered"]["mean"].value == 1.0
    share = letters.count("C") / 171
    assert math.isclose(found["accuracy"]["two_way_stderr"].value, math.sqrt(share * (1 - share) / 170))


# A real model


def test_a_vector_is_found_applied_and_measured(tiny, tmp_path):
    """CAA on the tiny model: prepared, stored, applied at the layer asked for, and measured at every response token."""
    task = mmlu_171(behavior="funny", method="caa", coefficient=2.0, layer=1)
    arguments = {"model_args": {"dtype": "float32"}, "max_tokens": 4, "limit": 3}
    log = run(task, tmp_path, model=f"hook_steered/{tiny}", **arguments)
    assert log.status == "success", log.error
    for sample in log.samples:
        proof = sample.output.metadata["steer"]["proof"]
        assert proof["level"] == "measured"
        assert proof["response_tokens_touched"] == sample.output.usage.output_tokens
        assert proof["prompt_tokens_touched"] == 0
        assert [dose["layer"] for dose in proof["doses"]] == [1]
        assert proof["doses"][0]["dose"] > 0
    control = run(mmlu_171(behavior="funny"), tmp_path, model=f"hook_steered/{tiny}", **arguments)
    texts = [[sample.output.completion for sample in one.samples] for one in (log, control)]
    assert texts[0] != texts[1]


def test_everything_that_inspect_registers_is_defined_in_one_package(root):
    """Decorated functions live in steer_tasks alone: others have other names in editable and wheel installs."""
    kinds = {"task", "solver", "scorer", "metric", "modelapi"}
    found = set()
    for package in ("model_adapters", "judges", "steer_tasks"):
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    names = {ast.unparse(one).partition("(")[0] for one in node.decorator_list}
                    found |= {(package, node.name) for _ in names & kinds}
    assert {package for package, _ in found} == {"steer_tasks"}
    names = {"mmlu_171", "steered_generate", "accuracy", "answered", "two_way_stderr", "hook_steered", "prompt_steered"}
    assert {name for _, name in found} >= names

"""`goodfire_steered`: who answers, and that an Ember's answers are those of the same vectors on `hook_steered`."""

import asyncio
import json

import numpy as np
import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model

from model_adapters.backend import Message, Request, Sampling
from model_adapters.errors import Refused, SteerError
from model_adapters.features import open_dictionary, resolve
from model_adapters.harnesses.documents import as_chat, plain_form
from model_adapters.harnesses.goodfire import DEMO, HOSTED_MODEL, service_choice
from model_adapters.harnesses.lm_eval import GoodfireSteered, HookSteered
from model_adapters.steering import CONTROL, EditFeatures, FeatureEdit, Steering, SystemPrompt
from model_adapters.steering_file import save_steering
from tests import lm_eval_cases
from tests.lm_eval_cases import answers, evaluated, foreign, lines, message_request
from tests.tiny_backend import Passes
from tests.tiny_service import on_a_port, tiny_service, write_dictionary

pytestmark = pytest.mark.usefixtures("registered", "no_service")

registered = lm_eval_cases.registered
tiny = lm_eval_cases.tiny

EDITS = Steering((EditFeatures((FeatureEdit(3, 0.5), FeatureEdit(7, -0.25), FeatureEdit(11, 0.4, "pin"))),))


@pytest.fixture
def no_service(monkeypatch, tmp_path):
    """No key, no URL, and a cache of its own."""
    for name in ("GOODFIRE_API_KEY", "GOODFIRE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def dictionary(tmp_path):
    return str(write_dictionary(tmp_path / "dictionary"))


@pytest.fixture
def edits(tmp_path):
    return str(save_steering(EDITS, tmp_path / "edits.json"))


# Who answers

KEY, URL = {"GOODFIRE_API_KEY": "k" * 20}, {"GOODFIRE_BASE_URL": "http://localhost:1"}


@pytest.mark.parametrize(
    ("arguments", "environment", "model", "where"),
    [
        ({}, {}, "embedded", "in this process"),
        ({}, KEY, HOSTED_MODEL, "https://api.goodfire.ai"),
        ({}, URL, HOSTED_MODEL, "http://localhost:1"),
        ({}, {**KEY, **URL}, HOSTED_MODEL, "http://localhost:1"),
        ({"model": "m"}, URL, "m", "http://localhost:1"),
        ({"model": "m", "base_url": "http://localhost:2"}, URL, "m", "http://localhost:2"),
        ({"model": "m", "dictionary": "d"}, {}, "m", "in this process"),
    ],
)
def test_key_and_url_decide_who_answers(arguments, environment, model, where):
    """A key means the hosted address, a URL that one, neither this process; the model's default follows."""
    choice = service_choice(arguments, environment)
    assert (choice.model, choice.described()["service"]) == (model, where)
    assert choice.is_embedded is (where == "in this process" and model == "embedded")
    if choice.is_embedded:
        assert choice.service["dictionary"] == DEMO


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ({"model": "other"}, {}, "model=other has no dictionary of features here; give dictionary="),
        ({"dictionary": "d"}, URL, "dictionary: the service at http://localhost:1 sets that itself"),
        ({"layer": 3}, KEY, "layer: the service at https://api.goodfire.ai sets that itself"),
        ({"layer": -1}, {}, "layer is -1; it is a whole number from 0"),
        ({"factor": 0}, {}, "factor is 0; it is a number above 0"),
        ({"stream": "perhaps"}, {}, "stream is 'perhaps'; it is true or false"),
        ({"record": 5}, {}, "record is 5, not a text"),
    ],
)
def test_arguments_that_fit_no_service_are_refused(arguments, environment, said):
    """What would have no effect, or can't be, is refused by name before anything is loaded or asked."""
    with pytest.raises(SteerError) as caught:
        service_choice(arguments, environment)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"api_key": "abc"}, "'api_key' looks like a key"),
        ({"model": "embedded", "goodfire_api_key": "abc"}, "looks like a key"),
        ({"pretrained": "embedded"}, "goodfire_steered has no argument 'pretrained'"),
        ({"method": "caa", "behavior": "funny", "dose": 0.3, "chat_template": "never"}, "chat_template is 'never'"),
        ({"method": "no_such"}, "unknown method 'no_such'"),
    ],
)
def test_wrong_arguments_load_nothing(arguments, said, monkeypatch):
    """Keys, unknown arguments and methods are refused before a model is opened."""
    from model_adapters.harnesses import lm_eval_goodfire

    monkeypatch.setattr(lm_eval_goodfire, "open_local", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(SteerError) as caught:
        GoodfireSteered(**arguments)
    assert said in str(caught.value)


def test_a_service_that_does_not_answer_is_an_error(monkeypatch):
    """With a URL where nobody listens there is no falling back to this process."""
    monkeypatch.setenv("GOODFIRE_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(SteerError, match=r"127\.0\.0\.1:9"):
        GoodfireSteered(method="control", attempts=1)


# The same as the vectors


def goodfire(tiny, dictionary, **more):
    return GoodfireSteered(model=tiny, dictionary=dictionary, dtype="float32", **more)


def test_answers_are_those_of_the_resolved_vectors(mmlu, tiny, dictionary, edits):
    """Greedy texts over the service equal those of `hook_steered` with the same edits resolved, in float32."""
    short = {"limit": 6, "gen_kwargs": {"max_gen_toks": 16}}
    served = evaluated(goodfire(tiny, dictionary, steering=edits), ["mmlu_171"], **short)
    local = HookSteered(pretrained=tiny, dtype="float32", steering=edits, dictionary=dictionary)
    assert local.steering == resolve(EDITS, open_dictionary(dictionary))
    ours = evaluated(local, ["mmlu_171"], **short)
    assert answers(served, "mmlu_171") == answers(ours, "mmlu_171")
    control = evaluated(HookSteered(pretrained=tiny, dtype="float32", method="control"), ["mmlu_171"], **short)
    assert answers(ours, "mmlu_171") != answers(control, "mmlu_171")


def test_letters_rank_as_the_local_likelihoods_do(mmlu, tiny, dictionary, edits):
    """`mmlu_171_mc` asks the logits endpoint once for each question, and scores it as `hook_steered` does."""
    model = goodfire(tiny, dictionary, steering=edits)
    asked = []
    original = model.client.logits

    async def counted(*arguments):
        asked.append(arguments)
        return await original(*arguments)

    model.client.logits = counted
    served = evaluated(model, ["mmlu_171_mc"], limit=8)
    local = HookSteered(pretrained=tiny, dtype="float32", steering=edits, dictionary=dictionary)
    ours = evaluated(local, ["mmlu_171_mc"], limit=8)
    assert len(asked) == 8
    for one, other in zip(answers(served, "mmlu_171_mc"), answers(ours, "mmlu_171_mc"), strict=True):
        mine, theirs = ([float(pair[0][0]) for pair in sample] for sample in (one, other))
        assert np.argsort(mine).tolist() == np.argsort(theirs).tolist()
        assert np.allclose(np.diff(mine), np.diff(theirs), atol=1e-3)
    assert served["results"]["mmlu_171_mc"]["acc,none"] == ours["results"]["mmlu_171_mc"]["acc,none"]


@pytest.mark.parametrize("task", ["mmlu_171_cloze", "rolling"])
def test_what_a_service_cannot_score_is_refused_by_name(mmlu, tiny, dictionary, task):
    """Option texts and rolling likelihoods are refused, with the tasks that work instead."""
    model = goodfire(tiny, dictionary, method="control")
    with pytest.raises(Refused, match="use mmlu_171_mc, or hook_steered for this task"):
        evaluated(model, [foreign("rolling") if task == "rolling" else task], limit=1)


def test_foreign_tasks_need_messages(tiny, dictionary):
    """A plain prompt is refused with the remedy; under the flag, or as one turn, it is sent, system prompt included."""
    sentence = Steering((SystemPrompt("Be brief."),))
    model = goodfire(tiny, dictionary, method="prompt", behavior="concise", text="Be brief.")
    with pytest.raises(Refused, match="add --apply_chat_template"):
        evaluated(model, [foreign("text")], limit=1)
    evaluated(model, [foreign("text")], limit=2, apply_chat_template=True)
    sent = [line["messages_sent"] for line in lines(model.proof.path)]
    assert all(messages[0] == {"role": "system", "content": "Be brief."} for messages in sent)
    assert model.steering == sentence
    always = goodfire(tiny, dictionary, method="control", chat_template="always")
    assert evaluated(always, [foreign("text")], limit=1)["results"]


def test_our_documents_are_sent_as_they_are(tiny, dictionary):
    """A document's own messages are sent; a prompt that was altered is refused."""
    model = goodfire(tiny, dictionary, method="control")
    assert model._messages(message_request(plain_form(lm_eval_cases.MESSAGES))) == lm_eval_cases.MESSAGES
    templated = model.apply_chat_template(as_chat(lm_eval_cases.MESSAGES))
    assert model._messages(message_request(templated)) == lm_eval_cases.MESSAGES
    for altered in ("something else", templated.replace("three", "four")):
        with pytest.raises(Refused, match="not the document's own messages"):
            model._messages(message_request(altered))


def test_results_say_what_was_applied_and_by_whom(mmlu, tiny, dictionary):
    """Features, labels, values and fingerprint are in the results, and that the model is not the embedded one."""
    model = goodfire(tiny, dictionary, method="features", edits="3@0.5+7@-0.25")
    steer = json.loads(json.dumps(model.get_model_info()["steer"]))
    assert steer["service"] == "in this process"
    assert steer["embedded"] is False
    [one] = steer["interventions"]
    assert [(edit["index"], edit["value"]) for edit in one["edits"]] == [(3, 0.5), (7, -0.25)]
    assert steer["fingerprint"] == model.steering.fingerprint
    assert steer["model"]["dictionary_digest"] == open_dictionary(dictionary).digest


def test_proofs_are_acknowledged_and_carry_what_our_service_measured(mmlu, tiny, dictionary, edits):
    """The level says that a service accepted the edits; its counts and doses stand beside it."""
    model = goodfire(tiny, dictionary, steering=edits)
    evaluated(model, ["mmlu_171"], limit=2, gen_kwargs={"max_gen_toks": 8})
    for line in lines(model.proof.path):
        proof = line["proof"]
        assert (proof["level"], proof["first_response_token"]) == ("acknowledged", True)
        assert proof["response_tokens_touched"] == line["tokens_out"]
        assert [one["layer"] for one in proof["doses"]] == [2]


def test_another_service_is_another_run(tiny, dictionary, edits):
    """Layer, factor, positions and dictionary of a service enter the run identity, so no cache answers for another."""
    runs = [
        goodfire(tiny, dictionary, steering=edits, **more).run_identity
        for more in ({}, {"layer": 1}, {"factor": 2.0}, {"positions": "all"})
    ]
    assert len(set(runs)) == 4
    assert goodfire(tiny, dictionary, steering=edits).run_identity == runs[0]


def test_a_recorded_run_is_replayed_without_a_service(mmlu, tiny, dictionary, edits, tmp_path):
    """A cassette of a run gives the same texts again with no connection and no model."""
    tape = str(tmp_path / "tape.jsonl")
    short = {"limit": 3, "gen_kwargs": {"max_gen_toks": 8}}
    recorded = goodfire(tiny, dictionary, steering=edits, record=tape)
    first = evaluated(recorded, ["mmlu_171"], **short)
    recorded.close()
    replayed = GoodfireSteered(model=tiny, steering=edits, replay=tape)
    assert replayed.choice.described() == {"service": None, "embedded": False, "replayed": True}
    assert answers(evaluated(replayed, ["mmlu_171"], **short), "mmlu_171") == answers(first, "mmlu_171")
    assert replayed.run_identity == recorded.run_identity
    with pytest.raises(SteerError, match=r"not on the cassette|differs|recorded"):
        evaluated(replayed, ["mmlu_171"], limit=5, gen_kwargs={"max_gen_toks": 8})


def test_a_store_spares_the_service(mmlu, tiny, dictionary, edits, tmp_path):
    """The second run with `store` gets the same answers and asks the service's model nothing."""
    found, passed, marks = [], [], []
    for proof in (tmp_path / "1.jsonl", tmp_path / "2.jsonl"):
        model = goodfire(tiny, dictionary, steering=edits, store=str(tmp_path / "store"), proof=str(proof))
        with Passes(model.service.model.model) as passes:
            run = evaluated(model, ["mmlu_171"], limit=2, gen_kwargs={"max_gen_toks": 4})
        found.append(answers(run, "mmlu_171"))
        passed.append(len(passes.shapes))
        marks.append([line["stored"] for line in lines(proof)])
        model.close()
    assert found[0] == found[1]
    assert (passed[0] > 0, passed[1]) == (True, 0)
    assert marks == [[False, False], [True, True]]


def test_auto_steer_is_prepared_once_and_found_again(mmlu, tiny, dictionary, monkeypatch):
    """A second model of the same service finds the first one's edits; another draw may differ and is kept too."""
    first = goodfire(tiny, dictionary, behavior="funny")
    assert first.steering.provenance["method"] == "auto_steer"
    monkeypatch.setattr(
        "model_adapters.backends.ember.EmberBackend.suggest_edits", lambda *_: pytest.fail("asked again")
    )
    assert goodfire(tiny, dictionary, behavior="funny").steering == first.steering
    scaled = goodfire(tiny, dictionary, method="auto_steer_scaled", magnitude=0.5, behavior="funny").steering
    [mine], [theirs] = first.steering.interventions, scaled.interventions
    assert [edit.index for edit in mine.edits] == [edit.index for edit in theirs.edits]
    assert {abs(edit.value) for edit in theirs.edits} == {0.5}


# Inspect


def steered_eval(model, steering_file, fingerprint, tmp_path, **more):
    spec = {"v": 1, "fingerprint": fingerprint, "file": steering_file}
    samples = [Sample(input=text) for text in ("Say hello.", "Say goodbye.")]
    [log] = eval(
        Task(dataset=samples),
        model=model,
        extra_body={"steer": spec},
        max_tokens=12,
        log_dir=str(tmp_path / "logs"),
        display="none",
        **more,
    )
    return log


def test_an_inspect_task_runs_on_a_service(tiny, dictionary, edits, tmp_path):
    """Requests carry the spec, answers equal those of the resolved vectors, and the metadata has the proof."""
    model = get_model(f"goodfire_steered/{tiny}", dictionary=dictionary, dtype="float32")
    log = steered_eval(model, edits, EDITS.fingerprint, tmp_path)
    assert log.status == "success", log.error
    local = HookSteered(pretrained=tiny, dtype="float32", steering=edits, dictionary=dictionary)
    for sample in log.samples:
        report = sample.output.metadata["steer"]
        assert report["fingerprint"] == EDITS.fingerprint
        assert report["proof"]["level"] == "acknowledged"
        messages = (Message("user", str(sample.input)),)
        expected = asyncio.run(local.backend.complete(Request(messages, local.steering, Sampling(max_tokens=12))))
        assert sample.output.completion == expected.text
        assert sample.output.usage.output_tokens == expected.tokens_out


def test_a_service_on_a_port_serves_inspect(dictionary, edits, tmp_path, monkeypatch):
    """With GOODFIRE_BASE_URL the provider asks that service, under the name it serves."""
    with tiny_service(tmp_path) as service, on_a_port(service.app) as url:
        monkeypatch.setenv("GOODFIRE_BASE_URL", url)
        log = steered_eval(get_model("goodfire_steered/tiny"), None, CONTROL.fingerprint, tmp_path)
    assert log.status == "success", log.error
    assert log.samples[0].output.metadata["steer"]["model"]["url"] == url


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"steering": "x.json"}, "would say what is steered"),
        ({"nonsense": 1}, "goodfire_steered has no argument 'nonsense'"),
        ({"goodfire_key": "abc"}, "looks like a key"),
        ({"api_key": "abc"}, "takes its key from GOODFIRE_API_KEY"),
    ],
)
def test_inspect_refuses_what_is_no_argument_of_a_service(arguments, said):
    """What is steered, keys and unknown names are refused by name."""
    with pytest.raises(Refused) as caught:
        get_model("goodfire_steered/embedded", memoize=False, **arguments)
    assert said in str(caught.value)

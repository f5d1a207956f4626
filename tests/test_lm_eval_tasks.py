"""Our lm-eval tasks, under lm-eval's own models: documents, requests, scoring, what the results record."""

import json
import math
from pathlib import Path

import pytest
from lm_eval import simple_evaluate
from lm_eval.models.dummy import DummyLM
from lm_eval.tasks import TaskManager

from model_adapters.errors import SteerError
from model_adapters.harnesses.documents import messages_of, plain_form
from steer_tasks.lm_eval_support import score_cloze, score_letters, score_text
from steer_tasks.protocols import load_protocol
from steer_tasks.questions import load_questions
from tests.tiny_model import tiny_model

TASKS = Path(__file__).parent.parent / "steer_tasks" / "lm_eval_tasks"
FORMS = {"": "chain_of_thought", "_mc": "letter", "_cloze": "cloze"}


def manager(**metadata):
    return TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)


def loaded(name, **metadata):
    return manager(**metadata).load([name])["tasks"][name]


@pytest.mark.parametrize(("name", "count"), [("mmlu_171", 171), ("mmlu_114", 114)])
@pytest.mark.parametrize("suffix", list(FORMS))
def test_every_task_asks_its_questions_with_the_protocols_messages(mmlu, name, count, suffix):
    """Each of the six tasks holds its set in dataset order, and each document the messages of its form."""
    task = loaded(name + suffix)
    questions, protocol = load_questions(name).questions, load_protocol()
    documents = list(task.eval_docs)
    assert len(documents) == count
    assert [document["id"] for document in documents] == [question.id for question in questions]
    for document, question in zip(documents, questions, strict=True):
        messages = protocol.messages(question, FORMS[suffix])
        assert messages_of(document) == messages
        assert task.doc_to_text(document) == plain_form(messages)
        assert document["letter"] == question.letter


def test_a_protocol_brings_its_messages_and_its_sampling(mmlu):
    """`protocol` as it was run sends the arm's messages, by the method in the model's arguments, and samples."""
    protocol = load_protocol("as_run")
    for method, count in (("control", 3), ("prompt", 2), ("auto_steer", 2), ("caa", 3)):
        task = loaded("mmlu_171", protocol="as_run", method=method)
        first = next(iter(task.eval_docs))
        question = load_questions("mmlu_171").questions[0]
        assert messages_of(first) == protocol.messages(question, "chain_of_thought", method)
        assert len(messages_of(first)) == count
        generation = task.config.generation_kwargs
        assert (generation["do_sample"], generation["temperature"], generation["top_p"]) == (True, 0.6, 0.9)
    assert loaded("mmlu_171").config.generation_kwargs["do_sample"] is False


def test_the_folder_holds_nothing_but_our_tasks_and_group():
    """lm-eval makes a task or group of every file there, so there are exactly these."""
    plain = [f"{name}{suffix}.yaml" for name in ("mmlu_171", "mmlu_114") for suffix in FORMS]
    expected = [*plain, "mmlu_171_tradeoff.yaml", "steer_tradeoff.yaml"]
    assert sorted(path.name for path in TASKS.iterdir() if path.name != "__pycache__") == sorted(expected)


@pytest.mark.parametrize("suffix", list(FORMS))
def test_results_record_questions_and_wording_whatever_the_model(mmlu, suffix):
    """Source, count and joint digest of the questions and the protocol's digest are in the results of any model."""
    name = f"mmlu_171{suffix}"
    found = simple_evaluate(model=DummyLM(), tasks=[name], task_manager=manager(), limit=1, bootstrap_iters=0)
    metadata = found["configs"][name]["metadata"]
    assert metadata["questions"] == load_questions("mmlu_171").provenance()
    assert metadata["questions"]["count"] == 171
    assert metadata["protocol"] == load_protocol().provenance()
    assert json.loads(json.dumps(metadata)) == metadata


def test_metadata_may_name_another_source_and_protocol(mmlu_dev, tmp_path):
    """`--metadata` moves a task to a file of questions and to a protocol of the user's own."""
    text = (TASKS.parent / "protocols" / "isolated.yaml").read_text()
    protocol = tmp_path / "mine.yaml"
    protocol.write_text(text.replace("You are a helpful assistant.", "You are terse."))
    task = loaded("mmlu_171_mc", questions_source=str(mmlu_dev), protocol=str(protocol))
    assert messages_of(task.eval_docs[0])[0].content == "You are terse."
    assert task.config.metadata["questions"]["source"].startswith(str(mmlu_dev))


def requests(name, **given):
    task = loaded(name)
    task.set_config("num_fewshot", given.pop("num_fewshot", 0))
    task.set_fewshot_seed(1)
    task.build_all_requests(limit=1, **given)
    return task, task.instances


def test_chain_of_thought_generates_greedily_to_2048_tokens_without_stops(mmlu):
    """The generation arguments are the study's, and no blank line ends an answer."""
    _, (request,) = requests("mmlu_171")
    assert request.args[1] == {"until": [], "do_sample": False, "max_gen_toks": 2048}


def test_letters_and_options_are_scored_without_a_space_before_them(mmlu):
    """By letter A to D, by option the option's text as it stands, are what follows the prompt."""
    question = load_questions("mmlu_171").questions[0]
    _, letters = requests("mmlu_171_mc")
    assert [request.args[1] for request in letters] == ["A", "B", "C", "D"]
    _, options = requests("mmlu_171_cloze")
    assert [request.args[1] for request in options] == list(question.choices)


def test_chat_template_is_given_the_messages_themselves(mmlu):
    """Under --apply_chat_template a model renders exactly the protocol's system and user message."""
    task, (request,) = requests("mmlu_171", apply_chat_template=True, chat_template=lambda turns: json.dumps(turns))
    system, user = messages_of(task.eval_docs[0])
    assert json.loads(request.args[0]) == [
        {"role": "system", "content": system.content},
        {"role": "user", "content": user.content},
    ]


def test_system_instruction_stands_before_the_tasks_own(mmlu):
    """For models that take it, --system_instruction is put in front of the system message."""
    task, (request,) = requests("mmlu_171", system_instruction="Be brief.")
    assert request.args[0] == "Be brief.\n\n" + plain_form(messages_of(task.eval_docs[0]))


def test_few_shot_examples_are_refused(mmlu):
    """The only examples at hand are test questions, so --num_fewshot is an error that says so."""
    with pytest.raises(SteerError, match="mmlu_171 is zero-shot; leave --num_fewshot out"):
        requests("mmlu_171", num_fewshot=2)


def test_scores_of_texts():
    """A right tag counts in both metrics, a wrong letter only as answered, anything else in neither."""
    document = {"letter": "C"}
    assert score_text(document, ["<answer>c</answer>"]) == {"acc": 1.0, "answered": 1.0}
    assert score_text(document, ["<answer>D</answer>"]) == {"acc": 0.0, "answered": 1.0}
    assert score_text(document, ["<answer>The third</answer>"]) == {"acc": 0.0, "answered": 0.0}
    assert score_text(document, ["C"]) == {"acc": 0.0, "answered": 0.0}


def test_scores_of_likelihoods_by_hand():
    """acc takes the total, acc_norm and margin the rate per character: checked against hand-worked numbers."""
    document = {"choices": ["ab", "abcd", "abcdefgh", "a"], "answer": 2}
    totals = [(-4.0, False), (-6.0, False), (-8.0, True), (-3.0, False)]
    # Rates: -2, -1.5, -1, -3. The likeliest as it stands is the last, per character the third.
    assert score_cloze(document, totals) == {"acc": 0.0, "acc_norm": 1.0, "margin": 0.5}
    assert score_cloze({**document, "answer": 3}, totals) == {"acc": 1.0, "acc_norm": 0.0, "margin": -2.0}
    assert score_letters({"answer": 3}, totals) == {"acc": 1.0}
    assert score_letters({"answer": 1}, [(-1.0, False)] * 4) == {"acc": 0.0}
    assert score_cloze(document, [(-1.0, False)] * 4)["margin"] == 0.125


def test_tasks_run_under_lm_evals_own_hf(mmlu, tmp_path):
    """All three forms run on lm-eval's `hf`, with and without its chat template flag."""
    arguments = {"pretrained": str(tiny_model(tmp_path / "tiny")), "device": "cpu", "dtype": "float32"}
    names = ["mmlu_171", "mmlu_171_mc", "mmlu_171_cloze"]
    for flag in (False, True):
        found = simple_evaluate(
            model="hf",
            model_args=arguments,
            tasks=names,
            task_manager=manager(),
            limit=2,
            bootstrap_iters=10,
            gen_kwargs={"max_gen_toks": 4},
            apply_chat_template=flag,
        )["results"]
        assert {"acc,none", "answered,none"} <= found["mmlu_171"].keys()
        assert {"acc,none", "acc_norm,none", "margin,none", "margin_stderr,none"} <= found["mmlu_171_cloze"].keys()
        assert math.isfinite(found["mmlu_171_cloze"]["margin,none"])


@pytest.mark.embedded
@pytest.mark.slow
def test_cloze_accuracy_of_the_embedded_model_is_above_chance(mmlu):
    """On the embedded model the options' texts give about .3 of the 171, above the .25 of guessing."""
    found = simple_evaluate(
        model="hook_steered",
        model_args={"pretrained": "embedded", "method": "control"},
        tasks=["mmlu_171_cloze"],
        task_manager=manager(),
        bootstrap_iters=0,
    )["results"]["mmlu_171_cloze"]
    assert 0.25 < found["acc,none"] < 0.40
    assert 0.25 < found["acc_norm,none"] < 0.40

"""`hook_steered` in lm-eval: parity with `hf`, and which prompt is sent."""

import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM

from model_adapters.errors import Refused
from model_adapters.harnesses.documents import FIELD, plain_form, to_field
from model_adapters.harnesses.lm_eval import HookSteered, PromptSteered
from model_adapters.steering import AddVector, Steering
from model_adapters.steering_file import save_steering
from tests import lm_eval_cases
from tests.lm_eval_cases import (
    MESSAGES,
    ROWS,
    answers,
    close,
    evaluated,
    foreign,
    lines,
    local,
    message_request,
    request,
)
from tests.tiny_model import tiny_model

pytestmark = pytest.mark.usefixtures("registered")


registered = lm_eval_cases.registered
tiny = lm_eval_cases.tiny
bare = lm_eval_cases.bare
vector = lm_eval_cases.vector
sentence = lm_eval_cases.sentence


@pytest.mark.parametrize("flag", [False, True])
def test_control_equals_hf_on_somebody_elses_task(tiny, flag):
    """Unsteered, likelihoods, rolling likelihoods and greedy texts are those of lm-eval's `hf`, templated or not."""
    tasks = [foreign("choice"), foreign("rolling"), foreign("text")]
    theirs = evaluated(HFLM(**local(tiny), batch_size=2), tasks, apply_chat_template=flag)
    model = HookSteered(**local(tiny), method="control")
    ours = evaluated(model, tasks, apply_chat_template=flag)
    for sample, other in zip(answers(ours, "foreign_choice"), answers(theirs, "foreign_choice"), strict=True):
        for [(total, greedy)], [(other_total, other_greedy)] in zip(sample, other, strict=True):
            assert close(total, other_total)
            assert greedy == other_greedy
    for [[total]], [[other_total]] in zip(
        answers(ours, "foreign_rolling"), answers(theirs, "foreign_rolling"), strict=True
    ):
        assert close(total, other_total)
    assert answers(ours, "foreign_text") == answers(theirs, "foreign_text")
    assert ours["results"]["foreign_choice"]["acc,none"] == theirs["results"]["foreign_choice"]["acc,none"]
    model.close()


def test_a_steering_without_effect_equals_the_control_bit_for_bit(tiny, vector, tmp_path):
    """A vector times zero gives exactly the control's likelihoods and texts; times one it gives others."""
    idle = save_steering(Steering((AddVector(1, np.ones(32, "f4"), 0.0),)), tmp_path / "idle.json")
    tasks = [foreign("choice"), foreign("rolling"), foreign("text")]
    found = {
        name: evaluated(HookSteered(**local(tiny), **chosen), tasks)
        for name, chosen in {
            "control": {"method": "control"},
            "idle": {"steering": str(idle)},
            "vector": {"steering": vector},
        }.items()
    }
    for task in ("foreign_choice", "foreign_rolling", "foreign_text"):
        assert answers(found["idle"], task) == answers(found["control"], task)
        assert answers(found["vector"], task) != answers(found["control"], task)


def test_our_tasks_are_chat_without_the_flag_and_equal_hf_with_it(mmlu, tiny):
    """`chat_template=auto` sends our documents as chat even without the flag: what `hf` sends with it."""
    tasks = ["mmlu_171_mc", "mmlu_171_cloze", "mmlu_171"]
    short = {"limit": 2, "gen_kwargs": {"max_gen_toks": 6}}
    theirs = evaluated("hf", tasks, local(tiny), apply_chat_template=True, **short)
    for flag in (False, True):
        ours = evaluated("hook_steered", tasks, local(tiny, method="control"), apply_chat_template=flag, **short)
        assert_same(ours, theirs)
    plain = evaluated("hf", tasks, local(tiny), **short)
    never = evaluated("hook_steered", tasks, local(tiny, method="control", chat_template="never"), **short)
    assert_same(never, plain)
    assert answers(plain, "mmlu_171_mc") != answers(theirs, "mmlu_171_mc")


def assert_same(ours, theirs):
    for task in ("mmlu_171_mc", "mmlu_171_cloze"):
        for sample, other in zip(answers(ours, task), answers(theirs, task), strict=True):
            assert close([one[0][0] for one in sample], [one[0][0] for one in other])
    assert answers(ours, "mmlu_171") == answers(theirs, "mmlu_171")


def test_long_prompts_are_cut_from_the_left_as_hf_cuts_them(tiny, tmp_path):
    """A prompt that doesn't fit loses the same tokens as in `hf`, and the proof file says how many."""
    tasks = [foreign("text"), foreign("choice")]
    theirs = evaluated(HFLM(**local(tiny), max_length=24, batch_size=1), tasks)
    ours = evaluated(
        HookSteered(**local(tiny), method="control", max_length=24, proof=str(tmp_path / "p.jsonl")), tasks
    )
    assert answers(ours, "foreign_text") == answers(theirs, "foreign_text")
    for sample, other in zip(answers(ours, "foreign_choice"), answers(theirs, "foreign_choice"), strict=True):
        assert close([one[0][0] for one in sample], [one[0][0] for one in other])
    cut = [line["tokens_cut"] for line in lines(tmp_path / "p.jsonl") if line["request_type"] == "generate_until"]
    assert sorted(cut) == sorted(max(0, len(row["q"]) - 12) for row in ROWS)


@pytest.mark.parametrize("think", ["e", 71])
def test_thinking_is_cut_off_as_in_hf(tiny, think):
    """`think_end_token`, as text or as token id, leaves what `hf` leaves."""
    theirs = HFLM(**local(tiny), think_end_token=think)
    ours = HookSteered(**local(tiny), method="control", think_end_token=think)
    asked = [
        request("generate_until", row["q"], {"until": ["x"], "max_gen_toks": 40}, index=i) for i, row in enumerate(ROWS)
    ]
    assert ours.generate_until(asked, disable_tqdm=True) == theirs.generate_until(asked, disable_tqdm=True)


def test_the_documents_messages_are_sent_with_the_steerings_prompt_in_them(tiny, sentence, tmp_path):
    """The proof file holds the messages as sent: the document's, and the steering's sentence after a blank line."""
    path = tmp_path / "deep" / "p.jsonl"
    model = HookSteered(**local(tiny), steering=sentence, proof=str(path))
    model.generate_until([message_request(plain_form(MESSAGES))], disable_tqdm=True)
    (line,) = lines(path)
    assert line["messages_sent"] == [
        {"role": "system", "content": "Be exact.\n\nBe funny."},
        {"role": "user", "content": "Count to three."},
    ]
    assert line["proof"]["identity"] == line["run"] == model.backend.identity.run(model.steering.fingerprint)
    assert (line["task"], line["doc_id"], line["sample_index"]) == ("task", 0, 0)


def test_altered_prompts_of_our_documents_are_refused(tiny):
    """Few-shot examples or a system instruction in front of our messages are refused with the remedy."""
    model = HookSteered(**local(tiny), method="control")
    for prompt in ("Example.\n\n" + plain_form(MESSAGES), "Be brief.\n\n" + plain_form(MESSAGES)):
        with pytest.raises(Refused, match="leave --num_fewshot and --system_instruction out"):
            model.generate_until([message_request(prompt)], disable_tqdm=True)
    for prompt in (plain_form(MESSAGES), model.apply_chat_template([vars(one) for one in MESSAGES])):
        assert len(model.generate_until([message_request(prompt)], disable_tqdm=True)) == 1


def test_never_sends_the_prompt_as_it_is_and_always_makes_one_turn_of_it(tiny, tmp_path):
    """`never` sends lm-eval's own text, `always` wraps it once, and not where it is templated already."""
    for mode, prompt, sent in [
        ("never", plain_form(MESSAGES), None),
        ("auto", "Hello", None),
        ("always", "Hello", [{"role": "user", "content": "Hello"}]),
        ("always", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", None),
    ]:
        path = tmp_path / f"{mode}{len(prompt)}.jsonl"
        model = HookSteered(**local(tiny), method="control", chat_template=mode, proof=str(path))
        doc = {FIELD: to_field(MESSAGES)} if prompt == plain_form(MESSAGES) else {}
        model.generate_until([message_request(prompt, doc=doc)], disable_tqdm=True)
        assert [line["messages_sent"] for line in lines(path)] == [sent]


def test_a_tokenizer_without_template_is_refused_with_the_remedy(bare):
    """Our tasks need a chat template under `auto`; without one the error names chat_template=never, which runs."""
    with pytest.raises(Refused, match="use chat_template=never"):
        HookSteered(**local(bare), method="control").generate_until([message_request(plain_form(MESSAGES))])
    model = HookSteered(**local(bare), method="control", chat_template="never")
    assert len(model.generate_until([message_request(plain_form(MESSAGES))], disable_tqdm=True)) == 1


def test_a_system_prompt_enters_foreign_tasks_through_the_template_only(tiny, sentence):
    """On somebody else's task a prompt steering needs --apply_chat_template, and enters the cache's key."""
    model = HookSteered(**local(tiny), steering=sentence)
    with pytest.raises(Refused, match="add --apply_chat_template"):
        evaluated(model, [foreign("text")])
    with pytest.raises(Refused, match="scored whole"):
        evaluated(model, [foreign("rolling")])
    found = evaluated(model, [foreign("text")], apply_chat_template=True)
    prompt = found["samples"]["foreign_text"][0]["arguments"][0][0]
    turns = ("<|im_start|>system\nBe funny.", "<|im_start|>user\nThe sky is", "<|im_start|>assistant\n")
    assert prompt == "<|im_end|>\n".join(turns)
    assert model.steering.fingerprint in model.tokenizer_name
    assert HookSteered(**local(tiny), method="control").tokenizer_name == HFLM(**local(tiny)).tokenizer_name


def test_a_template_that_drops_system_messages_is_refused(tmp_path, sentence):
    """Where a template has no system role, a prompt steering is an error and never silently left out."""
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    name = str(tiny_model(tmp_path / "gemma", template=template))
    turns = [{"role": "user", "content": "Hello"}]
    with pytest.raises(Refused, match="no system role"):
        HookSteered(**local(name), steering=sentence).apply_chat_template(turns)
    with pytest.raises(Refused, match="drops system messages"):
        PromptSteered(base="hf", **local(name), steering=sentence).apply_chat_template(turns)

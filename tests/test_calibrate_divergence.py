"""KL from the control: against torch on the tiny model, and its arithmetic."""

import asyncio

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.backend import Message, with_system_prompts
from model_adapters.backends.ember.backend import EmberBackend
from model_adapters.backends.response_store import ResponseStore
from model_adapters.backends.stored import divergence_key
from model_adapters.backends.vllm.backend import VllmBackend
from model_adapters.backends.wrapped import WrappedBackend
from model_adapters.errors import Refused
from model_adapters.steering import CONTROL, Steering, SystemPrompt
from steer_tasks.calibrate.cost import Cost, Counted
from steer_tasks.calibrate.divergence import (
    SLICE,
    Divergence,
    Spoken,
    check_distributions,
    control_answers,
    divergence,
    token_divergences,
)
from tests.fake_backend import SpeakingBackend
from tests.tiny_backend import added, another_model, opened, run, tiny, user


def spoken(backend, count=3):
    return run(control_answers(Counted(backend, backend)))[:count]


def oracle(model, tokenizer, prompt, answer, steering):
    """KL of each token of an answer, by torch alone: one plain pass, one with the vector added by a hook."""
    text = tokenizer.apply_chat_template(
        [{"role": one.role, "content": one.content} for one in prompt], tokenize=False, add_generation_prompt=True
    )
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = torch.tensor([[*tokens, *answer]])

    def logs(hook_on):
        handles = []
        for one in steering.on_residuals if hook_on else ():

            def hook(_block, _inputs, output, one=one):
                output[:, len(tokens) - 1 :] += torch.tensor(one.vector) * one.coefficient
                return output

            handles.append(model.model.layers[one.layer].register_forward_hook(hook))
        with torch.no_grad():
            found = model(whole).logits.double().log_softmax(-1)[0, len(tokens) - 1 : -1]
        for handle in handles:
            handle.remove()
        return found

    control, steered = logs(False), logs(True)
    return torch.nn.functional.kl_div(steered, control, log_target=True, reduction="none").sum(-1)


def test_kl_is_torchs_on_the_controls_own_answers():
    """The mean over all tokens of all answers equals a plain torch computation in float64."""
    model, steering = another_model(), added(1, 0, 0.4)
    with opened(model) as backend:
        answers = spoken(backend)
        found = run(divergence(Counted(backend, backend), steering, answers))
    expected = [oracle(model, tiny()[1], one.prompt, one.answer, steering) for one in answers]
    assert found.tokens == {one.id: len(values) for one, values in zip(answers, expected, strict=True)}
    assert list(found.sums.values()) == pytest.approx([float(values.sum()) for values in expected], rel=1e-4)
    assert found.mean == pytest.approx(float(torch.cat(expected).mean()), rel=1e-4)
    assert found.mean > 1e-3


def test_the_control_is_at_no_distance_from_itself():
    """KL of the empty steering, and of a vector times zero, is zero up to rounding."""
    with opened() as backend:
        answers = spoken(backend)
        for nothing in (CONTROL, added().scaled(0)):
            assert run(divergence(Counted(backend, backend), nothing, answers)).mean == pytest.approx(0, abs=1e-7)


def test_a_prompt_has_a_kl_too():
    """A system prompt's distance is measured on the same answers, after the other messages."""
    said = Steering((SystemPrompt("Be brief."),))
    assert with_system_prompts(user(), said)[0] == Message("system", "Be brief.")
    with opened() as backend:
        assert run(divergence(Counted(backend, backend), said, spoken(backend))).mean > 1e-3


def test_what_was_asked_is_counted():
    """Both arms' distributions count their prompts and answers' tokens, and the control's answers what they wrote."""
    with opened() as backend:
        counted = Counted(backend, backend)
        answers = run(control_answers(counted))
        before = counted.cost
        assert before.generated == sum(len(one.answer) for one in answers)
        run(divergence(counted, added(), answers))
        used = counted.cost.since(before)
    assert used.scored == 2 * sum(len(one.answer) for one in answers)
    assert used.requests == 2 * len(answers)
    assert used.prompt == before.prompt * 2


@given(rows=st.integers(1, 2 * SLICE + 1), width=st.integers(2, 7), seed=st.integers(0, 1000))
def test_slices_make_no_difference_and_no_row_is_negative(rows, width, seed):
    """Row by row the sum over the vocabulary is the textbook one, whatever the number of rows."""
    drawn = np.random.default_rng(seed).normal(0, 5, (2, rows, width))
    logs = (drawn - np.logaddexp.reduce(drawn, axis=-1, keepdims=True)).astype(np.float32)
    found = token_divergences(*logs)
    p, q = (np.exp(one.astype(np.float64)) for one in logs)
    assert found == pytest.approx((p * (np.log(p) - np.log(q))).sum(-1), rel=1e-6, abs=1e-6)
    assert found.dtype == np.float64
    assert found.min() > -1e-6


def test_a_token_without_probability_adds_nothing():
    """Where the control gives a token no probability, it doesn't count, whatever the steered model gives it."""
    with np.errstate(divide="ignore"):
        control, steered = np.log([[1.0, 0.0, 0.0]]), np.log([[0.5, 0.5, 0.0]])
    assert token_divergences(control, steered) == pytest.approx([np.log(2)])


def test_shares_have_the_ratio_as_their_mean():
    """The numbers that limits are computed from average to KL per token, long answers weighing more."""
    found = Divergence({"a": 6.0, "b": 1.0, "c": 9.0}, {"a": 2, "b": 1, "c": 9})
    shares = found.shares(["a", "b"])
    assert sum(shares.values()) / 2 == pytest.approx(7 / 3)
    assert shares["a"] - shares["b"] == pytest.approx((2 / 3) * ((6 - 2 * 7 / 3) - (1 - 7 / 3)))
    assert found.mean == pytest.approx(16 / 12)


def test_backends_without_distributions_are_refused_by_name():
    """Prompt-only models, services and vLLM servers give no whole distributions."""
    with pytest.raises(Refused, match=r"'fake'.*distributions"):
        check_distributions(SpeakingBackend())
    for kind in (VllmBackend, EmberBackend, WrappedBackend):
        with pytest.raises(Refused, match=rf"'{kind.name}'.*distributions"):
            check_distributions(object.__new__(kind))


def test_a_silent_model_is_refused():
    """Where the control answers nothing to any neutral prompt, there is nothing to measure on."""
    silent = SpeakingBackend(lambda messages: "")
    with pytest.raises(Refused, match="says nothing"):
        asyncio.run(control_answers(Counted(silent, silent)))
    assert Spoken("neutral/0", user(), (1, 2)).answer == (1, 2)


def test_a_divergence_is_kept_by_what_it_was_read_from(tmp_path):
    """The same steering on the same answers is read once; another steering, answer or damaged entry is read anew."""
    store = ResponseStore(tmp_path)
    with opened() as backend:
        counted = Counted(backend, backend, store)
        answers = spoken(counted.source, 2)
        first = run(divergence(counted, added(), answers))
        before = counted.cost
        assert run(divergence(counted, added(), answers)) == first
        assert counted.cost.since(before) == Cost(stored=4)
        longer = [Spoken(one.id, one.prompt, [*one.answer, 5]) for one in answers]
        assert run(divergence(counted, added(), longer)).tokens == {id_: n + 1 for id_, n in first.tokens.items()}
        assert run(divergence(counted, added(seed=9), answers)).sums != first.sums
        key = divergence_key(answers[0].prompt, answers[0].answer, added(), backend.identity)
        for damaged in ([1.0], ["x", 3], [1.0, 0], [None, 2], [1.0, True]):
            run(store.put(key, damaged))
            again = run(divergence(counted, added(), answers[:1]))
            assert again.sums["neutral/0"] == pytest.approx(first.sums["neutral/0"], rel=1e-4)
    store.close()

"""What calibration reads off a model: against plain transformers in float32, and when an answer fails."""

import asyncio

import pytest
import torch

from model_adapters.behavior import Contrast
from steer_tasks.calibrate.cost import Counted, together
from steer_tasks.calibrate.material import Half, Pair
from steer_tasks.calibrate.measurement import Measuring
from steer_tasks.calibrate.outcomes import LOSSES, OBJECTIVES
from steer_tasks.protocols import load_protocol
from steer_tasks.questions import Question
from tests.tiny_backend import added, another_model, opened, run, tiny

QUESTIONS = (
    Question("sums/3", "sums", 3, "What is 1 + 1?", ("1", "2", "3", "4"), 1),
    Question("sums/4", "sums", 4, "And 2 + 2?", ("4", "5", "6", "7"), 0),
)
PAIRS = (
    Pair("contrast/0", Contrast("How was it?", "Ha, what a day!", "It was as usual.")),
    Pair("contrast/1", Contrast("Who is there?", "A cow. Interrupting cow.", "The neighbour.")),
)
PROTOCOL = load_protocol("isolated")


def rates(model, tokenizer, messages, text, steering):
    """Log-probabilities of the white space that ends the template's header and of the tokens of `text`, by one plain
    pass in which hooks add the vectors of `steering` from the prompt's last token on."""
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    start, bare = (len(tokenizer(one, add_special_tokens=False)["input_ids"]) for one in (prompt, prompt.rstrip()))
    tokens = torch.tensor([tokenizer(prompt + text, add_special_tokens=False)["input_ids"]])
    handles = []
    for one in steering.on_residuals:

        def hook(_block, _inputs, output, one=one):
            output[:, start - 1 :] += torch.tensor(one.vector) * one.coefficient
            return output

        handles.append(model.model.layers[one.layer].register_forward_hook(hook))
    with torch.no_grad():
        logs = model(tokens).logits.log_softmax(-1)[0, bare - 1 : -1]
    for handle in handles:
        handle.remove()
    return logs.gather(1, tokens[0, bare:, None])[:, 0]


def test_llr_and_margin_are_those_of_plain_transformers():
    """llr is the mean log-probability per token of a behavior's text minus its neutral one's, the newline that ends the
    template's header scored with either as lm-eval does; margin the right letter's minus the best wrong one's."""
    steering, model, tokenizer = added(1, 0, 0.4) + added(2, 3, 0.2), another_model(), tiny()[1]
    outcomes = (OBJECTIVES["llr"], LOSSES["margin"], LOSSES["letter"])
    with opened(model) as backend:
        measuring = Measuring(Counted(backend, backend), PROTOCOL, outcomes, PROTOCOL.sampling)
        found = run(measuring.measure(steering, Half(QUESTIONS, (), PAIRS)))
    for pair in PAIRS:
        asked = [{"role": "user", "content": pair.contrast.prompt}]
        own, neutral = (
            rates(model, tokenizer, asked, text, steering) for text in (pair.contrast.positive, pair.contrast.negative)
        )
        assert len(own) != len(neutral)
        assert found["llr"][pair.id] == pytest.approx(float(own.mean() - neutral.mean()), abs=1e-4)
    for one in QUESTIONS:
        asked = [{"role": said.role, "content": said.content} for said in PROTOCOL.messages(one, "letter")]
        logs = {letter: float(rates(model, tokenizer, asked, letter, steering).sum()) for letter in "ABCD"}
        right = logs.pop(one.letter)
        assert found["margin"][one.id] == pytest.approx(right - max(logs.values()), abs=1e-4)
        assert found["letter"][one.id] == float(right > max(logs.values()))


def test_the_first_failure_cancels_what_is_under_way():
    """When one of several fails, the others are ended before the error is passed on."""
    ended = []

    async def slow():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")

    async def failing():
        await asyncio.sleep(0)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run(together([slow(), failing(), slow()]))
    assert ended == ["slow", "slow"]
    assert run(together([asyncio.sleep(0, 1), asyncio.sleep(0, 2)])) == [1, 2]

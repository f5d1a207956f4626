"""Models of many kinds, tiny and random: each answers as transformers' own `generate` does, one by one."""

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from model_adapters.backend import Request, Sampling, Text
from model_adapters.backends.local.layers import decoder_blocks
from model_adapters.errors import SteerError
from model_adapters.steering import CONTROL, AddVector, Steering
from tests.tiny_backend import added, opened, run, tiny, together, vector

GAP = 1e-3
CONTEXT = 160
WORDS = {"vocab_size": 259, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = {
    **WORDS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
GPT = {**WORDS, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 3, "n_head": 4}
FALCON = {**WORDS, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
OPT = {"ffn_dim": 64, "word_embed_proj_dim": 32, **{k: v for k, v in LLAMA.items() if "intermed" not in k}}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
NARROW = {"head_dim": 8, "sliding_window": 12}
MIXED = ["linear_attention", "full_attention", "linear_attention"]

CONTINUOUS: dict[str, dict[str, Any]] = {
    "GPT2": GPT,
    "OPT": OPT,
    "Phi": LLAMA,
    "Falcon": {**FALCON, "multi_query": True},
    "Falcon:alibi": {**FALCON, "alibi": True},
    "Bloom": {**WORDS, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "Mistral": {**LLAMA, "sliding_window": 12},
    "Qwen2": {**LLAMA, "use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    "Qwen3": {**LLAMA, "head_dim": 8},
    "Gemma2": {**LLAMA, **NARROW, "query_pre_attn_scalar": 8},
    "Gemma3": {**LLAMA, **NARROW, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    "Mixtral": {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2Moe": {**LLAMA, **EXPERTS, "shared_expert_intermediate_size": 16},
}
STATIC: dict[str, dict[str, Any]] = {
    "Mpt": {**WORDS, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": CONTEXT},
    "Mamba": {**WORDS, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 3},
    "Lfm2": {**LLAMA, "layer_types": ["conv", "full_attention", "conv"]},
    "Qwen3Next": {**LLAMA, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16, "layer_types": MIXED},
}


def model_of(name: str, arguments: dict[str, Any]) -> Any:
    """A random model in float32 whose answers vary."""
    kind = name.partition(":")[0]
    config = getattr(transformers, "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config")(**arguments)
    torch.manual_seed(0)
    model = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config)
    for part in model.parameters():
        if part.dim() > 1:
            torch.nn.init.normal_(part, std=0.25)
    return model.float().eval()


@dataclass(frozen=True)
class Asked:
    """A greedy question, its steering, and when it comes."""

    text: str
    seed: int | None
    limit: int
    pause: float

    @property
    def request(self) -> Request:
        """As the backend takes it."""
        steering = CONTROL if self.seed is None else Steering((AddVector(1, vector(self.seed, 2.0)),))
        return Request(Text(self.text), steering, Sampling(max_tokens=self.limit))


def asked(number: int) -> list[Asked]:
    """Short and long prompts and limits, three steerings and none, some a little later."""
    dice = random.Random(number)
    return [
        Asked(
            "".join(dice.choices("abcdefgh ", k=dice.choice([1, 2, 2, 5, 20, 70]))),
            dice.choice([None, 1, 2, 3]),
            dice.choice([1, 3, 10, 40, 70]),
            dice.choice([0, 0, 0.02]),
        )
        for _ in range(10)
    ]


@torch.inference_mode()
def generated(model: Any, one: Asked) -> tuple[list[int], list[float]]:
    """transformers' own greedy answer, and how far the second token was behind at each step."""
    tokens = tiny()[1](one.text, add_special_tokens=False).input_ids
    handle = None
    if one.seed is not None:

        def steer(_block: Any, _inputs: Any, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[:, -1] += torch.tensor(vector(one.seed or 0, 2.0))
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = decoder_blocks(model)[1].register_forward_hook(steer)
    told = model.generate(
        torch.tensor([tokens]),
        attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
        max_new_tokens=min(one.limit, CONTEXT - len(tokens)),
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    if handle is not None:
        handle.remove()
    best = [step[0].topk(2).values for step in told.logits]
    return told.sequences[0, len(tokens) :].tolist(), [float(two[0] - two[1]) for two in best]


def answers(model: Any, questions: list[Asked], rows: int) -> list[tuple[int, ...]]:
    """Tokens of all of them, asked together."""

    async def ask(backend: Any) -> list[Any]:
        tasks = []
        for one in questions:
            tasks.append(asyncio.create_task(backend.complete(one.request)))
            await asyncio.sleep(one.pause)
        return await asyncio.gather(*tasks)

    with opened(model, max_length=CONTEXT, rows=rows) as backend:
        return [one.token_ids for one in run(ask(backend))]


def assert_generated(model: Any, questions: list[Asked], rows: int) -> None:
    """Equal to `generate` up to the first step whose two best tokens are too near to tell."""
    for one, found in zip(questions, answers(model, questions, rows), strict=True):
        expected, gaps = generated(model, one)
        step = next((i for i, (x, y) in enumerate(zip(found, expected, strict=False)) if x != y), len(expected))
        if step == len(expected):
            assert len(found) == len(expected)
        else:
            assert gaps[step] < GAP, f"{one}: step {step} differs for no reason"


@pytest.mark.parametrize("name", CONTINUOUS)
def test_answers_of_a_mixed_batch_are_those_of_generate(name):
    """Rows that come and go under several steerings, whatever the architecture; hooks and attention are given back."""
    model = model_of(name, CONTINUOUS[name])
    attention = model.config._attn_implementation
    with opened(model) as backend:
        assert backend._engine.writer._decoder is not None
    assert_generated(model, asked(0), rows=4)
    assert model.config._attn_implementation == attention
    assert not any(part._forward_hooks for part in model.modules())


@pytest.mark.parametrize("name", STATIC)
def test_a_model_without_plain_keys_and_values_is_served_in_static_batches(name, caplog):
    """Its answers are those of `generate`, its scores don't depend on company, and the log says how it is served."""
    model = model_of(name, STATIC[name])
    with caplog.at_level(logging.WARNING):
        assert_generated(model, asked(1), rows=4)
    assert "not one of plain keys and values; static batches" in caplog.text

    async def scores(backend: Any) -> list[Any]:
        pairs = [("ab", "c"), ("ab", "d"), ("abcdef", "gh"), ("a", "bcdefgh"), ("ab", "cd")]
        singly = [await backend.score(Text(prompt), said, added(1, 2)) for prompt, said in pairs]
        return [singly, await asyncio.gather(*(backend.score(Text(p), said, added(1, 2)) for p, said in pairs))]

    with opened(model, max_length=CONTEXT) as backend:
        singly, beside = run(scores(backend))
    for one, other in zip(singly, beside, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_a_model_that_keeps_its_state_elsewhere_can_score_and_refuses_to_write():
    """The refusal names the model and what it can do."""
    model = model_of("Rwkv", {**WORDS, "hidden_size": 32, "num_hidden_layers": 3, "context_length": CONTEXT})
    with opened(model, max_length=CONTEXT) as backend:
        (refusal,) = together(backend, [Request(Text("abc"), CONTROL, Sampling(max_tokens=5))])
        score = run(backend.score(Text("abc"), "de", CONTROL))
    assert isinstance(refusal, SteerError)
    assert "RwkvForCausalLM keeps what it read in no cache of transformers' kind" in str(refusal)
    assert len(score.logprobs) == 2

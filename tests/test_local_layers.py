"""What a steering does to the residual stream: exact, at the chosen layer and positions, and nowhere else."""

import threading

import numpy as np
import pytest
import torch

from model_adapters.backend import Request, Sampling, Text
from model_adapters.backends.local.blocks import SteeredBlocks
from model_adapters.backends.local.layers import decoder_blocks
from model_adapters.errors import NotApplied, SteerError
from model_adapters.steering import CONTROL, AddVector, Steering
from tests.tiny_backend import (
    MANY_STEERINGS,
    N_LAYERS,
    Passes,
    Recorder,
    ablate,
    added,
    alone,
    another_model,
    clamp,
    opened,
    run,
    tiny,
    together,
    user,
    vector,
    watched,
)

TEN = Sampling(max_tokens=10)


def is_steered(positions, number, tokens):
    """`(tokens,)` bool: which columns of pass `number` a steering of these positions touches; the rule by hand.

    A prompt that is left alone is read without its last token, which is a pass of its own.
    """
    columns = torch.arange(tokens)
    if positions == "response":
        return torch.full((tokens,), number > 0)
    if number > 0:
        return torch.full((tokens,), positions != "prompt")
    last = columns == tokens - 1
    return {"all": torch.ones(tokens, dtype=torch.bool), "prompt": ~last}[positions]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_the_delta_is_exact_at_prefill_and_at_every_generated_step(positions, dtype):
    """h' = h + (coefficient * vector).to(dtype), bit for bit, under the KV cache; all else is bare."""
    steering = added(2, 0, 1.7, positions)
    delta = (torch.tensor(vector(0)) * 1.7).to(dtype)
    with watched(another_model(dtype)) as (backend, before, after):
        done = alone(backend, Request(user(), steering, TEN))
    assert len(after.passes) == done.tokens_out + (positions == "response") == 10 + (positions == "response")
    for number, (bare, steered) in enumerate(zip(before.passes, after.passes, strict=True)):
        mask = is_steered(positions, number, bare[0].shape[1])
        if number == 0 and positions != "response":
            mask[: -done.tokens_in] = False  # padding, where widths are rounded
        assert torch.equal(steered[2][0, mask], bare[2][0, mask] + delta)
        assert torch.equal(steered[2][0, ~mask], bare[2][0, ~mask])
        for layer in (0, 1, 3):
            assert torch.equal(steered[layer], bare[layer])


def test_layers_before_the_steered_one_are_those_of_the_control():
    """Up to the steered layer the forward pass is the control's bit for bit; from there on it differs."""
    with watched(another_model()) as (backend, _, after):
        alone(backend, Request(user(), CONTROL, Sampling(max_tokens=1)))
        alone(backend, Request(user(), added(2), Sampling(max_tokens=1)))
    _, control, steered = after.passes  # the prompt is read once
    assert [torch.equal(a, b) for a, b in zip(control, steered, strict=True)] == [True, True, False, False]


def test_response_steering_changes_the_first_response_token():
    """The last prompt position predicts the first response token, so `response` steers it and `prompt` does not."""
    last = N_LAYERS - 1  # nothing attends to the last block's output, so only its own position can change
    with opened() as backend:
        control, response, prompt = (
            run(backend.distributions(user(), [70, 71, 72], steering))
            for steering in (CONTROL, added(last), added(last, positions="prompt"))
        )
        proof = alone(backend, Request(user(), added(last), TEN)).proof
    assert (response[0] != control[0]).any()
    assert np.array_equal(prompt, control)
    assert proof.first_response_token is True


@pytest.mark.parametrize(
    ("positions", "touched", "first"),
    [("all", (19, 10), True), ("prompt", (19, 0), False), ("response", (0, 10), True)],
)
def test_the_proof_counts_what_was_touched(positions, touched, first):
    """A prompt of 20 tokens has 19 prompt positions; an answer of 10 tokens has 10 response positions."""
    with opened() as backend:
        done = alone(backend, Request(Text("a" * 20), added(1, positions=positions), TEN))
    assert (done.tokens_in, done.tokens_out) == (20, 10)
    assert (done.proof.prompt_tokens_touched, done.proof.response_tokens_touched) == touched
    assert done.proof.first_response_token is first
    assert done.proof.level == "measured"


def test_the_proof_measures_the_dose():
    """A layer's dose is the mean of ‖Δ‖/‖h‖ over touched tokens, h as it came in; the first position is told apart."""
    with watched(another_model()) as (backend, before, _):
        done = alone(backend, Request(Text("abcdef"), added(1, 0, 2.0, "all"), TEN))
    (dose,) = done.proof.doses
    norms = torch.cat([bare[1][0].norm(dim=-1) for bare in before.passes]).double()
    assert dose.layer == 1
    assert dose.dose == pytest.approx((6.0 / norms[1:]).mean().item(), rel=1e-5)
    assert dose.first_position_dose == pytest.approx(6.0 / norms[0].item(), rel=1e-5)


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_a_one_token_prompt_is_all_response(positions):
    """The only prompt token predicts the first response token: `prompt` touches nothing, the others everything."""
    with opened() as backend:
        done = alone(backend, Request(Text("a"), added(1, positions=positions), TEN))
        control = alone(backend, Request(Text("a"), CONTROL, TEN))
        steered = run(backend.distributions(Text("a"), control.token_ids, added(1, positions=positions)))
        bare = run(backend.distributions(Text("a"), control.token_ids))
    assert (done.tokens_in, done.proof.prompt_tokens_touched) == (1, 0)
    assert done.proof.response_tokens_touched == (0 if positions == "prompt" else 10)
    assert np.array_equal(steered, bare) == (positions == "prompt")


def test_vectors_on_one_layer_are_summed_in_float32_before_they_are_cast():
    """Two vectors that bfloat16 would each swallow act together: the sum is rounded once."""
    parts = tuple(AddVector(1, vector(seed), 0.4, "all") for seed in range(5))
    whole = sum((torch.tensor(vector(seed)) * 0.4 for seed in range(5)), torch.zeros(32)).to(torch.bfloat16)
    with watched(another_model(torch.bfloat16)) as (backend, before, after):
        done = alone(backend, Request(user(), Steering(parts), Sampling(max_tokens=1)))
    steered, bare = (recorder.passes[0][1][0, -done.tokens_in :] for recorder in (after, before))
    assert torch.equal(steered, bare + whole)


def test_a_vector_and_its_opposite_are_the_control():
    """v plus -v touches no token, and that is no error."""
    both = added(1) + added(1, coefficient=-1.0)
    with opened() as backend:
        done, control = (alone(backend, Request(user(), steering, TEN)) for steering in (both, CONTROL))
    assert done.token_ids == control.token_ids
    assert done.proof.response_tokens_touched == 0


def test_opposites_at_different_positions_do_not_cancel():
    """v over all and -v over the response leave the prompt steered, and the proof says so."""
    both = added(1, positions="all") + added(1, coefficient=-1.0)
    with opened() as backend:
        done = alone(backend, Request(Text("abcd"), both, TEN))
    assert (done.proof.prompt_tokens_touched, done.proof.response_tokens_touched) == (3, 0)


def prefill(steering):
    """Outputs of block 1 before and after, `(tokens, d_model)`, for a prompt of 8 tokens."""
    with watched(another_model()) as (backend, before, after):
        alone(backend, Request(Text("abcdefgh"), steering, Sampling(max_tokens=1)))
    return before.passes[0][1][0].double(), after.passes[0][1][0].double()


def clamp_by_hand(one, h):
    """(value - relu(encoder · h + bias)) * decoder, for each token."""
    active = np.maximum(h.numpy() @ one.encoder.astype("f8") + one.bias, 0.0)
    return torch.tensor((one.value - active)[:, None] * one.decoder.astype("f8"))


def ablation_by_hand(one, h):
    """-fraction * (h · u) u, for each token."""
    unit = one.direction.astype("f8") / np.linalg.norm(one.direction.astype("f8"))
    return torch.tensor(-one.fraction * (h.numpy() @ unit)[:, None] * unit)


def test_a_clamp_reads_the_encoder_and_keeps_the_rest_of_the_residual():
    """A clamp adds (value - f) * decoder with f = relu(encoder · h + bias), so what it does not explain stays."""
    one = clamp(1, positions="all")
    h, steered = prefill(Steering((one,)))
    active = h.numpy() @ one.encoder + one.bias
    assert (active > 0).any()
    assert (active < 0).any()
    torch.testing.assert_close(steered, h + clamp_by_hand(one, h), atol=1e-5, rtol=1e-5)


def test_two_features_on_one_layer_both_act():
    """Neither of two clamps on one layer is dropped."""
    one, other = clamp(1, 5, 4.0, "all"), clamp(1, 15, -3.0, "all")
    h, steered = prefill(Steering((one, other)))
    expected = h + clamp_by_hand(one, h) + clamp_by_hand(other, h)
    torch.testing.assert_close(steered, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fraction", [1.0, 0.25])
def test_an_ablation_leaves_the_rest_of_the_component(fraction):
    """After removing a fraction of a direction, 1 - fraction of its component is left, and all that is orthogonal."""
    one = ablate(1, 7, fraction, "all")
    h, steered = prefill(Steering((one,)))
    unit = torch.tensor(one.direction).double()
    unit = unit / unit.norm()
    torch.testing.assert_close(steered @ unit, (1 - fraction) * (h @ unit), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        steered - (steered @ unit)[:, None] * unit, h - (h @ unit)[:, None] * unit, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_clamps_and_ablations_read_the_incoming_residual_and_vectors_come_last(order):
    """Whatever order they are listed in, every clamp and ablation reads h itself, and vectors are added to the sum."""
    vectors = added(1, positions="all").interventions
    parts = (clamp(1, positions="all"), ablate(1, 7, 1.0, "all"), ablate(1, 9, 0.5, "all"), *vectors)
    h, steered = prefill(Steering(tuple(parts[index] for index in order)))
    changes = clamp_by_hand(parts[0], h) + ablation_by_hand(parts[1], h) + ablation_by_hand(parts[2], h)
    torch.testing.assert_close(steered, h + changes + torch.tensor(vector(0)).double(), atol=1e-5, rtol=1e-5)


def test_clamps_keep_to_their_positions():
    """A clamp of the prompt leaves the last prompt token and what follows alone."""
    one = clamp(1, positions="prompt")
    h, steered = prefill(Steering((one,)))
    torch.testing.assert_close(steered[:-1], (h + clamp_by_hand(one, h))[:-1], atol=1e-5, rtol=1e-5)
    assert torch.equal(steered[-1], h[-1])


def test_rows_of_one_batch_carry_their_own_steering():
    """In a padded batch each row gets its own delta at its own positions; the control row gets none."""
    texts = ["abcdefghij", "abcdef", "abcdefgh"]
    steerings = [added(1, 0, 1.0, "all"), added(1, 1, 2.0, "prompt"), CONTROL]
    requests = [
        Request(Text(text), steering, Sampling(max_tokens=4)) for text, steering in zip(texts, steerings, strict=True)
    ]
    with watched(another_model()) as (backend, before, after):
        together(backend, requests)
    # The control's prompt is read apart but for its last token; the others stand by length: 10 and 6 tokens, padded on
    # the left. In the steps that follow, the control's row is the first; it is one token behind and ends last.
    assert [one[0].shape[:2] for one in after.passes] == [(1, 7), (2, 10), (3, 1), (3, 1), (3, 1), (1, 1)]
    for number, (bare, steered) in enumerate(zip(before.passes, after.passes, strict=True)):
        if number in (0, 5):
            assert torch.equal(steered[1], bare[1])
            continue
        delta = steered[1] - bare[1]
        if number > 1:
            assert not delta[0].any()
            delta, steered[1], bare[1] = delta[1:], steered[1][1:], bare[1][1:]
        assert torch.equal(steered[1][0], bare[1][0] + torch.tensor(vector(0)))
        touched = torch.zeros(delta.shape[1], dtype=torch.bool)
        if number == 1:
            touched[4:9] = True
        assert torch.equal(delta[1].any(dim=-1), touched)
        assert torch.equal(steered[1][1, touched], bare[1][1, touched] + torch.tensor(vector(1)) * 2.0)


@pytest.mark.parametrize("steering", MANY_STEERINGS[1:6])
def test_no_effect_is_left_after_an_answer(steering):
    """After a steered answer the model is bit-identical to before, through the backend and without it."""
    model, tokenizer = another_model(), tiny()[1]
    ids = tokenizer("some text", return_tensors="pt").input_ids
    with torch.no_grad():
        bare = model(ids).logits
    with opened(model) as backend:
        first = run(backend.distributions(user(), "abc"))
        alone(backend, Request(user(), steering, TEN))
        again = run(backend.distributions(user(), "abc"))
        with torch.no_grad():
            assert torch.equal(model(ids).logits, bare)
    assert np.array_equal(first, again)


def test_closing_takes_the_hooks_off():
    """A closed backend leaves a model as it was: no hook on any block."""
    model = another_model()
    with opened(model):
        assert all(block._forward_hooks for block in model.model.layers)
    assert not any(block._forward_hooks for block in model.model.layers)


def test_hooks_are_installed_once():
    """Forward passes add no hooks."""
    model = another_model()
    with opened(model) as backend:
        counts = [len(block._forward_hooks) for block in model.model.layers]
        together(backend, [Request(user(), steering, TEN) for steering in MANY_STEERINGS])
        assert [len(block._forward_hooks) for block in model.model.layers] == counts == [1] * N_LAYERS


def test_a_set_up_that_fails_leaves_no_hook():
    """A model whose blocks can't be found is refused by name, and none of its modules is touched."""
    model = another_model()
    model.model.layers = torch.nn.Sequential(*model.model.layers)
    with pytest.raises(SteerError, match=r"LlamaForCausalLM: no list of 4 decoder blocks"):
        SteeredBlocks(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_only_the_engines_own_passes_are_steered():
    """Somebody who calls the model in another thread while a steered batch runs gets it bare."""
    model, tokenizer = another_model(), tiny()[1]
    ids = tokenizer("some text", return_tensors="pt").input_ids
    blocks = SteeredBlocks(model)
    with torch.no_grad():
        bare = model(ids).logits
        blocks.use(blocks.planned([added(1, positions="all")], 32))
        seen = []

        def call():
            with torch.no_grad():
                seen.append(model(ids).logits)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert torch.equal(seen[0], bare)


def test_a_coefficient_too_small_for_the_dtype_is_an_error_of_its_row_alone():
    """In bfloat16 a tiny vector rounds away; that row says so and names float32, its neighbours are answered."""
    steerings = [added(1), added(1, coefficient=1e-9), CONTROL]
    with opened(another_model(torch.bfloat16)) as backend:
        done, failed, control = together(backend, [Request(user(), steering, TEN) for steering in steerings])
    assert isinstance(failed, NotApplied)
    assert "layer 1, response" in str(failed)
    assert "float32" in str(failed)
    assert done.proof.response_tokens_touched == control.tokens_out == 10
    assert control.proof.response_tokens_touched == 0


def test_scores_and_activations_fail_closed_too():
    """A steering that rounds away is an error in scoring, distributions and activations as in answers."""
    tiny_one = added(1, coefficient=1e-9)
    with opened(another_model(torch.bfloat16)) as backend:
        for ask in (backend.score, backend.distributions, backend.activations):
            with pytest.raises(NotApplied, match="float32"):
                run(ask(user(), "abc", tiny_one))


def test_a_steering_that_blows_the_residual_up_is_an_error_of_its_row_alone():
    """What is no longer finite is never handed on as an answer."""
    huge = Steering((AddVector(1, vector(0, 1.0), 3e38),))
    with opened() as backend:
        failed, fine = together(backend, [Request(user(), huge, TEN), Request(user(), CONTROL, TEN)])
        with pytest.raises(NotApplied, match="not finite"):
            run(backend.score(user(), "abc", huge))
    assert isinstance(failed, NotApplied)
    assert "not finite; lower the steering's coefficient" in str(failed)
    assert fine.tokens_out == 10


def test_what_does_not_fit_is_refused_by_name_before_any_pass():
    """A layer out of range and a vector of the wrong width are named; the model is not called."""
    wide = Steering((AddVector(1, np.ones(33, np.float32)), AddVector(4, vector(0))))
    with opened() as backend, Passes(backend.model) as passes:
        for ask in (backend.score, backend.distributions, backend.activations):
            with pytest.raises(SteerError, match=r"vector has width 33, tiny has 32.*layer 4 is out of range"):
                run(ask(user(), "abc", wide))
        with pytest.raises(SteerError, match=r"vector has width 33"):
            alone(backend, Request(user(), wide))
        with pytest.raises(SteerError, match=r"vector has width 33"):
            run(backend.score_rolling("abc", wide))
        assert len(backend.refusals(wide)) == 2
    assert passes.shapes == []


SMALL = {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMAS = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "initializer_range": 0.3}
GEMMAS = {**LLAMAS, "head_dim": 8, "sliding_window": 8}
ARCHITECTURES = {
    "gpt2": {"vocab_size": 259, "n_embd": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.3},
    "gpt_neox": {**SMALL, "intermediate_size": 48, "initializer_range": 0.3},
    "bloom": {"vocab_size": 259, "hidden_size": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.3},
    "qwen2": LLAMAS,
    "qwen3": {**LLAMAS, "head_dim": 8},
    "mistral": {**LLAMAS, "sliding_window": 8},
    "gemma2": GEMMAS,
    "gemma3_text": GEMMAS,
    # As many experts as layers: the list of experts must not be taken for the list of blocks.
    "mixtral": {**LLAMAS, "num_local_experts": 3, "num_experts_per_tok": 2},
}


def architecture(kind):
    """A tiny random model of this kind."""
    from transformers import AutoConfig, AutoModelForCausalLM

    special = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **ARCHITECTURES[kind], **special)).eval()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_other_architectures_are_steered_alike(kind):
    """Zero is the control, the delta is exact, padding changes nothing, greedy text is that of transformers."""
    model, tokenizer = architecture(kind), tiny()[1]
    blocks = decoder_blocks(model)
    assert len(blocks) == 3
    texts = ["abcdefghijkl", "hello"]
    requests = [Request(Text(text), CONTROL, Sampling(max_tokens=12)) for text in texts]
    before = Recorder(blocks)
    with opened(model, tokenizer, max_length=128) as backend:
        after = Recorder(blocks)
        for text, done in zip(texts, together(backend, requests), strict=True):
            ids = tokenizer(text, return_tensors="pt").input_ids
            with torch.no_grad():
                expected = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
            assert list(done.token_ids) == expected.tolist()
        zero, control = (
            run(backend.distributions(Text("abc"), "def", one)) for one in (added(1, coefficient=0.0), CONTROL)
        )
        assert np.array_equal(zero, control)
        before.passes.clear()
        after.passes.clear()
        done = alone(backend, Request(Text("abcdef"), added(1, positions="all"), Sampling(max_tokens=3)))
    assert len(after.passes) == done.tokens_out
    for bare, steered in zip(before.passes, after.passes, strict=True):
        assert torch.equal(steered[1], bare[1] + torch.tensor(vector(0)))
        assert torch.equal(steered[2], bare[2])


def test_a_text_decoder_is_found_beside_a_vision_tower_of_the_same_depth():
    """Of two lists with as many entries as the text model has layers, the decoder's own is taken."""
    model = another_model()

    class WithVision(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(N_LAYERS))
            self.text = model
            self.config = model.config

        def get_decoder(self):
            return self.text.model

    assert decoder_blocks(WithVision()) is model.model.layers


def test_an_encoder_decoder_is_refused_by_name():
    """A model with two stacks is refused, where hooks would have gone to its encoder."""
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2))
    with pytest.raises(SteerError, match=r"T5ForConditionalGeneration: an encoder-decoder"):
        decoder_blocks(model)


def test_a_model_with_a_lora_adapter_is_steered_alike():
    """An adapter's wrapping hides no positions: a padded row of an adapted model is answered as alone."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(architecture("gpt2"), LoraConfig(target_modules=["c_attn"], init_lora_weights=False))
    requests = [Request(Text(text), added(1), Sampling(max_tokens=8)) for text in ("abcdefghijkl", "hello")]
    with opened(model, max_length=128) as backend:
        both = together(backend, requests)
        each = [alone(backend, request) for request in requests]
    assert [one.token_ids for one in both] == [one.token_ids for one in each]

"""Conditions in the forward passes, against an oracle that has neither batches nor a cache."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_adapters.backend import Request, Sampling, Text
from model_adapters.errors import Refused
from model_adapters.steering import (
    CONTROL,
    AddVector,
    AllOf,
    AnyOf,
    Compare,
    EditFeatures,
    FeatureEdit,
    Reading,
    Steering,
    When,
)
from tests.tiny_backend import alone, another_model, clamp, opened, run, tiny, together, user, vector

TEN = Sampling(max_tokens=10)


def holds(condition, seen):
    """Whether a condition holds, from `seen`: layer -> residual `(d_model,)`; the definitions by hand, in numpy."""
    if isinstance(condition, (AllOf, AnyOf)):
        parts = [holds(one, seen) for one in condition.conditions]
        return all(parts) if isinstance(condition, AllOf) else any(parts)

    def value(reading):
        if not isinstance(reading, Reading):
            return reading
        plain = float(seen[reading.layer].double() @ torch.tensor(reading.encoder).double()) + reading.bias
        return max(plain, 0.0) if reading.rectified else plain

    left, right = value(condition.left), value(condition.right)
    return {">": left > right, "<": left < right, ">=": left >= right, "<=": left <= right}[condition.operator]


def top(condition):
    """The highest layer that a condition reads."""
    if isinstance(condition, (AllOf, AnyOf)):
        return max(map(top, condition.conditions))
    sides = [condition.left, condition.right]
    return max(side.layer for side in sides if isinstance(side, Reading))


class Oracle:
    """Greedy answers of the tiny model under one `When` around added vectors: every step runs the whole text anew."""

    def __init__(self, guard):
        self.guard, self.model = guard, another_model()
        self.deltas, self.met, self.latched = [], [], False

    def step(self, tokens, n_prompt):
        """Logits after the last token; decides what is done to that token, by the written rules."""
        place, seen, changes = len(tokens) - 1, {}, {}
        in_prompt_frame = place < n_prompt - 1
        before = bool(self.met and self.met[-1]) if self.guard.moment == "token" else self.latched

        def now():
            is_met = place > 0 and holds(self.guard.condition, seen)
            if self.guard.moment == "token":
                return is_met
            return place > 0 and (self.latched or (is_met and place < n_prompt))

        def hook(layer):
            def change(_block, _inputs, hidden):
                hidden = hidden.clone()
                seen[layer] = hidden[0, place].clone()
                for past, done in enumerate(self.deltas):
                    if layer in done:
                        hidden[0, past] += done[layer]
                for act in self.guard.interventions:
                    fits = act.positions == "all" or (act.positions == "prompt") == in_prompt_frame
                    is_open = before if top(self.guard.condition) > act.layer else (layer == act.layer and now())
                    if layer == act.layer and fits and is_open:
                        delta = torch.tensor(act.vector) * act.coefficient
                        changes[layer] = changes.get(layer, 0) + delta
                        hidden[0, place] += delta
                return hidden

            return change

        handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(self.model.model.layers)]
        with torch.inference_mode():
            logits = self.model(torch.tensor([tokens])).logits[0, -1]
        for handle in handles:
            handle.remove()
        self.deltas.append(changes)
        # Decided on the whole pass, for the next token.
        is_met = place > 0 and holds(self.guard.condition, seen)
        self.latched = self.latched or (self.guard.moment == "prompt" and is_met and place < n_prompt)
        self.met.append(is_met)
        return logits

    def answer(self, prompt, length):
        """Greedy tokens, and how many tokens met the condition."""
        tokens = []
        for place in range(1, len(prompt)):
            self.step(prompt[:place], len(prompt))
        for _ in range(length):
            tokens.append(int(self.step([*prompt, *tokens], len(prompt)).argmax()))
            if tokens[-1] == 2:
                break
        return tokens


def readings(layers=(0, 1, 2, 3)):
    return st.builds(
        Reading,
        st.sampled_from(layers),
        st.integers(20, 30).map(lambda seed: vector(seed, 1.0)),
        st.sampled_from([0.0, 0.3]),
        st.booleans(),
    )


def guards():
    single = st.builds(
        Compare, readings(), st.sampled_from([">", "<", ">=", "<="]), st.sampled_from([0.0, 0.2, 1.0]) | readings()
    )
    condition = single | st.builds(AllOf, st.tuples(single, single)) | st.builds(AnyOf, st.tuples(single, single))
    act = st.builds(
        AddVector,
        st.integers(0, 3),
        st.integers(0, 5).map(vector),
        st.sampled_from([1.0, -2.0]),
        st.sampled_from(["all", "prompt", "response"]),
    )
    acts = st.lists(act, min_size=1, max_size=2).map(tuple)
    return st.builds(When, condition, acts, st.sampled_from(["token", "prompt"]))


@settings(max_examples=60, deadline=None)
@given(guards())
def test_a_condition_acts_as_the_rules_say(guard):
    """Answers under any condition, above or below what it guards, are those of an oracle without batch or cache."""
    with opened(another_model()) as backend:
        done = alone(backend, Request(user("hey"), Steering((guard,)), Sampling(max_tokens=6)))
        prompt, _ = backend.encoding.prompt(user("hey"), CONTROL)
    assert list(done.token_ids) == Oracle(guard).answer(prompt, 6)


@settings(max_examples=15, deadline=None)
@given(st.lists(guards(), min_size=2, max_size=5))
def test_conditions_hold_in_mixed_batches_as_alone(several):
    """A batch of different conditions, prompts and limits gives each row what it gets alone, counts included."""
    requests = [
        Request(user("hey" * (number + 1)), Steering((guard,)), Sampling(max_tokens=3 + number))
        for number, guard in enumerate(several)
    ]
    with opened() as backend:
        singly = [alone(backend, request) for request in requests]
        at_once = together(backend, requests)
    for one, other in zip(singly, at_once, strict=True):
        assert one.token_ids == other.token_ids
        assert one.proof.conditions_met == other.proof.conditions_met


ALWAYS = Compare(Reading(0, vector(1)), ">=", 0.0)  # a rectified reading is never below zero
NEVER = Compare(Reading(0, vector(1)), "<", 0.0)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_condition_that_always_holds_equals_the_bare_vector(layer):
    """Under a condition met at every token the answer and the touched tokens are those without it, first one apart."""
    add = AddVector(layer, vector(3), 2.0, "response")
    with opened() as backend:
        bare = alone(backend, Request(user(), Steering((add,)), TEN))
        under = alone(backend, Request(user(), Steering((When(ALWAYS, (add,)),)), TEN))
    assert under.token_ids == bare.token_ids
    assert under.proof.response_tokens_touched == bare.proof.response_tokens_touched
    assert under.proof.doses[0].dose == pytest.approx(bare.proof.doses[0].dose, rel=1e-5)
    assert under.proof.conditions_met == (under.tokens_in + under.tokens_out - 2,)


def test_a_condition_that_never_holds_is_the_control():
    """An intervention whose condition is never met changes nothing, and the proof says that it touched nothing."""
    guarded = Steering((When(NEVER, (AddVector(1, vector(3)), clamp(2))),))
    with opened() as backend:
        control = run(backend.distributions(user(), [70, 71], CONTROL))
        under = run(backend.distributions(user(), [70, 71], guarded))
        proof = alone(backend, Request(user(), guarded, TEN)).proof
    assert np.array_equal(under, control)
    assert (proof.prompt_tokens_touched, proof.response_tokens_touched, proof.conditions_met) == (0, 0, (0,))


def test_a_condition_above_acts_from_the_next_token():
    """Guarding layer 1 by a reading at layer 3, the first token that acts is the one after the first that met it."""
    above = Compare(Reading(3, vector(1)), ">=", 0.0)  # met at every token but the first
    guarded = Steering((When(above, (AddVector(1, vector(3), 1.0, "all"),)),))
    with opened() as backend:
        done = alone(backend, Request(user(), guarded, Sampling(max_tokens=1)))
    # Tokens 1 … n-1 meet it, so 2 … n-1 are steered: of them n-3 in the prompt's frame, and the last.
    assert done.proof.prompt_tokens_touched == done.tokens_in - 3
    assert done.proof.response_tokens_touched == 1


def test_options_are_scored_alike_with_and_without_a_shared_prompt():
    """Continuations of one prompt under a condition get the log-probabilities of each scored alone."""
    guard = When(Compare(Reading(1, vector(21, 1.0)), ">", 0.0), (AddVector(2, vector(3), 2.0, "all"),), "prompt")
    steering, options = Steering((guard,)), ["A", "Bc", "Def"]

    async def both(backend):
        import asyncio

        singly = [await backend.score(Text("x y z"), option, steering) for option in options]
        return singly, await asyncio.gather(*(backend.score(Text("x y z"), option, steering) for option in options))

    with opened() as backend:
        singly, at_once = run(both(backend))
    for one, other in zip(singly, at_once, strict=True):
        assert np.allclose(one.logprobs, other.logprobs, atol=1e-4)
        assert one.proof.conditions_met == other.proof.conditions_met


def test_an_interrupt_ends_the_answer_at_the_token_that_met_it():
    """The text ends with the first generated token that meets the condition, and the completion names the event."""
    with opened(interrupts=True) as backend:
        whole = alone(backend, Request(user(), CONTROL, TEN))
        prompt, _ = backend.encoding.prompt(user(), CONTROL)
        read = run(backend.activations(user(), whole.token_ids))[1] @ vector(21, 1.0)
        threshold = float(np.sort(read[:-1])[-2:].mean())  # exactly one of the tokens lies above
        expected = int(np.argmax(read > threshold)) + 1
        guard = When(Compare(Reading(1, vector(21, 1.0), 0.0, False), ">", threshold), (), event="enough")
        done = alone(backend, Request(user(), Steering((guard,)), TEN))
    assert (done.stop_reason, done.events) == ("interrupt", ("enough",))
    assert done.token_ids == whole.token_ids[:expected]
    assert len(prompt) == done.tokens_in


def test_interrupts_are_refused_where_no_service_asks_for_them():
    """A backend that is no service's refuses an event by name."""
    with opened() as backend:
        assert backend.refusals(Steering((When(ALWAYS, (), event="e"),)))[0].startswith("an interrupt ends answers")


def test_edits_by_index_are_refused_without_a_dictionary():
    """Unresolved edits are refused before a token is spent, with the remedy."""
    steering = Steering((EditFeatures((FeatureEdit(1, 0.5),)),))
    with opened() as backend, pytest.raises(Refused, match="needs a dictionary: give dictionary=…"):
        alone(backend, Request(user(), steering, TEN))


def test_readings_of_the_wrong_width_or_layer_are_refused():
    """A condition that reads a layer or a width that the model doesn't have is refused by name."""
    wide = When(Compare(Reading(9, np.ones(5)), ">", 0.0), (AddVector(1, vector(1)),))
    with opened() as backend:
        reasons = backend.refusals(Steering((wide,)))
    assert reasons == [
        "Reading.encoder: layer 9 is out of range; tiny has layers 0 to 3",
        "Reading.encoder has width 5, tiny has 32; prepare the steering on this model",
    ]


def test_the_tiny_models_ends_are_known_to_the_oracle():
    """The oracle stops at the token that ends the tiny model's answers."""
    assert tiny()[1].eos_token_id == 2

"""Log-likelihoods, rolling ones, distributions and activations, against a plain forward pass of the same weights."""

import asyncio

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from model_adapters.backend import GivesDistributions, ReadsActivations, ScoresText, Text
from model_adapters.backends.passage import Scored, rolling_windows
from model_adapters.errors import Refused
from model_adapters.steering import CONTROL, Steering, SystemPrompt
from tests.tiny_backend import (
    MANY_STEERINGS,
    N_LAYERS,
    Passes,
    ablate,
    added,
    another_model,
    clamp,
    opened,
    run,
    tiny,
    user,
    vector,
    watched,
)


def plain(context, continuation, hook=None):
    """Log-probabilities `(tokens, vocabulary)` that predict the continuation: one bare pass, with `hook` on block 1."""
    model = another_model()
    handle = model.model.layers[1].register_forward_hook(hook) if hook else None
    with torch.no_grad():
        logits = model(torch.tensor([[*context, *continuation]])).logits[0]
    if handle:
        handle.remove()
    return torch.log_softmax(logits.float(), -1)[len(context) - 1 : -1]


def picked(table, continuation):
    """The entries of the continuation's own tokens."""
    return [float(table[i, token]) for i, token in enumerate(continuation)]


def ids(text):
    """Tokens of a text."""
    return tiny()[1].encode(text, add_special_tokens=False)


@pytest.mark.parametrize(("context", "continuation"), [("The cat", " sat on"), ("a", "b"), ("x" * 40, "yz")])
def test_a_score_is_that_of_a_plain_forward_pass(context, continuation):
    """Log-probabilities and greediness are read off the logits one position earlier."""
    table = plain(ids(context), ids(continuation))
    with opened() as backend:
        scored = run(backend.score(Text(context), continuation))
        best = tuple(plain(ids(context), [0]).argmax(-1).tolist())
        greedy = run(backend.score(Text(context), best))
    assert scored.logprobs == pytest.approx(picked(table, ids(continuation)), abs=1e-5)
    assert scored.total == pytest.approx(sum(picked(table, ids(continuation))), abs=1e-4)
    assert (scored.is_greedy, greedy.is_greedy) == (False, True)


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_a_steered_score_is_that_of_a_forward_pass_with_the_vector_added_by_hand(positions):
    """The prompt is all but the context's last token; the response begins there."""
    context, continuation = ids("The cat"), ids(" sat on")
    edge = len(context) - 1
    where = {"all": slice(None), "prompt": slice(0, edge), "response": slice(edge, None)}[positions]

    def hook(_block, _inputs, hidden):
        hidden = hidden.clone()
        hidden[0, where] += torch.tensor(vector(0))
        return hidden

    expected = picked(plain(context, continuation, hook), continuation)
    with opened() as backend:
        scored = run(backend.score(Text("The cat"), " sat on", added(1, positions=positions)))
    assert scored.logprobs == pytest.approx(expected, abs=1e-5)
    tokens = len(context) + len(continuation) - 1
    touched = (edge, tokens - edge)
    expected = {"all": touched, "prompt": (edge, 0), "response": (0, tokens - edge)}[positions]
    assert (scored.proof.prompt_tokens_touched, scored.proof.response_tokens_touched) == expected
    assert scored.proof.first_response_token is (positions != "prompt")


def test_white_space_that_ends_the_prompt_is_scored_but_is_still_prompt():
    """The newline after the assistant's header is scored, as in lm-eval, yet response steering starts at it."""
    with watched(another_model()) as (backend, before, after):
        header = ids(backend.render(user()))
        control = run(backend.score(user(), "AB"))
        before.passes.clear()
        after.passes.clear()
        scored = run(backend.score(user(), "AB", added(1)))
    assert header[-1] == ids("\n")[0]
    assert len(scored.logprobs) == 3
    assert scored.logprobs[0] == control.logprobs[0]
    assert all(a != b for a, b in zip(scored.logprobs[1:], control.logprobs[1:], strict=True))
    (bare,), (steered,) = before.passes, after.passes
    touched = (steered[1] != bare[1]).any(-1)[0].nonzero()[:, 0].tolist()
    assert touched == [len(header) - 1, len(header)]
    assert scored.proof.response_tokens_touched == 2


def test_a_context_that_is_empty_is_the_prefix_token():
    """Without a context the continuation is conditioned on the token that stands before every text."""
    table = plain([0], ids("abc"))
    with opened() as backend:
        scored = run(backend.score(Text(""), "abc", added(1, coefficient=0.0)))
    assert scored.logprobs == pytest.approx(picked(table, ids("abc")), abs=1e-5)


def test_a_context_that_is_too_long_loses_its_beginning():
    """What is read is the last `max_length` tokens, and the last prompt token still begins the response."""
    context, continuation = ids("abcdefghijklmnop"), ids("xyz")
    table = plain(context[-8:], continuation)
    with opened(max_length=10) as backend:
        scored = run(backend.score(Text("abcdefghijklmnop"), "xyz"))
        steered = run(backend.score(Text("abcdefghijklmnop"), "xyz", added(1, positions="all")))
        with pytest.raises(Refused, match=r"the continuation has 11 tokens, the model takes 10"):
            run(backend.score(Text("a"), "b" * 11))
        with pytest.raises(Refused, match="continuation is empty"):
            run(backend.score(Text("a"), ""))
    assert scored.logprobs == pytest.approx(picked(table, continuation), abs=1e-5)
    assert (steered.proof.prompt_tokens_touched, steered.proof.response_tokens_touched) == (7, 3)


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 30), st.integers(1, 20))
def test_fitting_keeps_the_continuation_and_the_frame(context, continuation, prompt_less, max_length):
    """A fitted text holds at most `max_length` inputs, all of its continuation, and the same response tokens."""
    continuation = min(continuation, max_length)
    whole = Scored(list(range(context)), list(range(100, 100 + continuation)), max(1, context - prompt_less))
    fitted = whole.fitted(max_length)
    assert fitted.continuation == whole.continuation
    assert fitted.context == whole.context[len(whole.context) - len(fitted.context) :]
    assert len(fitted.context) == min(context, max_length + 1 - continuation) >= 1
    response = len(whole.passage.tokens) - whole.prompt_tokens
    expected = min(response, len(fitted.passage.tokens) - 1)
    assert len(fitted.passage.tokens) - fitted.prompt_tokens == expected


def gathered(*work):
    """All results, asked for at once."""

    async def both():
        return await asyncio.gather(*work)

    return run(both())


def test_letters_of_one_question_share_a_row():
    """Four one-letter answers to three questions make one pass of three rows; another steering makes its own row."""
    questions = [user("What? " * n) for n in (1, 2, 3)]
    with opened() as backend:
        with Passes(backend.model) as passes:
            four = gathered(*(backend.score(one, letter) for one in questions for letter in "ABCD"))
        assert [shape[0] for shape in passes.shapes] == [3]
        for number, (one, letter) in enumerate((one, letter) for one in questions for letter in "ABCD"):
            assert four[number].logprobs == pytest.approx(run(backend.score(one, letter)).logprobs, abs=1e-4)
        with Passes(backend.model) as passes:
            gathered(*(backend.score(questions[0], "A", steering) for steering in (CONTROL, added(1), added(2))))
        assert [shape[0] for shape in passes.shapes] == [3]


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_options_of_one_question_read_its_prompt_once(positions):
    """Options of several lengths after one prompt take one pass for the prompt and one for the options, and score as
    each does alone, under different steerings, proofs included."""
    options = ["a", "ab cd", "ab ce", "a longer option", "x"]
    prompts = [user(f"Which {n}?") for n in range(2)]
    steerings = [CONTROL, added(1, positions=positions) + Steering((ablate(2, positions=positions),))]
    asked = [(prompt, option, steering) for prompt in prompts for steering in steerings for option in options]
    with opened() as backend:
        alone = [run(backend.score(*one)) for one in asked]
        with Passes(backend.model) as passes:
            together = gathered(*(backend.score(*one) for one in asked))
    read = len(backend.encoding.prompt(prompts[0], CONTROL)[0])
    # The last token is only predicted, so "a" and "x" are one row, and so are "ab cd" and "ab ce".
    assert passes.shapes == [(4, read), (12, len("a longer option") - 1)]
    for one, other in zip(alone, together, strict=True):
        assert other.logprobs == pytest.approx(one.logprobs, abs=1e-4)
        assert other.is_greedy == one.is_greedy
        assert other.proof.response_tokens_touched == one.proof.response_tokens_touched
        assert other.proof.prompt_tokens_touched == one.proof.prompt_tokens_touched
        assert other.proof.first_response_token == one.proof.first_response_token
        assert [layer.dose for layer in other.proof.doses] == pytest.approx([layer.dose for layer in one.proof.doses])


def test_rows_are_counted_without_the_letters_that_share_them():
    """Under a ceiling of two rows, two questions of four letters are one pass, and three are two."""
    with opened(rows=2) as backend, Passes(backend.model) as passes:
        gathered(*(backend.score(user(text), letter) for text in ("one", "two") for letter in "ABCD"))
        assert [shape[0] for shape in passes.shapes] == [2]
        gathered(*(backend.score(user(text), letter) for letter in "ABCD" for text in ("one", "two", "six")))
        assert [shape[0] for shape in passes.shapes] == [2, 2, 1]


def test_a_mixed_batch_scores_each_row_as_alone():
    """Continuations of many lengths under eight steerings, in one batch: within 1e-4 of each alone."""
    asked = [
        (user("word " * (n + 1)), "xyz"[: n % 3 + 1] * (n + 1), steering)
        for n, steering in enumerate(MANY_STEERINGS + MANY_STEERINGS[:4])
    ]
    with opened() as backend:
        with Passes(backend.model) as passes:
            both = gathered(*(backend.score(*one) for one in asked))
        assert [shape[0] for shape in passes.shapes] == [12]
        for one, scored in zip(asked, both, strict=True):
            single = run(backend.score(*one))
            assert scored.logprobs == pytest.approx(single.logprobs, abs=1e-4)
            assert scored.proof.response_tokens_touched == single.proof.response_tokens_touched
            assert scored.proof.identity == backend.identity.run(one[2].fingerprint)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), max_size=60), st.integers(1, 12))
def test_rolling_windows_are_those_of_lm_eval(tokens, max_length):
    """Windows are disjoint, score every token once, and read what lm-eval reads."""
    theirs = [make_disjoint_window(pair) for pair in get_rolling_token_windows(tokens, 0, max_length, 1)]
    ours = rolling_windows(tokens, 0, max_length)
    assert [(one.context, one.continuation) for one in ours] == theirs
    assert [token for one in ours for token in one.continuation] == tokens
    assert all(len(one.passage.tokens) <= max_length for one in ours)


def test_a_rolling_score_is_the_sum_over_windows():
    """A text longer than the context is scored window by window, each token once."""
    text = "the quick brown fox jumps over it"
    windows = [make_disjoint_window(pair) for pair in get_rolling_token_windows(ids(text), 0, 12, 1)]
    expected = [value for context, piece in windows for value in picked(plain(context, piece), piece)]
    with opened(max_length=12) as backend:
        scored = run(backend.score_rolling(text))
        with pytest.raises(Refused, match="text is empty"):
            run(backend.score_rolling(""))
    assert len(windows) == 3
    assert scored.logprobs == pytest.approx(expected, abs=1e-5)


def test_in_a_rolling_score_every_token_is_response():
    """A text has no prompt: `prompt` touches nothing, `response` all of every window, and the proof covers them all."""
    text = "the quick brown fox jumps over it"
    with opened(max_length=12) as backend:
        control, prompt, response, everything = (
            run(backend.score_rolling(text, steering))
            for steering in (CONTROL, added(1, positions="prompt"), added(1), added(1, positions="all"))
        )
        short = run(backend.score_rolling("the quick", added(1)))
    assert prompt.logprobs == control.logprobs
    assert (prompt.proof.prompt_tokens_touched, prompt.proof.response_tokens_touched) == (0, 0)
    assert response.logprobs == everything.logprobs
    assert response.proof.response_tokens_touched == 3 * 12
    assert short.proof.response_tokens_touched == 9
    assert response.proof.doses[0].dose > 0


def test_a_system_prompt_is_refused_where_there_are_no_messages():
    """A rolling text has nowhere to put it; the refusal comes before any pass."""
    steering = Steering((SystemPrompt("Be brief."),))
    with opened() as backend, Passes(backend.model) as passes:
        with pytest.raises(Refused, match="system prompt"):
            run(backend.score_rolling("abc", steering))
        with pytest.raises(Refused, match="system prompt"):
            run(backend.score(Text("abc"), "d", steering))
    assert passes.shapes == []


def test_distributions_are_whole_and_agree_with_scores():
    """Rows are float32 log-probabilities that sum to 1; the chosen tokens' entries are the scores, bit for bit."""
    with opened() as backend:
        for steering in (CONTROL, added(1), Steering((clamp(1), ablate(2)))):
            table = run(backend.distributions(Text("The cat"), " sat", steering))
            scored = run(backend.score(Text("The cat"), " sat", steering))
            assert (table.shape, table.dtype) == ((4, 259), np.float32)
            assert np.exp(table.astype("f8")).sum(1) == pytest.approx(np.ones(4), abs=1e-5)
            assert tuple(picked(table, ids(" sat"))) == scored.logprobs


def test_distributions_of_one_row_do_not_share_memory():
    """Who writes into a table he was given changes nobody else's."""
    with opened() as backend:
        one, other = gathered(*(backend.distributions(Text("ab"), letter) for letter in "cd"))
    kept = other.copy()
    one[:] = 0.0
    assert np.array_equal(other, kept)


def test_activations_are_the_blocks_outputs_at_the_response():
    """Layer l is transformers' hidden state l + 1 at the response's tokens; the last one before the final norm."""
    context, response = ids("The cat"), ids(" sat")
    model = another_model()
    with torch.no_grad():
        states = model(torch.tensor([[*context, *response]]), output_hidden_states=True).hidden_states
    with opened() as backend:
        read = run(backend.activations(Text("The cat"), " sat"))
        same = run(backend.activations(Text("The cat"), response))
    assert (read.shape, read.dtype) == ((N_LAYERS, 4, 32), np.float32)
    assert np.array_equal(read, same)
    for layer in range(N_LAYERS - 1):
        np.testing.assert_allclose(read[layer], states[layer + 1][0, len(context) :].numpy(), atol=1e-5)
    with torch.no_grad():
        last = model.model.norm(torch.tensor(read[-1])).numpy()
    np.testing.assert_allclose(last, states[-1][0, len(context) :].numpy(), atol=1e-5)


def test_activations_can_be_read_under_a_steering():
    """Steered activations hold the vector at its layer."""
    with opened() as backend:
        control, steered = (
            run(backend.activations(user(), "abc", one)) for one in (CONTROL, added(1, positions="all"))
        )
    assert np.array_equal(control[0], steered[0])
    np.testing.assert_allclose(steered[1] - control[1], np.broadcast_to(vector(0), (3, 32)), atol=1e-5)


def test_the_first_position_of_a_text_is_never_read():
    """Without a prompt the first token is left out; where nothing remains, that is an error and not an empty array."""
    with opened(max_length=8) as backend, Passes(backend.model) as passes:
        assert run(backend.activations(Text(""), "abc")).shape == (N_LAYERS, 2, 32)
        assert run(backend.activations(Text("abcd"), "efghijkl")).shape == (N_LAYERS, 4, 32)
        passes.shapes.clear()
        for prompt, response in ((Text(""), "a"), (Text("abc"), ""), (Text("abcdefgh"), "i")):
            with pytest.raises(Refused, match="the response has none to read"):
                run(backend.activations(prompt, response))
    assert passes.shapes == []


def test_the_capabilities_are_declared():
    """The local backend scores, gives distributions and reads activations."""
    with opened() as backend:
        assert isinstance(backend, ScoresText)
        assert isinstance(backend, GivesDistributions)
        assert isinstance(backend, ReadsActivations)
        assert (backend.n_layers, backend.d_model) == (N_LAYERS, 32)


def test_a_pass_is_bounded_in_tokens_and_logits(monkeypatch):
    """Long texts and wide continuations go in smaller batches, to bound the memory; the scores are the same."""
    from model_adapters.backends.local import jobs

    asked = [(f"{n}" + "word " * 20, "abcdefghij"[: 8 - n]) for n in range(8)]
    with opened() as backend:
        expected = [run(backend.score(Text(a), b)).logprobs for a, b in asked]
        for name, limit, rows in (("SCORED_TOKENS", 3 * 116, [3, 3, 2]), ("SCORED_LOGITS", 3 * 11 * 259, [3, 3, 2])):
            monkeypatch.setattr(jobs, name, limit)
            with Passes(backend.model) as passes:
                scored = gathered(*(backend.score(Text(a), b) for a, b in asked))
            monkeypatch.undo()
            assert [shape[0] for shape in passes.shapes] == rows
            for one, other in zip(scored, expected, strict=True):
                assert one.logprobs == pytest.approx(other, abs=1e-4)

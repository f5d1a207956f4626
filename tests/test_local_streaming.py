"""Answers that are given piece by piece."""

import asyncio

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model_adapters.backend import Completion, Request, Sampling
from model_adapters.backends.local.spelling import Spelling
from model_adapters.errors import Refused
from model_adapters.steering import AddVector, Steering
from tests.tiny_backend import added, alone, opened, run, tiny, user


async def pieces(backend, request):
    return [piece async for piece in backend.stream(request)]


def decode(tokens):
    return tiny()[1].decode(list(tokens), skip_special_tokens=True)


@settings(deadline=None)
@example("0i", ["i", "0i"])
@given(st.text(min_size=1), st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_pieces_begin_the_text_and_hold_no_stop_string(text, stops):
    """The pieces join to a beginning of the text before the first stop string, whole where nothing is held back."""
    spelling = Spelling(decode, stops)
    tokens = tiny()[1].encode(text, add_special_tokens=False)
    joined = "".join(spelling.add(token) for token in tokens)
    ends = [text.find(stop) for stop in stops if stop in text]
    assert joined == spelling.given
    assert text.startswith(joined)
    if stops:
        assert not any(stop in joined for stop in stops)
    else:
        assert joined == text
    if ends:
        assert len(joined) <= min(ends)


def test_a_character_of_several_tokens_is_given_whole():
    """Bytes of one character arrive as tokens of their own and are given as that character, once."""
    spelling = Spelling(decode)
    tokens = tiny()[1].encode("a€", add_special_tokens=False)
    assert [spelling.add(token) for token in tokens] == ["a", "", "", "€"]


def test_the_beginning_of_a_stop_string_is_held_back():
    """What may become the stop string is given only once it can't."""
    spelling = Spelling(decode, ["abc"])
    given = [spelling.add(token) for token in tiny()[1].encode("xabyabc!", add_special_tokens=False)]
    assert given == ["x", "", "", "aby", "", "", "", ""]


@pytest.mark.parametrize("stop", [(), ("e",)])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_streamed_answer_is_the_whole_answer(stop, temperature):
    """The pieces join to the text of `complete`, and the last item is its Completion."""
    sampling = Sampling(max_tokens=24, temperature=temperature, seed=3, stop=stop)
    request = Request(user(), added(2, 3), sampling)
    with opened() as backend:
        whole = alone(backend, request)
        *texts, last = run(pieces(backend, request))
    assert last == whole
    assert "".join(texts) == whole.text
    assert len(texts) > 1 or len(whole.text) < 2


def test_the_first_piece_comes_before_the_answer_is_done():
    """Text is given while the model is still writing."""
    with opened() as backend:
        passes = []
        backend.model.register_forward_pre_hook(lambda *_: passes.append(1))

        async def first():
            async for piece in backend.stream(Request(user(), sampling=Sampling(max_tokens=400))):
                seen = len(passes)
                assert not isinstance(piece, Completion)
                return seen

        seen = run(first())
    assert seen < 400


def test_whoever_stops_listening_gives_the_answer_up():
    """Closing the iterator ends the row long before its limit."""
    with opened() as backend:
        passes = []
        handle = backend.model.register_forward_pre_hook(lambda *_: passes.append(1))

        async def leave():
            answer = backend.stream(Request(user("abc"), sampling=Sampling(max_tokens=900)))
            await anext(answer)
            await answer.aclose()
            await asyncio.sleep(0.3)

        run(leave())
        handle.remove()
    assert len(passes) < 450


def test_a_stream_is_refused_like_an_answer():
    """A vector of the wrong width is refused before the first piece."""
    with opened() as backend, pytest.raises(Refused, match="has width 3, tiny has 32"):
        run(pieces(backend, Request(user(), Steering((AddVector(1, [1.0, 2.0, 3.0]),)))))


def test_tokens_join_to_the_rendered_conversation():
    """`tokenize` gives ids that the model reads and texts that join to what the template renders."""
    with opened() as backend:
        parts = backend.tokenize(user("hello"))
        assert "".join(text for _, text in parts) == backend.render(user("hello"))
        assert [token for token, _ in parts] == backend.encoding.prompt(user("hello"), Steering())[0]


def test_prompt_activations_cover_every_token_under_the_steering():
    """`prompt_activations` has one row per prompt token; a vector at `all` positions moves each by itself exactly."""
    with opened() as backend:
        bare = run(backend.prompt_activations(user(), 2))
        steered = run(backend.prompt_activations(user(), 2, added(2, 3, 1.0, "all")))
        assert bare.shape == (len(backend.tokenize(user())), 32)
    vector = added(2, 3).on_residuals[0].vector
    assert (steered == bare + vector).all()

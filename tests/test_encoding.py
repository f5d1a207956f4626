"""Texts and messages as tokens, by lm-eval's rules where it has some."""

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerFast

from model_adapters.backend import Message, Text
from model_adapters.backends.encoding import Encoding
from model_adapters.errors import Refused
from model_adapters.steering import CONTROL, Steering, SystemPrompt
from tests.tiny_backend import another_model, tiny, user
from tests.tiny_model import TEMPLATE


def tokenizer(bos=False, template=TEMPLATE):
    """The byte tokenizer; with `bos` it puts its BOS before every text by itself, as Llama's does."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    plain = tiny()[1]
    core = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    if bos:
        core.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|endoftext|>", eos_token="<|im_end|>")
    made.chat_template = template
    return made


CASES = [
    ("The cat", " sat"),
    ("The cat ", "sat"),
    ("The cat \n\n", " sat"),
    ("", "sat"),
    ("", "<|endoftext|>sat"),
    ("<|endoftext|>The cat", " sat"),
    ("Question: é\nAnswer:", " 漢"),
]


@pytest.mark.parametrize("add_bos_token", [None, True, False])
@pytest.mark.parametrize("bos", [False, True])
def test_pairs_are_split_as_lm_eval_splits_them(bos, add_bos_token):
    """Context and continuation have the tokens that lm-eval's `hf` gives them, special tokens included."""
    made = tokenizer(bos)
    theirs = HFLM(another_model(), tokenizer=made, add_bos_token=add_bos_token, max_length=64)
    seen = []

    def note(requests, **_):
        seen.extend(requests)
        return [(0.0, False)] * len(requests)

    theirs._loglikelihood_tokens = note
    theirs.loglikelihood([Instance("loglikelihood", {}, case, 0) for case in CASES], disable_tqdm=True)
    ours = Encoding(made, add_bos_token)
    for (context, continuation), (_, their_context, their_continuation) in zip(CASES, seen, strict=True):
        pair = ours.pair(Text(context), continuation, CONTROL)
        assert (pair.context, pair.continuation) == (their_context, their_continuation)


def test_the_prompt_counts_the_white_space_that_moved():
    """`prompt_tokens` spans the whole prompt, though scored tokens begin inside it."""
    pair = Encoding(tokenizer()).pair(Text("ab \n"), "cd", CONTROL)
    assert (len(pair.context), len(pair.continuation), pair.prompt_tokens) == (2, 4, 4)


def test_given_tokens_are_taken_as_they_are():
    """Token ids follow the context unchanged, and none of its white space moves."""
    encoding = Encoding(tokenizer())
    pair = encoding.pair(Text("ab \n"), [7, 8], CONTROL)
    assert (pair.context, pair.continuation, pair.prompt_tokens) == (encoding.encode("ab \n"), [7, 8], 4)
    assert encoding.pair(Text(""), [7, 8], CONTROL).context == [0]


def test_messages_get_no_special_tokens_but_the_templates_own():
    """A rendered conversation is encoded as it is, even by a tokenizer that puts BOS before every text."""
    encoding = Encoding(tokenizer(bos=True))
    tokens, sent = encoding.prompt(user("hi"), CONTROL)
    assert tokens[0] == 1
    assert tiny()[1].decode(tokens) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert sent == user("hi")
    assert encoding.prompt(Text("hi"), CONTROL)[0][0] == 0
    assert encoding.pair(user("hi"), "x", CONTROL).context[0] == 1


def test_a_system_prompt_enters_the_messages_once():
    """The steering's text is in what is sent, after the system message that is there, and nothing else is added."""
    steering = Steering((SystemPrompt("Be funny."),))
    tokens, sent = Encoding(tokenizer()).prompt((Message("system", "Rules."), *user("hi")), steering)
    assert sent == (Message("system", "Rules.\n\nBe funny."), Message("user", "hi"))
    assert tiny()[1].decode(tokens).count("Be funny.") == 1


def test_without_a_template_messages_are_refused():
    """A tokenizer without a chat template has no digest of one, and messages are refused."""
    bare = Encoding(tokenizer(template=None))
    assert (bare.has_template, bare.template_digest) == (False, None)
    with pytest.raises(Refused, match="no chat template"):
        bare.render(user())


def test_a_template_that_objects_is_a_refusal():
    """What the template raises is told in one line."""
    objecting = Encoding(tokenizer(template="{{ raise_exception('roles must alternate') }}"))
    with pytest.raises(Refused, match="roles must alternate"):
        objecting.render(user())


def test_template_arguments_reach_the_template():
    """Further arguments are the template's variables, and another template has another digest."""
    encoding = Encoding(tokenizer(template="{{ mood }}"), template_arguments={"mood": "merry"})
    assert encoding.render(user()) == "merry"
    assert encoding.template_digest != Encoding(tokenizer()).template_digest


def test_the_prefix_is_the_given_token_else_bos_else_eos():
    """What stands before a text without a context."""
    made = tokenizer()
    assert Encoding(made, prefix_token_id=9).prefix == 9
    assert Encoding(made).prefix == 0
    made.bos_token = None
    assert Encoding(made).prefix == 2

"""The embedded model itself: its folder holds the weights, tokenizer and settings that its makers gave it."""

from itertools import pairwise
from pathlib import Path

import pytest

from model_adapters.backends.local.embedded import (
    SMOLLM2,
    checked_gguf,
    embedded_model_path,
    is_finished,
    model_path,
)
from tests.tiny_wheel import Index

TEXTS = (
    "Hello, world! It's 3.14 o'clock.",
    "naïve café — 日本語 العربية 🎉👩‍👩‍👧 ﬁ e\u0301 Ⅻ ½ ²",
    "  two  spaces\tand a tab\n\nnew  lines \n 1\n\n2  3   44 \r\n",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "x=1;y=22;z=[333]  #4444\n\n\n\n5",
)

MESSAGES = (
    [{"role": "user", "content": "What is 2 + 2?"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi 🎉"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "  Again\n"},
    ],
)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pinned GGUF file, out of the wheel that the cache keeps."""
    home = embedded_model_path().parent
    return checked_gguf(home, tmp_path_factory.mktemp("gguf"), SMOLLM2, Index(None))


@pytest.mark.embedded
def test_the_folder_is_a_whole_model_that_transformers_describes() -> None:
    """The folder holds a Llama with the size, context, tied weights and ending that its makers gave it."""
    from transformers import AutoConfig, GenerationConfig

    folder = embedded_model_path()
    assert is_finished(folder, SMOLLM2)
    assert model_path("embedded") == str(folder)
    config = AutoConfig.from_pretrained(folder)
    assert config.architectures == ["LlamaForCausalLM"]
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (30, 576, 1536)
    assert (config.num_attention_heads, config.num_key_value_heads) == (9, 3)
    assert (config.vocab_size, config.max_position_embeddings) == (49152, 8192)
    assert config.rope_parameters["rope_theta"] == 100000.0
    assert config.tie_word_embeddings is True
    assert not hasattr(config, "quantization_config")
    generation = GenerationConfig.from_pretrained(folder)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)
    assert generation.do_sample in (None, False)


@pytest.mark.embedded
def test_its_tokenizer_ends_a_turn_where_the_model_does() -> None:
    """The tokenizer's special tokens are those of the model's chat format, and its limit is the model's context."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.unk_token, tokenizer.pad_token) == ("<|endoftext|>", "<|im_end|>")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert (len(tokenizer), tokenizer.model_max_length) == (49152, 8192)
    assert tokenizer("<|im_start|>user\nhi<|im_end|>").input_ids == [1, 4093, 198, 6004, 2]
    assert tokenizer.apply_chat_template(MESSAGES[1], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi 🎉<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\n  Again\n<|im_end|>\n<|im_start|>assistant\n"
    )


def reference_tokens(gguf: Path) -> tuple:
    """The vocabulary of the GGUF file, and an encoder by its own rules, written for this test alone.

    Special tokens first; then one numeric character by itself, as `smollm` demands; then GPT-2's pattern; then
    byte-pair merges in order of rank.
    """
    import regex
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    ids = {token: number for number, token in enumerate(tokens)}
    rank = {tuple(merge.split(" ")): number for number, merge in enumerate(fields["tokenizer.ggml.merges"].contents())}
    special = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"].contents(), strict=True) if kind == 3]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    for place, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + place)
    word = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def merged(piece: str) -> list[int]:
        parts = [letters[byte] for byte in piece.encode()]
        while True:
            pairs = [(rank[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in rank]
            if not pairs:
                return [ids[part] for part in parts]
            at = min(pairs)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]

    def encode(text: str) -> list[int]:
        out: list[int] = []
        for part in regex.split("(" + "|".join(map(regex.escape, special)) + ")", text):
            if part in special:
                out.append(ids[part])
                continue
            for span in regex.split(r"(\p{N})", part):
                for piece in word.findall(span):
                    out += merged(piece)
        return out

    return tokens, encode


@pytest.mark.embedded
def test_its_tokenizer_follows_the_rules_in_the_gguf_file(gguf: Path) -> None:
    """Token ids are those of an independent encoder that reads merges and rules from the GGUF file, digits included."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
    tokens, encode = reference_tokens(gguf)
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokens)))) == tokens
    rendered = [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in MESSAGES]
    for text in (*TEXTS, *rendered):
        ids = tokenizer(text).input_ids
        assert ids == encode(text)
        assert tokenizer.decode(ids) == text
    # Two newlines before a digit are one token; without the rule for digits they would be two.
    assert tokenizer.tokenize("a\n\n1") == ["a", "ĊĊ", "1"]


@pytest.mark.embedded
def test_its_tokenizer_survives_saving(tmp_path: Path) -> None:
    """Saved and loaded once more, the tokenizer gives the same ids, texts and chat prompts."""
    from transformers import AutoTokenizer

    first = AutoTokenizer.from_pretrained(embedded_model_path())
    first.save_pretrained(tmp_path)
    second = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert second(text).input_ids == first(text).input_ids
        assert second.decode(second(text).input_ids) == text
    for messages in MESSAGES:
        prompts = [each.apply_chat_template(messages, tokenize=False) for each in (first, second)]
        assert prompts[0] == prompts[1]
    assert second.special_tokens_map == first.special_tokens_map
    assert second.model_max_length == first.model_max_length


@pytest.mark.slow
@pytest.mark.embedded
def test_its_float32_logits_are_those_of_the_gguf_file(gguf: Path) -> None:
    """Every weight, and the float32 logits of a padded batch, equal to the bit those read from the GGUF."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded_model_path()
    converted = AutoModelForCausalLM.from_pretrained(folder).eval()
    original = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    assert converted.dtype == torch.float32
    ours, theirs = converted.state_dict(), original.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    batch = tokenizer(list(TEXTS), return_tensors="pt", padding=True)
    with torch.inference_mode():
        assert torch.equal(converted(**batch).logits, original(**batch).logits)

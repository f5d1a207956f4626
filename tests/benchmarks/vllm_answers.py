"""Ours against vLLM on the same processor: the same chain-of-thought prompts, unsteered. Needs STEER_TASKS_VLLM.

As a script, run by the interpreter of vLLM's environment, it is vLLM's side: `vllm_answers.py MODEL`; each line on
standard input is a JSON object with `prompts` (token ids) and `tokens`, each answer the seconds that they took.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VARIABLE = "STEER_TASKS_VLLM"
QUESTIONS, TOKENS, PAIRS = 48, 512, 2


def vllm_lines() -> Iterator[Any]:
    """Our time over vLLM's; nothing where it isn't installed."""
    from transformers import AutoTokenizer

    from model_adapters.backends.local.embedded import embedded_model_path
    from model_adapters.harnesses.documents import as_chat
    from tests.benchmarks.bars import Bar, Line
    from tests.benchmarks.pairs import Ratio
    from tests.benchmarks.questions import conversations, drawn_questions
    from tests.benchmarks.side import Order, Side

    home = os.environ.get(VARIABLE)
    if not home:
        print(f"vLLM: not measured; {VARIABLE} names no environment (`make test-vllm` builds one)")
        return
    model = str(embedded_model_path())
    tokenizer = AutoTokenizer.from_pretrained(model)

    def order(part: int) -> str:
        asked = [as_chat(one) for one in conversations(drawn_questions(QUESTIONS, part))]
        texts = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in asked]
        prompts = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        return json.dumps({"prompts": prompts, "tokens": TOKENS})

    alone = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    theirs = Side([str(Path(home) / "bin" / "python"), str(Path(__file__).resolve()), model], alone)
    ours = Side.of_lm_eval("hook_steered", {"pretrained": "embedded", "dtype": "bfloat16", "method": "control"})
    ratios = []
    for number in range(PAIRS):
        if number % 2:
            their_seconds = float(theirs.tell(order(number)))
            mine = ours.ask(Order(QUESTIONS, number, TOKENS, bare=True)).seconds
        else:
            mine = ours.ask(Order(QUESTIONS, number, TOKENS, bare=True)).seconds
            their_seconds = float(theirs.tell(order(number)))
        ratios.append(mine / their_seconds)
    ours.close()
    theirs.close()
    sampled = f"{QUESTIONS} of the questions a pair, greedy, {TOKENS} tokens; ours with proofs"
    yield Line(
        "chain of thought, unsteered: ours / vLLM on the processor", Ratio(tuple(ratios)), Bar(1.5, 1.0), sampled
    )


def main() -> None:
    """Open vLLM and obey."""
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    model = LLM(model=sys.argv[1], dtype="bfloat16", max_model_len=2048, enforce_eager=True, max_num_seqs=QUESTIONS)
    print("ready", file=said, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        prompts = [{"prompt_token_ids": tokens} for tokens in order["prompts"]]
        sampling = SamplingParams(temperature=0.0, max_tokens=order["tokens"])
        began = time.perf_counter()
        model.generate(prompts, sampling, use_tqdm=False)
        print(time.perf_counter() - began, file=said, flush=True)


if __name__ == "__main__":
    main()

"""One side of a comparison: a model of lm-eval in a process of its own, opened once and asked again and again.

`Side` is the parent's end. The child is `python -m tests.benchmarks.side MODEL ARGUMENTS`, the arguments as JSON; each
line on its standard input is an `Order`, each line of its standard output the answer to one.
"""

import itertools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO, cast

from tests.benchmarks.pairs import timed
from tests.benchmarks.questions import chosen, drawn_questions, written


@dataclass(frozen=True)
class Order:
    """Part number `part` of the drawn questions, `count` of them: by the likelihoods of their letters where `letters`,
    else in up to `tokens` tokens of greedy text. A `bare` request is a text like anybody's, so that our model adds no
    likelihood signal."""

    count: int
    part: int = 0
    tokens: int = 512
    letters: bool = False
    bare: bool = False


@dataclass(frozen=True)
class Done:
    """What an order took, and the answers in words; `peak_mb` is the process's highest resident memory so far."""

    seconds: float
    peak_mb: float
    answers: list[str]


class Side:
    """A model in a child process; close it to give its memory back. What it says beside its answers is dropped."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._line()

    @classmethod
    def of_lm_eval(cls, model: str, arguments: Mapping[str, object]) -> "Side":
        """A model of lm-eval, by its registered name."""
        return cls([sys.executable, "-m", "tests.benchmarks.side", model, json.dumps(dict(arguments))])

    def ask(self, order: Order) -> Done:
        """Have the order done. Raises RuntimeError where the child ended instead."""
        return Done(**json.loads(self.tell(json.dumps(asdict(order)))))

    def tell(self, line: str) -> str:
        """One line there, one line back."""
        stdin = cast(TextIO, self._child.stdin)
        stdin.write(line + "\n")
        stdin.flush()
        return self._line()

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        self._child.communicate()

    def _line(self) -> str:
        line = cast(TextIO, self._child.stdout).readline()
        if not line:
            raise RuntimeError(f"a side of the comparison ended: {' '.join(map(str, self._child.args))}")  # type: ignore[arg-type]
        return line


def obeyed(model: Any, order: Order) -> Done:
    """The order done on a model of lm-eval."""
    questions = drawn_questions(order.count, order.part)
    answers: list[str] = []
    if order.letters:
        requests = chosen(questions, model.apply_chat_template)
        seconds = timed(lambda: model.loglikelihood(requests, disable_tqdm=True))
    else:
        requests = written(questions, model.apply_chat_template, order.tokens)
        for request in requests if order.bare else ():
            request.doc = {}
        seconds = timed(lambda: answers.extend(model.generate_until(requests, disable_tqdm=True)))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Done(seconds, peak_mb, answers)


def opened(name: str, arguments: Mapping[str, Any]) -> Any:
    """A model of lm-eval by its registered name, as its command line opens it."""
    import lm_eval.models  # noqa: F401 (fills the registry)
    from lm_eval.api.registry import get_model

    return get_model(name).create_from_arg_obj(dict(arguments), {"device": "cpu"})


def main() -> None:
    """Open the model and obey. What libraries print goes to standard error."""
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    model = opened(sys.argv[1], json.loads(sys.argv[2]))
    for line in itertools.chain(["null"], sys.stdin):
        order = json.loads(line)
        done = "ready" if order is None else json.dumps(asdict(obeyed(model, Order(**order))))
        print(done, file=said, flush=True)


if __name__ == "__main__":
    main()

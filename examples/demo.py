"""What steering buys and costs, on a screen: seven arms on a small real model. `make demo` runs it.

Control, simple prompting, CAA at two doses, and three norm-matched random vectors. Each is measured on the 171 MMLU
questions by likelihood of the options' texts, and on a few questions answered in words. Each answer becomes a record
below `logs/demo`, which `steer report logs/demo` reads.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the examples are no installed package

from examples.demo_records import cloze_record, write_records, written_record
from judges.signals import mean_known, repeated_ngrams
from model_adapters.backend import Completion, Proof, Request, Sampling
from model_adapters.backends.local import open_local
from model_adapters.backends.local.backend import LocalBackend
from model_adapters.behavior import Behavior, find_behavior
from model_adapters.methods import build_method
from model_adapters.preparation import Prepared, prepare
from model_adapters.steering import Steering
from steer_tasks.analysis.record import Record
from steer_tasks.answers import is_answered, parse_answer
from steer_tasks.options import score_options
from steer_tasks.protocol import Protocol
from steer_tasks.protocols import load_protocol
from steer_tasks.questions import Question, load_questions

BEHAVIOR = "funny"
WRITTEN = 8
"""Questions answered in words, evenly spread over the subjects; few, because a looping answer runs to the limit."""
ANSWER_TOKENS = 256


RECORDED = {
    **{"CAA, dose 0.3": "caa dose=0.3", "CAA, dose 0.6": "caa dose=0.6"},
    **{f"placebo 0.3, draw {draw}": "placebo dose=0.3" for draw in range(3)},
}
"""How records call arms where the table says it otherwise: a sweep by its value, draws by one name."""


@dataclass(frozen=True)
class Measured:
    """One arm's numbers: scores by question, answers in words with their proofs, and both as records."""

    options: Sequence[Mapping[str, float]]
    answers: Sequence[Completion]
    records: Sequence[Record]

    def mean(self, name: str) -> str:
        """Mean over questions and its standard error."""
        values = [one[name] for one in self.options]
        return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"

    @property
    def dose(self) -> str:
        """Mean relative dose that the proofs measured, over the answers' steered tokens."""
        doses = [layer.dose for answer in self.answers for layer in answer.proof.doses if layer.dose is not None]
        return f"{statistics.fmean(doses):.2f}" if doses else "–"


async def arms(backend: LocalBackend, behavior: Behavior) -> dict[str, Steering]:
    """The seven arms. The placebos have the norm of the weaker CAA."""

    async def made(method: str, draw: int = 0, **parameters: object) -> Prepared:
        return await prepare(build_method(method, parameters), behavior, backend, draw=draw)

    weaker = await made("caa", dose=0.3)
    found = {
        "control": (await made("control")).steering,
        "simple prompting": (await made("prompt")).steering,
        "CAA, dose 0.3": weaker.steering,
        "CAA, dose 0.6": (await made("caa", dose=0.6)).steering,
    }
    for draw in range(3):
        placebo = await made("random_vector", draw, match=str(weaker.path))
        found[f"placebo 0.3, draw {draw}"] = placebo.steering
    return found


async def measure(
    backend: LocalBackend, arm: str, steering: Steering, asked: Sequence[Question], protocol: Protocol
) -> Measured:
    """Score every question's options, and let a few questions be answered in words."""

    async def options(question: Question) -> tuple[Mapping[str, float], Record]:
        messages = protocol.messages(question, "cloze")
        scored = await asyncio.gather(*(backend.score(messages, choice, steering) for choice in question.choices))
        found = score_options([one.total for one in scored], question.choices, question.answer)
        return found, cloze_record(arm, steering, question, messages, scored, found)

    async def answer(question: Question) -> tuple[Completion, Record]:
        messages = protocol.messages(question, "chain_of_thought")
        found = await backend.complete(Request(messages, steering, Sampling(max_tokens=ANSWER_TOKENS)))
        return found, written_record(arm, steering, question, messages, found)

    spread = asked[:: max(1, len(asked) // WRITTEN)][:WRITTEN]
    answers = await asyncio.gather(*map(answer, spread))
    scored = await asyncio.gather(*map(options, asked))
    records = [record for _, record in (*answers, *scored)]
    return Measured([found for found, _ in scored], [found for found, _ in answers], records)


def table(measured: Mapping[str, Measured], title: str) -> Table:
    """The arms as rows."""
    made = Table(title=title, title_justify="left")
    for heading in ("arm", "cloze accuracy", "cloze margin", "answered", "repeated 4-grams", "dose"):
        made.add_column(heading, justify="left" if heading == "arm" else "right")
    for name, one in measured.items():
        answered = sum(is_answered(parse_answer(answer.text)) for answer in one.answers)
        repeated, _ = mean_known(repeated_ngrams(answer.text) for answer in one.answers)
        shown = "–" if repeated is None else f"{repeated:.2f}"
        made.add_row(name, one.mean("acc"), one.mean("margin"), f"{answered} of {len(one.answers)}", shown, one.dose)
    return made


def check(proof: Proof, steering: Steering) -> None:
    """Every row of the table stands on proofs that name its steering."""
    if proof.fingerprint != steering.fingerprint or proof.level != "measured":
        raise RuntimeError(f"steering {steering.fingerprint} was not proved to be applied")


async def main() -> None:
    """Open the model, prepare the arms, measure all of them at once, print the table."""
    console, began = Console(width=110), time.monotonic()
    behavior, protocol, asked = find_behavior(BEHAVIOR), load_protocol(), load_questions("mmlu_171")
    backend = open_local("embedded")
    console.print(f"behavior “{behavior.text}”; {len(asked.questions)} questions from {asked.source}")
    steerings = await arms(backend, behavior)
    prepared_s = time.monotonic() - began
    console.print(f"{len(steerings)} arms prepared after {prepared_s:.0f} s; measuring them together …")
    # Rows of one forward pass carry different steerings, so the arms share passes instead of queueing.
    found = await asyncio.gather(
        *(
            measure(backend, RECORDED.get(name, name), steering, asked.questions, protocol)
            for name, steering in steerings.items()
        )
    )
    measured = dict(zip(steerings, found, strict=True))
    for name, steering in steerings.items():
        for answer in measured[name].answers:
            check(answer.proof, steering)
    await backend.aclose()
    console.print(table(measured, f"embedded model (SmolLM2-135M-Instruct, {backend.identity.dtype})"))
    console.print(
        f"measured in {time.monotonic() - began:.0f} s\n"
        "cloze: the right option's text is the likeliest of four, chance 0.25; margin: log-probability per character\n"
        "of the right option minus the best wrong one; ±: one standard error over questions; answered: a letter\n"
        f"between <answer> tags within {ANSWER_TOKENS} tokens; dose: mean ‖added‖ / ‖residual‖ over the steered tokens."
    )
    records = [record for one in measured.values() for record in one.records]
    written = write_records(records, asked, protocol, behavior, backend.identity)
    console.print(
        f"{len(records)} records in {written}; `steer report {written.parent} --out report.html` compares them"
    )


if __name__ == "__main__":
    asyncio.run(main())

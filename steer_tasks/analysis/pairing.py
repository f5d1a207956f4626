"""Answers of each arm beside the control's to the same question, and what can't be paired."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from model_adapters.errors import SteerError
from model_adapters.steering import CONTROL
from steer_tasks.analysis.duplicates import once_each
from steer_tasks.analysis.findings import Unpaired
from steer_tasks.analysis.record import SCORES, Record

OF_THE_BEHAVIOR = ("behavior_score",)
"""Outcomes that an answer has only beside a behavior."""

EXAMPLES = 3
"""Questions that an entry on unpaired answers names."""


@dataclass(frozen=True)
class Answer:
    """What one arm says to one question under one draw: one record, or its repeats."""

    arm: str
    draw: int
    behavior: str | None
    question: str
    repeats: tuple[Record, ...]

    def score(self, outcome: str) -> float | None:
        """Mean over the repeats that have the outcome, a score or a signal; None where none has."""
        values = [value for one in self.repeats if (value := value_of(one, outcome)) is not None]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Pair:
    """An arm's answer and the control's to the same question. `shares_behavior`: both belong to one behavior, so that
    behavior scores may be compared too."""

    treated: Answer
    control: Answer
    shares_behavior: bool

    def scores(self, outcome: str) -> tuple[float, float] | None:
        """The arm's and the control's; None where one is missing or they can't be compared."""
        if outcome in OF_THE_BEHAVIOR and not self.shares_behavior:
            return None
        treated, control = self.treated.score(outcome), self.control.score(outcome)
        return None if treated is None or control is None else (treated, control)


@dataclass(frozen=True)
class Pairing:
    """The pairs of all arms, arm by arm in order of appearance, and what has no pair."""

    control: str
    arms: tuple[str, ...]
    """Control first, then in order of appearance."""
    records: tuple[Record, ...]
    """Each answer once."""
    pairs: tuple[Pair, ...]
    unpaired: tuple[Unpaired, ...]
    remarks: tuple[str, ...]

    def of(self, arm: str) -> tuple[Pair, ...]:
        """The pairs of one arm, all its draws."""
        return tuple(pair for pair in self.pairs if pair.treated.arm == arm)


def value_of(record: Record, outcome: str) -> float | None:
    """A record's score, or its signal, of that name."""
    found = getattr(record, outcome) if outcome in SCORES else record.signals.get(outcome)
    return None if found is None else float(found)


def by_model(records: Sequence[Record]) -> dict[str, tuple[Record, ...]]:
    """Records that may be compared with each other, by a title: the model's name, and the question set and protocol
    where a model has several."""
    groups: defaultdict[tuple[str, str | None, str | None], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.model, record.question_set, record.protocol].append(record)
    models = [key[0] for key in groups]
    return {
        " · ".join([key[0], *(word for word in key[1:] if word and models.count(key[0]) > 1)]): tuple(held)
        for key, held in groups.items()
    }


def control_of(records: Sequence[Record], named: str | None = None) -> str:
    """The arm that the others are compared with: the one named, else the one that steers nothing.

    Raises SteerError, with the arms there are, for a name that isn't there, and where none or several can be meant.
    """
    arms = dict.fromkeys(record.arm for record in records)
    known = ", ".join(arms) or "none"
    if named is not None:
        if named not in arms:
            raise SteerError(f"there is no arm {named!r} to compare with; there are {known}")
        return named
    found = dict.fromkeys(record.arm for record in records if _steers_nothing(record))
    found = found or dict.fromkeys(arm for arm in arms if arm.casefold() == "control")
    if len(found) != 1:
        said = f"{', '.join(found)} all steer nothing" if found else "no arm is a control"
        raise SteerError(f"{said}; name the one to compare with, of {known}")
    return next(iter(found))


def _steers_nothing(record: Record) -> bool:
    return record.method == "control" or record.fingerprint == CONTROL.fingerprint


def paired(records: Sequence[Record], control: str | None = None) -> Pairing:
    """Pair every arm's answers with the control's, by behavior and question.

    Repeats of an answer are kept together, those of the control over all its draws. A control that was run without
    behaviors pairs with every behavior, and an arm without one with the control's answers under any; behavior scores
    are then not compared. Raises SteerError for records of more than one model, question set or protocol, and as
    `control_of` and `once_each` do.
    """
    if len(groups := by_model(records)) > 1:
        raise SteerError(f"{', '.join(groups)} can't be compared with each other; pair each alone")
    kept, remarks = once_each(records)
    chosen = control_of(kept, control)
    controls = _Controls([record for record in kept if record.arm == chosen])
    answers = _answers([record for record in kept if record.arm != chosen])
    pairs, lost = [], []
    for answer in answers:
        if (match := controls.of(answer)) is None:
            lost.append((answer, controls.why_not(answer)))
        else:
            pairs.append(Pair(answer, *match))
    arms = dict.fromkeys([chosen, *(record.arm for record in kept)])
    scored = any(one.behavior_score is not None for one in kept)
    if scored and any(not pair.shares_behavior for pair in pairs):
        said = f"{chosen} and the other arms don't share behaviors, so behavior scores can't be compared everywhere"
        remarks = (*remarks, said)
    without = _without_answer(chosen, controls, answers)
    return Pairing(chosen, tuple(arms), kept, tuple(pairs), _listed([*lost, *without]), remarks)


def _answers(records: Sequence[Record]) -> list[Answer]:
    held: defaultdict[tuple[str, int, str | None, str], list[Record]] = defaultdict(list)
    for record in records:
        held[record.arm, record.draw, record.behavior, record.question].append(record)
    return [Answer(*key, tuple(repeats)) for key, repeats in held.items()]


class _Controls:
    """The control's answers, by behavior and question."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._held: defaultdict[tuple[str | None, str], list[Record]] = defaultdict(list)
        for record in records:
            self._held[record.behavior, record.question].append(record)
        self.behaviors = dict.fromkeys(behavior for behavior, _ in self._held)

    def of(self, answer: Answer) -> tuple[Answer, bool] | None:
        """The control's answer to pair with, and whether it belongs to the same behavior."""
        behavior, question = answer.behavior, answer.question
        if found := self._held.get((behavior, question)):
            return self._answer(behavior, question, found), behavior is not None
        if behavior is not None and (found := self._held.get((None, question))):
            return self._answer(None, question, found), False
        if behavior is None and (found := [one for at in self._held if at[1] == question for one in self._held[at]]):
            return self._answer(None, question, found), False
        return None

    def why_not(self, answer: Answer) -> str:
        known = answer.behavior in self.behaviors or None in self.behaviors or answer.behavior is None
        return "the control has no answer to the question" if known else "the control has no answers for the behavior"

    def questions(self, behavior: str | None) -> list[str]:
        """What the control was asked that an answer for `behavior` could pair with."""
        fitting = (behavior, None) if behavior is not None else tuple(self.behaviors)
        return list(dict.fromkeys(question for at, question in self._held if at in fitting))

    def _answer(self, behavior: str | None, question: str, records: Sequence[Record]) -> Answer:
        return Answer(records[0].arm, records[0].draw, behavior, question, tuple(records))


def _without_answer(chosen: str, controls: _Controls, answers: Sequence[Answer]) -> list[tuple[Answer, str]]:
    """Questions that the control was asked and an arm wasn't, for each of its draws and behaviors."""
    asked: defaultdict[tuple[str, int, str | None], set[str]] = defaultdict(set)
    for answer in answers:
        asked[answer.arm, answer.draw, answer.behavior].add(answer.question)
    found = [
        (Answer(arm, draw, behavior, question, ()), f"{chosen} has an answer to the question, the arm has none")
        for (arm, draw, behavior), known in asked.items()
        for question in controls.questions(behavior)
        if question not in known
    ]
    arms: defaultdict[tuple[str, int], set[str | None]] = defaultdict(set)
    for arm, draw, behavior in asked:
        arms[arm, draw].add(behavior)
    found += [
        (Answer(arm, draw, behavior, question, ()), f"{chosen} has answers for the behavior, the arm has none")
        for (arm, draw), known_behaviors in arms.items()
        for behavior in controls.behaviors
        if behavior is not None and None not in known_behaviors and behavior not in known_behaviors
        for question in controls.questions(behavior)
    ]
    return found


def _listed(lost: Sequence[tuple[Answer, str]]) -> tuple[Unpaired, ...]:
    held: defaultdict[tuple[str, str | None, str], list[str]] = defaultdict(list)
    for answer, reason in lost:
        held[answer.arm, answer.behavior, reason].append(answer.question)
    return tuple(
        Unpaired(arm, behavior, len(questions), reason, tuple(dict.fromkeys(questions))[:EXAMPLES])
        for (arm, behavior, reason), questions in held.items()
    )

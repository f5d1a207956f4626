"""Records and findings written by hand, for tests of reports: a small study with a sweep, draws and placebos."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from steer_tasks.analysis.findings import (
    DrawVariation,
    Effect,
    Equivalence,
    Estimate,
    Excess,
    Findings,
    Leak,
    Mean,
    Unpaired,
)
from steer_tasks.analysis.record import Log, Message, Record, Source

BEHAVIORS = ("funny", "concise", "professional")
QUESTIONS = tuple(f"subject/{number}" for number in range(6))
ARMS = ("control", "prompt", "caa dose=0.1", "caa dose=0.3", "caa dose=0.6", "random_vector dose=0.3")
SWEEP = ARMS[2:5]
HOSTILE = "<script>alert('x')</script> | `pipe` & <b>bold</b>"

# Change of each arm in behavior, coherence and accuracy.
CHANGES: Mapping[str, tuple[float, float, float]] = {
    "prompt": (0.69, 0.11, -0.01),
    "caa dose=0.1": (0.25, -0.03, 0.0),
    "caa dose=0.3": (0.80, -0.12, -0.02),
    "caa dose=0.6": (1.10, -1.60, -0.20),
    "random_vector dose=0.3": (0.02, -0.15, -0.03),
}
HALF = (0.15, 0.10, 0.03)
"""Half of the width of every interval, by outcome."""
OUTCOMES = ("behavior_score", "coherence_score", "accuracy")
CONTROL = (2.5, 4.75, 0.62)
DETECTABLE = (0.21, 0.14, 0.042)
BUDGETS = {"coherence_score": 0.25, "accuracy": 0.05}


def record(arm: str, behavior: str, question: str, **given: object) -> Record:
    """One answer of the study."""
    name, _, dose = arm.partition(" dose=")
    whole = Record(
        source="logs/a.eval",
        run="run0",
        model="tiny/model-1B",
        arm=arm,
        method=name,
        fingerprint=f"{abs(len(arm)):016x}",
        source_fingerprint=None,
        coefficient=None,
        dose=float(dose) if dose else None,
        draw=0,
        sample_index=0,
        behavior=behavior,
        question=question,
        subject="subject",
        messages=(Message("user", f"What is {question}?"),),
        completion=f"{arm} says {question}",
        proof="measured",
        measured_dose=float(dose) * 1.05 if dose else None,
        accuracy=1.0,
        answered=1.0,
        behavior_score=3.0,
        coherence_score=5.0,
    )
    return replace(whole, **given)  # type: ignore[arg-type]


def records() -> tuple[Record, ...]:
    """Every arm, behavior and question once; scores step with arm and question so that nothing is constant."""
    found = []
    for place, arm in enumerate(ARMS):
        for behavior in BEHAVIORS:
            for number, question in enumerate(QUESTIONS):
                found.append(
                    record(
                        arm,
                        behavior,
                        question,
                        accuracy=float((number + place) % 3 > 0),
                        behavior_score=float(1 + (number + place) % 5),
                        coherence_score=float(5 - (place == 4) * (number % 4)),
                    )
                )
    return tuple(found)


def source(**given: object) -> Source:
    """The log that `records()` are of."""
    whole = Source(
        path="logs/a.eval",
        kind="inspect",
        model="tiny/model-1B",
        task="behavior",
        questions={"name": "mmlu_171", "digest": "799782f0bc48579d", "count": 171},
        protocol={"name": "isolated", "wording": "reworded", "digest": "00ff00ff00ff00ff"},
        judge="openai/some-judge",
        rubrics={"name": "package", "digest": "abcdabcdabcdabcd"},
        versions={"steer-tasks": "0.1.0", "torch": "2.13.0"},
        started="2026-11-01T10:00:00",
    )
    return replace(whole, **given)  # type: ignore[arg-type]


def log(held: Sequence[Record] | None = None, **given: object) -> Log:
    """A log of those records, by default of all."""
    return Log(source(**given), tuple(records() if held is None else held))


def estimate(value: float, half: float | None, method: str = "clustered by question, t") -> Estimate:
    """A number with a symmetric 95 % interval; None for no interval."""
    low, high = (None, None) if half is None else (value - half, value + half)
    return Estimate(value, low, high, 0.95, None if half is None else half / 2, 5, method, {"questions": 6})


def effect(arm: str, number: int, behavior: str | None = None, **given: object) -> Effect:
    """An arm's change in one outcome, as `CHANGES` has it."""
    value, half = CHANGES[arm][number], HALF[number]
    p = 0.0004 if abs(value) > half else 0.4
    whole = Effect(
        arm=arm,
        outcome=OUTCOMES[number],
        behavior=behavior,
        target="fixed",
        pairs=18,
        unpaired=0,
        estimate=estimate(value, half),
        p=p,
        p_adjusted=min(1.0, 15 * p),
        test="sign flips of whole questions",
        detectable=DETECTABLE[number],
        wrong_way=estimate(0.125, 0.05),
        wrong_way_control=None,
        bounds=None,
    )
    return replace(whole, **given)  # type: ignore[arg-type]


def equivalence(arm: str, outcome: str) -> Equivalence:
    """The test of an arm's loss against its budget, told from the interval."""
    number = OUTCOMES.index(outcome)
    loss, half, budget = -CHANGES[arm][number], HALF[number], BUDGETS[outcome]
    verdict = "within" if loss + half < budget else "beyond" if loss - half > budget else "undecided"
    return Equivalence(arm, outcome, budget, loss, loss + half, verdict, DETECTABLE[number])  # type: ignore[arg-type]


def findings(**given: object) -> Findings:
    """What is concluded of the study, with something in every part."""
    arms = {"control": (0.0, 0.0, 0.0), **CHANGES}
    means = tuple(
        Mean(arm, outcome, estimate(CONTROL[number] + changes[number], 0.1), 18, 0)
        for arm, changes in arms.items()
        for number, outcome in enumerate(OUTCOMES)
    )
    places = [(behavior, arm, number) for behavior in (None, *BEHAVIORS) for arm in CHANGES for number in range(3)]
    effects = tuple(effect(arm, number, behavior) for behavior, arm, number in places)
    whole = Findings(
        model="tiny/model-1B",
        control="control",
        arms=ARMS,
        behaviors=BEHAVIORS,
        questions=6,
        target="fixed",
        means=means,
        effects=effects,
        other_target=(effect("prompt", 0, target="random", estimate=estimate(0.69, 0.90), p=0.2, p_adjusted=0.5),),
        equivalence=tuple(equivalence(arm, outcome) for arm in CHANGES for outcome in BUDGETS),
        draws=(
            DrawVariation("random_vector dose=0.3", "behavior_score", 3, {0: -0.1, 1: 0.0, 2: 0.16}, 0.07),
            DrawVariation("caa dose=0.3", "behavior_score", 1, {0: 0.8}, None),
        ),
        excess=(Excess("caa dose=0.3", ("random_vector dose=0.3",), "behavior_score", estimate(0.78, 0.2), 0.001),),
        leaks=(),
        unpaired=(),
        remarks=("One draw of every steering but the placebo’s.",),
    )
    return replace(whole, **given)  # type: ignore[arg-type]


LEAK = Leak("caa dose=0.3", "prompt", 18, 18, "Be funny when you answer.")
UNPAIRED = Unpaired("prompt", "funny", 2, "the control has no answer", ("subject/0", "subject/1"))

"""A record: one answer of one arm, with its scores, and where it came from. Every reader makes these."""

from collections.abc import Mapping
from dataclasses import dataclass, field

SCORES = ("accuracy", "answered", "behavior_score", "coherence_score")
"""Fields of a record that hold a score: 0 to 1 the first two, 1 to 5 the others. More is better in each but where a
behavior isn't wanted."""


@dataclass(frozen=True)
class Message:
    """One message as it was sent."""

    role: str
    content: str


@dataclass(frozen=True)
class Record:
    """One answer. What isn't known is None; a score that is None has its reason in `missing`, under its name."""

    source: str
    """The log it was read from, as `Source.path` has it."""
    run: str | None
    """Run identity: model digest, dtype, backend, templates and fingerprint in one digest."""
    model: str
    arm: str
    """The condition's name, swept values and protocol in it, the draw not: `caa dose=0.3`."""
    method: str | None
    fingerprint: str | None
    source_fingerprint: str | None
    """Fingerprint before edits by index were made vectors, or before a coefficient was applied, where there was one."""
    coefficient: float | None
    dose: float | None
    draw: int
    sample_index: int
    behavior: str | None
    """Slug of the behavior, or its text where it has none; None for an answer that belongs to no behavior."""
    question: str
    subject: str | None
    messages: tuple[Message, ...] | None
    """What the model was sent, the arm's own prompt in it."""
    completion: str | None
    proof: str | None
    """Level of the proof that the steering ran: measured, probed, acknowledged, sent; None where there is none."""
    measured_dose: float | None
    """Mean ‖Δ‖/‖h‖ over layers and touched tokens, as the proof has it."""
    accuracy: float | None
    answered: float | None
    behavior_score: float | None
    coherence_score: float | None
    signals: Mapping[str, float | None] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    """Why a score or signal is None, by its name."""
    question_set: str | None = None
    """Which questions, in which form: `mmlu_171`, `mmlu_171 cloze`, `open_ended`. Answers pair within one."""
    protocol: str | None = None
    """How questions became messages: `isolated`, `as_run`. Answers pair within one."""
    prompts: tuple[str, ...] | None = None
    """System prompts that the arm's own steering holds; None where its log doesn't say."""
    prompted_by: str | None = None
    """Who put them there: the `arm`, which is meant to ask in words, or the `protocol`; None for nobody or unknown."""

    @property
    def pair(self) -> tuple[str, str]:
        """What an answer shares with its control: behavior (empty for none) and question."""
        return self.behavior or "", self.question


@dataclass(frozen=True)
class Source:
    """A log that records were read from, and what it says of itself. Unknown is None."""

    path: str
    kind: str
    """`lm_eval`, `inspect`, `study` (the paper's table), `records` (made by a script), or `unknown`: left out, and the
    remarks say why."""
    model: str | None = None
    task: str | None = None
    questions: Mapping[str, object] = field(default_factory=dict)
    """Name, digest, where from, how many: as the task recorded them."""
    protocol: Mapping[str, object] = field(default_factory=dict)
    judge: str | None = None
    rubrics: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str | None] = field(default_factory=dict)
    started: str | None = None
    remarks: tuple[str, ...] = ()
    """What a reader should know: a log that ended early, rows that could not be read, each with its count."""
    identity: Mapping[str, object] = field(default_factory=dict)
    """The model's identity as its backend gives it: digest of the weights, revision, dtype, backend, template."""
    names_arms: bool = False
    """Whether its arms' names were chosen, by a grid or a script, and not made from methods and parameters."""
    task_id: str | None = None
    """What a log and its retries share."""
    grid: str | None = None
    """The grid that it is a cell of."""
    position: int | None = None
    """Where the cell stands in the grid, from 0."""


@dataclass(frozen=True)
class Log:
    """Records of one source."""

    source: Source
    records: tuple[Record, ...]

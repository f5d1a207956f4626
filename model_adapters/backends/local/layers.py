"""Where interventions meet the residual stream: one forward hook per decoder block, installed once. Imports torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor, nn

from model_adapters.backends.local.gates import Gates, gate_numbers
from model_adapters.backends.local.span import Span
from model_adapters.errors import SteerError
from model_adapters.steering import AblateDirection, Act, AddVector, ClampFeature, Positions, Steering, is_idle


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The model's decoder blocks in order: the module list with one entry per hidden layer.

    Raises SteerError where the architecture keeps them otherwise, and for encoder-decoders.
    """
    kind, advice = type(model).__name__, "use an ordinary decoder-only model"
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    if config.is_encoder_decoder:
        raise SteerError(f"{kind}: an encoder-decoder has no single residual stream to steer; {advice}")
    count = config.num_hidden_layers
    # The text decoder first: a vision tower beside it may have as many blocks.
    ask = getattr(model, "get_decoder", None)
    decoder = ask() if callable(ask) else None
    roots = [root for root in (decoder, model) if isinstance(root, nn.Module)]
    lists = [part for root in roots for part in root.modules() if isinstance(part, nn.ModuleList)]
    found = [part for part in lists if len(part) == count]
    if not found:
        raise SteerError(f"{kind}: no list of {count} decoder blocks to steer; {advice}")
    return found[0]


@dataclass
class Touch:
    """What was measured at one block, per row: sums since the row began; every tensor is `(batch,)`, float64.

    `tentative` is whether each token of the latest tentative pass was touched, and its dose; both `(batch, tokens)`.
    """

    prompt_tokens: Tensor
    response_tokens: Tensor
    first_response: Tensor
    dose_sum: Tensor
    dose_tokens: Tensor
    first_dose: Tensor
    tentative: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    @classmethod
    def zeros(cls, rows: int, device: torch.device) -> "Touch":
        """Nothing touched yet."""
        return cls(*(torch.zeros(rows, dtype=torch.float64, device=device) for _ in range(6)))

    def add(self, before: Tensor, after: Tensor, span: Span) -> None:
        """Measure one pass: `before` and `after` are the block's output `(batch, tokens, d_model)`."""
        change = (after.float() - before.float()).norm(dim=-1)
        # Not `> 0`: a change that is not a number counts, and shows in the dose.
        touched = (change != 0) & span.every
        size = before.float().norm(dim=-1)
        has_dose = touched & (size != 0)  # a token whose residual is zero has no relative dose
        dose = torch.where(has_dose, change / size, 0.0).double()
        counted = has_dose if span.starts_text is None else has_dose & ~span.starts_text
        if span.prompt is not None:
            self.prompt_tokens += (touched & span.prompt).sum(1)
        self.response_tokens += (touched & span.response).sum(1)
        self.dose_sum += torch.where(counted, dose, 0.0).sum(1)
        self.dose_tokens += counted.sum(1)
        if span.starts_text is not None:
            self.first_dose += torch.where(span.starts_text, dose, 0.0).sum(1)
        if span.last_prompt is not None:
            here = span.last_prompt >= 0
            self.first_response += touched.gather(1, span.last_prompt.clamp_min(0)[:, None])[:, 0] & here

        self.tentative = (touched & span.response, dose) if span.is_tentative else None

    def take_back(self, kept: int) -> None:
        """Forget what the latest tentative pass, of response tokens, measured behind its first `kept` ones."""
        if self.tentative is None:
            return
        touched, dose = (part[:, kept:] for part in self.tentative)
        self.response_tokens -= touched.sum(1)
        self.dose_tokens -= (touched & (dose != 0)).sum(1)
        self.dose_sum -= torch.where(touched, dose, 0.0).sum(1)
        self.tentative = None

    def take(self, rows: Tensor) -> "Touch":
        """The measurements of some rows, by index."""
        return Touch(*(part[rows] for part in self._sums))

    def joined(self, other: "Touch") -> "Touch":
        """The measurements of both batches' rows."""
        return Touch(*(torch.cat(pair) for pair in zip(self._sums, other._sums, strict=True)))

    def put(self, row: int, one: "Touch") -> None:
        """Take over the measurements of another batch's only row."""
        for mine, theirs in zip(self._sums, one._sums, strict=True):
            mine[row] = theirs[0]

    @property
    def _sums(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, item.name) for item in fields(self) if item.name != "tentative")


Change = Callable[[Tensor], Tensor]
"""From one row's residual `(tokens, d_model)` to the change of it, float32, same shape."""


@dataclass(frozen=True)
class RowChange:
    """A change of one row at some positions, behind the row's gates of these numbers."""

    row: int
    positions: Positions
    change: Change
    gates: tuple[int, ...] = ()


@dataclass
class LayerPlan:
    """What is done at one block to the rows of a batch.

    `prompt` and `response` are `(batch, d_model)`, float32: the summed vectors added at those positions, cast to the
    residual's dtype when they are added. `changes` are what depends on the residual
    itself or on conditions; they all read the incoming residual, their sum is added, then the vectors.
    """

    prompt: Tensor
    response: Tensor
    changes: list[RowChange]
    touch: Touch
    layer: int = 0

    def apply(self, hidden: Tensor, span: Span, gates: Gates | None = None) -> Tensor:
        """The block's output after the interventions, `(batch, tokens, d_model)`, and its measurement."""
        steered = hidden
        if self.changes:
            total = torch.zeros_like(hidden, dtype=torch.float32)
            for one in self.changes:
                mask = span.at(one.positions)
                if mask is None:
                    continue
                where = mask[one.row]
                if one.gates and gates is not None:
                    where = where & gates.mask(one.row, one.gates, self.layer, where.shape[0])
                total[one.row] += torch.where(where[:, None], one.change(hidden[one.row].float()), 0.0)
            steered = steered + total.to(hidden.dtype)
        prompt, response = (vectors.to(hidden.dtype)[:, None] for vectors in (self.prompt, self.response))
        added = torch.where(span.response[..., None], response, 0.0)
        if span.prompt is not None:
            added = torch.where(span.prompt[..., None], prompt, added)
        steered = steered + added
        self.touch.add(hidden, steered, span)
        return steered

    def take(self, rows: Tensor) -> "LayerPlan":
        """The plan for some rows of the batch, by index, measurements included; a row may be taken several times."""
        changes = [
            replace(one, row=new) for new, old in enumerate(rows.tolist()) for one in self.changes if one.row == old
        ]
        return LayerPlan(self.prompt[rows], self.response[rows], changes, self.touch.take(rows), self.layer)

    def joined(self, other: "LayerPlan", rows: int) -> "LayerPlan":
        """The plan of this batch's `rows` rows and of `other`'s behind them."""
        changes = [*self.changes, *(replace(one, row=one.row + rows) for one in other.changes)]
        vectors = (torch.cat([self.prompt, other.prompt]), torch.cat([self.response, other.response]))
        return LayerPlan(*vectors, changes, self.touch.joined(other.touch), self.layer)

    def idle(self, rows: int) -> "LayerPlan":
        """A plan of the same block that does nothing to as many rows."""
        zeros = self.prompt.new_zeros(rows, self.prompt.shape[1])
        return LayerPlan(zeros, zeros.clone(), [], Touch.zeros(rows, zeros.device), self.layer)


def clamp_change(one: ClampFeature, device: torch.device) -> Change:
    """(value - relu(encoder · h + bias)) * decoder, in float32; source: steering.ClampFeature."""
    encoder, decoder = (torch.tensor(vector, device=device) for vector in (one.encoder, one.decoder))

    def change(hidden: Tensor) -> Tensor:
        active = torch.relu(hidden @ encoder + one.bias)
        return (one.value - active)[:, None] * decoder

    return change


def ablate_change(one: AblateDirection, device: torch.device) -> Change:
    """-fraction * (h · u) u, in float32; source: steering.AblateDirection."""
    unit = torch.tensor(one.direction, device=device)
    unit = unit / unit.norm()

    def change(hidden: Tensor) -> Tensor:
        return (hidden @ unit)[:, None] * unit * -one.fraction

    return change


def added_change(one: AddVector, device: torch.device) -> Change:
    """coefficient * vector at every token, in float32; for vectors behind a condition."""
    added = torch.tensor(one.vector, device=device) * one.coefficient
    return added.expand_as


def change_of(one: Act, device: torch.device) -> Change:
    """The change that an act makes, in float32."""
    match one:
        case ClampFeature():
            return clamp_change(one, device)
        case AblateDirection():
            return ablate_change(one, device)
        case _:
            return added_change(one, device)


def layer_plan(layer: int, steerings: Sequence[Steering], d_model: int, device: torch.device) -> LayerPlan | None:
    """The plan of one block, on its device, for rows with these steerings; None where no row is changed."""
    rows = len(steerings)
    prompt, response = (torch.zeros(rows, d_model, device=device) for _ in range(2))
    changes: list[RowChange] = []
    busy = False
    for row, steering in enumerate(steerings):
        for one, guards in steering.acts:
            if one.layer != layer or is_idle(one):
                continue
            busy = True
            if isinstance(one, AddVector) and not guards:
                added = torch.tensor(one.vector, device=device) * one.coefficient
                if one.positions in ("all", "prompt"):
                    prompt[row] += added
                if one.positions in ("all", "response"):
                    response[row] += added
            else:
                numbers = gate_numbers(steering, guards)
                changes.append(RowChange(row, one.positions, change_of(one, device), numbers))
    if not busy:
        return None
    return LayerPlan(prompt, response, changes, Touch.zeros(rows, device), layer)

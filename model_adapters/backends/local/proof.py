"""From measurements to a Proof, and the comparison of what was planned with what happened. Imports torch types only."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from model_adapters.backend import LayerDose, Proof
from model_adapters.backends.local.layers import Touch
from model_adapters.backends.local.plan import BatchPlan
from model_adapters.errors import NotApplied, NotFinite
from model_adapters.identity import ModelIdentity
from model_adapters.steering import Act, AddVector, Steering, When, is_idle

NOT_FINITE = "is not finite; lower the steering's coefficient, or run in dtype=float32"
"""What is said of numbers that a steering (or a narrow dtype) blew up."""

CANCELLED = 1e-6
"""Largest entry of a sum of vectors, relative to the largest among them, that rounding alone explains."""


def measured_proof(
    steering: Steering,
    identity: ModelIdentity,
    plan: BatchPlan,
    row: int,
    prompt_tokens: int,
    response_tokens: int,
) -> Proof:
    """The proof for one finished row whose passes held this many prompt and response positions.

    Raises NotApplied where an added vector touched fewer tokens than its positions hold, where a token was touched
    that no intervention names, NotFinite where a change is not finite.
    """
    plans, gates = plan.layers, plan.gates.rows[row] if plan.gates else []
    if any(gate.read != prompt_tokens + response_tokens for gate in gates):
        raise NotApplied("a condition was not read at every token; the answer is withheld")
    prompt_touched, response_touched, first = 0, 0, False
    doses = []
    for layer in sorted({*steering.layers, *plans}):
        acts = [(one, guards) for one, guards in steering.acts if one.layer == layer and not is_idle(one)]
        touch = plans[layer].touch if layer in plans else None
        at_prompt, at_response = _touched(touch, row)
        _check(f"layer {layer}, prompt", acts, "prompt", at_prompt, prompt_tokens)
        _check(f"layer {layer}, response", acts, "response", at_response, response_tokens)
        if not acts or touch is None:
            continue
        prompt_touched, response_touched = max(prompt_touched, at_prompt), max(response_touched, at_response)
        first = first or bool(touch.first_response[row] > 0)
        counted, at_start = float(touch.dose_tokens[row]), float(touch.first_dose[row])
        dose = float(touch.dose_sum[row]) / counted if counted else None
        if not math.isfinite(at_start + (dose or 0.0)):
            raise NotFinite(f"layer {layer}: the steered residual {NOT_FINITE}")
        doses.append(LayerDose(layer, dose, at_start or None))
    return Proof(
        level="measured",
        fingerprint=steering.fingerprint,
        identity=identity.run(steering.fingerprint),
        prompt_tokens_touched=prompt_touched,
        response_tokens_touched=response_touched,
        first_response_token=first,
        doses=tuple(doses),
        conditions_met=tuple(gate.tokens for gate in gates),
    )


def joined(parts: Sequence[Proof]) -> Proof:
    """The proof of a text that was run in several windows: tokens added up, doses weighted by response tokens.

    For texts without a prompt; the first response token and position are those of the first window.
    """
    whole = parts[0]
    if len(parts) == 1:
        return whole
    touched = [part.response_tokens_touched or 0 for part in parts]
    doses = []
    for number, first in enumerate(whole.doses):
        told = [(part.doses[number].dose, count) for part, count in zip(parts, touched, strict=True)]
        known = [(dose, count) for dose, count in told if dose is not None]
        total = sum(count for _, count in known)
        mean = sum(dose * count for dose, count in known) / total if total else None
        doses.append(replace(first, dose=mean))
    met = tuple(map(sum, zip(*(part.conditions_met for part in parts), strict=True)))
    return replace(whole, response_tokens_touched=sum(touched), doses=tuple(doses), conditions_met=met)


def _touched(touch: Touch | None, row: int) -> tuple[int, int]:
    return (0, 0) if touch is None else (int(touch.prompt_tokens[row]), int(touch.response_tokens[row]))


def _check(where: str, acts: Sequence[tuple[Act, tuple[When, ...]]], phase: str, touched: int, held: int) -> None:
    """Added vectors change every token at their positions; clamps, ablations and whatever stands under a condition
    may rightly leave some as they are."""
    mine = [(one, guards) for one, guards in acts if one.positions in ("all", phase)]
    if not mine and touched:
        raise NotApplied(f"{where}: {touched} tokens changed that the steering leaves alone; the answer is withheld")
    added = [one for one, guards in mine if isinstance(one, AddVector) and not guards]
    if len(added) < len(mine) or not added or _cancel(added):
        return
    if touched != held:
        raise NotApplied(
            f"{where}: {touched} of {held} tokens were changed; the coefficient is too small for this dtype, "
            "raise it or run in dtype=float32"
        )


def _cancel(added: Sequence[AddVector]) -> bool:
    """Whether the vectors sum to nothing (v plus -v is the control, and rightly touches no token)."""
    terms = np.stack([one.vector.astype("f8") * one.coefficient for one in added])
    return len(added) > 1 and float(abs(terms.sum(0)).max()) <= CANCELLED * float(abs(terms).max())

"""A Steering written as controller JSON of the Ember protocol. Standard library and `steering` only."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from model_adapters.errors import Refused
from model_adapters.steering import (
    AllOf,
    AnyOf,
    Compare,
    Condition,
    EditFeatures,
    FeatureCompare,
    Intervention,
    Steering,
    SystemPrompt,
    When,
)

UNSUPPORTED = ("nonzero_strength_threshold", "min_nudge_entropy", "max_nudge_entropy")
"""Keys whose meaning was never published; only null is taken."""


def feature_id(index: int) -> str:
    """A feature's id where no service gave it one: a UUID that holds the index in its last 12 digits."""
    digits = f"{index:012x}"
    return f"00000000-0000-4000-8000-{digits}"


def index_of_id(text: str) -> int | None:
    """The index that `feature_id` put into an id (hex or dashed, any case); None for another's id."""
    digits = text.replace("-", "").lower()
    found = re.fullmatch(r"0{12}40008000([0-9a-f]{12})", digits)
    return int(found[1], 16) if found else None


def controller_of(steering: Steering) -> dict[str, Any] | None:
    """The controller that means `steering`, SystemPrompts left out; None where nothing is left to send.

    Ids and labels are those in the provenance's `features`. What an edit says of dictionary, layer, factor and
    positions isn't on the wire: whoever sends it checks that first. Raises Refused for what the wire can't carry.
    """
    if reasons := wire_refusals(steering):
        raise Refused("; ".join(reasons))
    acting = [one for one in steering.interventions if not isinstance(one, SystemPrompt)]
    level = _level_json(acting, steering.fingerprint[:8], _features(steering.provenance))
    return level if level["interventions"] or level["scopes"] else None


def wire_refusals(steering: Steering) -> list[str]:
    """Why `steering` can't be written as a controller; empty when it can."""
    return list(dict.fromkeys(reason for one in steering.interventions for reason in _unsendable(one)))


def _unsendable(one: Intervention) -> Iterable[str]:
    match one:
        case SystemPrompt() | EditFeatures():
            return
        case When():
            if one.moment != "token":
                yield "a service decides conditions token by token; When with moment 'prompt' needs hook_steered"
            if _reads_directions(one.condition):
                yield "a condition on a direction needs a model whose activations are ours to read; use hook_steered"
            for inside in one.interventions:
                yield from _unsendable(inside)
        case _:
            kind = type(one).__name__
            yield f"{kind} holds vectors, a service takes features: prepare features for it, or use hook_steered"


def _reads_directions(condition: Condition) -> bool:
    if isinstance(condition, (AllOf, AnyOf)):
        return any(_reads_directions(one) for one in condition.conditions)
    return isinstance(condition, Compare)


def _level_json(acting: Iterable[Intervention], name: str, features: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    pins: dict[int, float] = {}
    nudges: dict[int, float] = {}
    scopes = []
    for one in acting:
        if isinstance(one, When):
            inside = _level_json(one.interventions, name, features)
            if inside["interventions"] or inside["scopes"] or one.event is not None:
                scopes.append(
                    {
                        "conditionals": _condition_json(one.condition, features, top=True),
                        "controller": inside,
                        "is_active": False,
                        "event_name": one.event,
                    }
                )
        elif isinstance(one, EditFeatures):
            for edit in one.edits:
                if edit.mode == "nudge":
                    nudges[edit.index] = nudges.get(edit.index, 0.0) + edit.value
                elif edit.index in pins:
                    raise Refused(f"feature {edit.index} is pinned twice; a service takes one value, keep one")
                else:
                    pins[edit.index] = edit.value
    # Pins first: on the wire a pin removes earlier edits of its feature, in a steering order doesn't matter.
    edits = [("pin", index, pins[index]) for index in sorted(pins)]
    edits += [("nudge", index, nudges[index]) for index in sorted(nudges) if nudges[index] != 0.0]
    interventions = [
        {"mode": mode, "value": value, "features": _group_json((index,), features)} for mode, index, value in edits
    ]
    unsaid = dict.fromkeys(UNSUPPORTED)
    return {"interventions": interventions, "scopes": scopes, "name": f"controller__{name}", **unsaid}


def _condition_json(condition: Condition, features: Mapping[int, Mapping[str, Any]], top: bool = False) -> Any:
    match condition:
        case AllOf() | AnyOf():
            members = [_condition_json(one, features) for one in condition.conditions]
            return {"conditionals": members, "operator": "AND" if isinstance(condition, AllOf) else "OR"}
        case FeatureCompare():
            right = condition.right
            leaf = {
                "left_hand": _group_json(condition.left, features),
                "right_hand": _group_json(right, features) if isinstance(right, tuple) else right,
                "operator": condition.operator,
            }
            return {"conditionals": [leaf], "operator": "AND"} if top else leaf
        case Compare():  # wire_refusals came first
            raise Refused("a condition on a direction can't be sent; use hook_steered")


def _group_json(indices: tuple[int, ...], features: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "features": [
            {
                "uuid": features.get(index, {}).get("uuid") or feature_id(index),
                "label": features.get(index, {}).get("label") or f"feature {index}",
                "index_in_sae": index,
                "max_activation_strength": 1,
            }
            for index in indices
        ]
    }


def _features(provenance: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """Labels and ids by index from a provenance, those of the summands of a sum included."""
    found: dict[int, Mapping[str, Any]] = {}
    for part in provenance.get("sum_of", []):
        if isinstance(part, Mapping):
            found |= _features(part)
    for one in provenance.get("features", []):
        if isinstance(one, Mapping) and isinstance(one.get("index"), int):
            found[one["index"]] = one
    return found

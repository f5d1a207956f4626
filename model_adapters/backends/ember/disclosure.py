"""What an Ember service says of itself, and what follows from it. The seam only."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model_adapters.backends.ember.answer import an_object, needed
from model_adapters.backends.ember.call import Asks, Call, EmberError
from model_adapters.identity import ModelIdentity
from model_adapters.steering import AllOf, AnyOf, Condition, EditFeatures, FeatureCompare, Intervention, When


@dataclass(frozen=True)
class Disclosure:
    """What a service says of itself. Everything is None or empty where it says nothing."""

    identity: Mapping[str, Any] = field(default_factory=dict)
    identity_digest: str | None = None
    dictionary: Mapping[str, Any] = field(default_factory=dict)
    positions: str | None = None
    draws: bool = False

    def __bool__(self) -> bool:
        return self.identity_digest is not None


async def ask_disclosure(asks: Asks, model: str) -> Disclosure:
    """Ask a service what it discloses. Raises EmberError where it doesn't answer or doesn't serve the model."""
    # Fewer attempts than a question has: a wrong address should be told within seconds.
    call = Call("GET", "/models", {}, seconds=10.0, attempts=3)
    try:
        body = (await asks.ask(call)).body
    except EmberError as problem:
        if problem.status in (404, 405):
            return Disclosure()
        raise
    return disclosure(body, model, asks.url)


def disclosure(body: Any, model: str, url: str) -> Disclosure:
    """What a list of models says of `model`; nothing where it is not one of our own services.

    Raises EmberError where our own service doesn't serve that model.
    """
    listed = body.get("data") if isinstance(body, Mapping) else None
    entries = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    ours = {str(one.get("id")): one["steer"] for one in entries if isinstance(one.get("steer"), Mapping)}
    if not ours:
        return Disclosure()
    if model not in ours:
        raise EmberError(f"{url} serves {', '.join(ours)}, not {model}; give one of these as the model")
    steer = ours[model]
    positions = steer.get("positions")
    return Disclosure(
        identity=an_object(steer.get("identity"), "steer.identity"),
        identity_digest=needed(steer, "identity_digest", str, "steer"),
        dictionary=an_object(steer.get("dictionary") or {}, "steer.dictionary"),
        positions=positions if isinstance(positions, str) else None,
        draws=steer.get("draws") is True,
    )


def identity_of(url: str, model: str, disclosed: Disclosure) -> ModelIdentity:
    """The identity of a service's model: its address and name, and what it discloses."""
    said, dictionary = disclosed.identity, disclosed.dictionary
    arguments = {} if disclosed.identity_digest is None else {"service": disclosed.identity_digest}
    if disclosed.positions is not None:
        arguments["positions"] = disclosed.positions
    if dictionary:
        arguments["dictionary"] = json.dumps({name: dictionary[name] for name in sorted(dictionary)})
    known = ("model_digest", "revision", "dtype", "template_digest", "template_mode")
    texts = {name: said[name] for name in known if isinstance(said.get(name), str)}
    digest = dictionary.get("digest")
    return ModelIdentity(
        name=model,
        backend="ember",
        url=url,
        dictionary_digest=digest if isinstance(digest, str) else None,
        arguments=arguments,
        **texts,
    )


def mismatches(one: Intervention, disclosed: Disclosure, url: str) -> list[str]:
    """Where an intervention is meant for another dictionary, layer, factor or positions than the service has."""
    match one:
        case EditFeatures():
            return _differing(one, ("dictionary", "layer", "factor", "positions"), disclosed, url)
        case When():
            inside = [reason for held in one.interventions for reason in mismatches(held, disclosed, url)]
            return _condition_mismatches(one.condition, disclosed, url) + inside
        case _:
            return []


def _condition_mismatches(condition: Condition, disclosed: Disclosure, url: str) -> list[str]:
    match condition:
        case AllOf() | AnyOf():
            return [reason for one in condition.conditions for reason in _condition_mismatches(one, disclosed, url)]
        case FeatureCompare():
            return _differing(condition, ("dictionary", "layer", "factor"), disclosed, url)
        case _:
            return []


def _differing(
    one: EditFeatures | FeatureCompare, names: tuple[str, ...], disclosed: Disclosure, url: str
) -> list[str]:
    """What an edit or condition says and the service has otherwise, or doesn't say."""
    held = disclosed.dictionary
    has = {
        "dictionary": held.get("digest"),
        "layer": held.get("layer"),
        "factor": held.get("factor"),
        "positions": disclosed.positions,
    }
    reasons = []
    for name in names:
        wanted = getattr(one, name)
        if wanted is not None and wanted != has[name]:
            instead = f"has {has[name]}" if has[name] is not None else f"doesn't disclose its {name}"
            reasons.append(
                f"{type(one).__name__}: {name} {wanted} is asked for, {url} {instead}; "
                f"leave {name} out, or run it on hook_steered"
            )
    return reasons

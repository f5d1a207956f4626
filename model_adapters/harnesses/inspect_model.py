"""What our Inspect providers share: the spec in each request, and the report on each answer. Imports inspect_ai."""

import asyncio
from abc import abstractmethod
from dataclasses import asdict
from typing import Any

from inspect_ai.model import GenerateConfig, ModelAPI

from model_adapters.backend import Backend, Messages, Proof
from model_adapters.errors import Refused
from model_adapters.harnesses.inspect_spec import KEY, Spec, parse_spec
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, Steering


class SteeredModel(ModelAPI):
    """A provider that steers each request as its spec says, and reports in `ModelOutput.metadata["steer"]` what ran."""

    unsteered = False
    """Whether a request without a spec is let through as it is, instead of being refused."""

    @abstractmethod
    async def backend(self) -> Backend:
        """The backend that methods prepare with and that says what it refuses; opened at the first call."""
        ...

    def taken(self, config: GenerateConfig) -> tuple[Spec | None, dict[str, Any]]:
        """The spec in a request, and what else is in its extra_body. Raises Refused for a request without one."""
        body = dict(config.extra_body or {})
        given = body.pop(KEY, None)
        if given is not None:
            return parse_spec(given), body
        if self.unsteered:
            return None, body
        raise Refused(
            f'the request says nothing about steering; add --extra-body "$(steer spec FILE)", '
            f"or open {self.model_name} with -M unsteered=true to run it plain"
        )


class Steerings:
    """The steerings of this provider's requests, each file read once."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, str | None], Steering] = {}

    async def of(self, spec: Spec | None) -> Steering:
        """The steering a spec names; the control's for none."""
        if spec is None:
            return CONTROL
        key = (spec.fingerprint, spec.file)
        if key not in self._read:
            self._read[key] = await asyncio.to_thread(spec.steering)
        return self._read[key]


def report(
    spec: Spec | None,
    proof: Proof,
    sent: Messages | None,
    seed: int | None,
    identity: ModelIdentity,
    stored: bool = False,
) -> dict[str, object]:
    """What `ModelOutput.metadata["steer"]` holds: what was asked, what ran, on what, and whether it was kept before."""
    return {
        "spec": spec.as_dict() if spec else None,
        "fingerprint": proof.fingerprint,
        "identity": proof.identity,
        "proof": proof.as_dict(),
        "messages_sent": None if sent is None else [asdict(message) for message in sent],
        "seed": seed,
        "stored": stored,
        "model": identity.as_dict(),
    }

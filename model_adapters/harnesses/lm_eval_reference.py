"""The likelihood signal inside lm-eval: how likely the unsteered model finds an answer of a steered one. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_adapters.backend import Backend, Completion, Proof, Request, ScoresText, Text
from model_adapters.errors import SteerError
from model_adapters.harnesses.documents import FIELD
from model_adapters.steering import CONTROL


@dataclass(frozen=True)
class Answered:
    """A completion, and the mean negative log-likelihood of its tokens, in nats, under the unsteered model.

    None with the reason where there is none.
    """

    completion: Completion
    reference_nll: float | None
    reason: str | None

    @property
    def proof(self) -> Proof:
        """The completion's."""
        return self.completion.proof


async def with_reference(backend: Backend, request: Request, wanted: bool) -> Answered:
    """Complete a request and, where `wanted`, score its answer after the same messages without the steering.

    What the scoring can't do is a reason, not a failure: the answer stands.
    """
    completion = await backend.complete(request)
    if not wanted or isinstance(request.prompt, Text):
        return Answered(completion, None, "not one of this package's own chat questions")
    if not isinstance(backend, ScoresText) or not completion.text:
        return Answered(completion, None, "the answer is empty" if not completion.text else "no likelihoods here")
    try:
        found = await backend.score(request.prompt, completion.text, CONTROL)
    except SteerError as problem:
        return Answered(completion, None, str(problem))
    if not found.logprobs:
        return Answered(completion, None, "the answer has no tokens")
    return Answered(completion, -found.total / len(found.logprobs), None)


def is_ours(request: Any) -> bool:
    """Whether a request of lm-eval comes from one of this package's tasks."""
    return isinstance(request.doc, Mapping) and FIELD in request.doc

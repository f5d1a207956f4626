"""Inspect's side of the judge-free signals: those of a sample's answer, and its likelihood under a reference model."""

from inspect_ai.model import Model, get_model
from inspect_ai.solver import TaskState

from judges.signals import Signals, text_signals, with_reference_nll
from model_adapters.backend import Backend, ScoresText
from model_adapters.errors import SteerError
from model_adapters.harnesses.inspect import HookSteered
from model_adapters.harnesses.inspect_messages import our_messages
from model_adapters.steering import CONTROL


async def measured(state: TaskState, reference_model: str | None, tagged: bool) -> Signals:
    """All signals of one sample's answer."""
    answer = state.output.completion
    found = text_signals(
        answer,
        prompt=state.user_prompt.text,
        truncated=state.output.stop_reason in ("max_tokens", "model_length"),
        tagged=tagged,
    )
    return with_reference_nll(found, *await _reference_nll(state, reference_model))


async def _reference_nll(state: TaskState, reference_model: str | None) -> tuple[float | None, str | None]:
    """Mean negative log-likelihood per token of the answer after the task's messages, unsteered, in nats; or why not.

    The arm's prompt is left out, so that all arms are measured against the same text.
    """
    backend = await _reference(reference_model)
    if backend is None:
        return None, "the model under test is not a local one; name reference_model"
    if not isinstance(backend, ScoresText):
        return None, f"{backend.name} gives no likelihoods; name another reference_model"
    if not state.output.completion:
        return None, "the answer is empty"
    asked = our_messages(state.input if isinstance(state.input, list) else state.messages[:-1])
    try:
        likelihood = await backend.score(asked, state.output.completion, CONTROL)
    except SteerError as problem:  # too long, usually
        return None, str(problem)
    if not likelihood.logprobs:
        return None, "the answer has no tokens"
    return -likelihood.total / len(likelihood.logprobs), None


async def _reference(name: str | None) -> Backend | None:
    model: Model = get_model(f"hook_steered/{name}") if name else get_model()
    return await model.api.answering() if isinstance(model.api, HookSteered) else None

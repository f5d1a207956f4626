"""Requests of the Ember protocol: a Request rendered as the payload that is sent. The seam only.

Rendering is a pure function, so that a harness can log a payload and tell equal requests before anything is sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model_adapters.backend import Messages, Request, Text, prompt_refusals, with_system_prompts
from model_adapters.backends.ember.call import Call
from model_adapters.backends.wrapped import seed_of_sample
from model_adapters.controller_json import controller_of, wire_refusals
from model_adapters.errors import Refused
from model_adapters.steering import Steering

CHAT = "/chat/completions"
LOGITS = "/chat-attribution/compute-logits"

SECONDS: Mapping[str, float] = {
    CHAT: 320.0,
    LOGITS: 10.0,
    "/features/search": 10.0,
    "/features/rerank": 30.0,
    "/features/lookup": 10.0,
    "/features/auto-edits": 60.0,
    "/attributions/neighbors": 10.0,
    "/chat-attribution/contrast": 120.0,
    "/models": 10.0,
}
"""Seconds that the protocol's own client gives one attempt, by path."""


def get(path: str, payload: Mapping[str, Any]) -> Call:
    """A call that only reads."""
    return Call("GET", path, payload, SECONDS[path])


def post(path: str, payload: Mapping[str, Any], *, stream: bool = False, fresh: bool = False) -> Call:
    """A call with a JSON body."""
    return Call("POST", path, payload, SECONDS[path], stream=stream, fresh=fresh)


def request_refusals(request: Request) -> list[str]:
    """Why no service of this protocol can take a request; empty when one can."""
    reasons = prompt_refusals(request.prompt, request.steering)
    if isinstance(request.prompt, Text):
        reasons.append("a chat service takes messages, not rendered text; send messages")
    if request.sampling.top_k is not None:
        reasons.append(f"top_k={request.sampling.top_k} has no place in this protocol; leave it out")
    return reasons + wire_refusals(request.steering)


def chat_payload(request: Request, model: str, *, stream: bool = False) -> dict[str, Any]:
    """The JSON body of one chat request: every sampling setting said, messages as given but for SystemPrompts.

    A sampled request without a seed has `seed` null here; the client draws one when it sends it. Raises Refused.
    """
    if (reasons := request_refusals(request)) or isinstance(request.prompt, Text):
        raise Refused("; ".join(reasons))
    sampling = request.sampling
    payload = {
        "messages": messages_json(with_system_prompts(request.prompt, request.steering)),
        "stream": stream,
        "max_completion_tokens": sampling.max_tokens,
        "top_p": float(sampling.top_p),
        "temperature": float(sampling.temperature),
        "stop": list(sampling.stop) or None,
        "seed": seed_of_sample(sampling.seed, request.sample_index),
        "model": model,
    }
    return payload | controller_entry(request.steering)


def logits_payload(messages: Messages, vocabulary: Sequence[str], steering: Steering, model: str) -> dict[str, Any]:
    """The JSON body that asks for the next token's logits of given texts. Raises Refused."""
    reasons = prompt_refusals(messages, steering) + wire_refusals(steering)
    if not vocabulary:
        reasons.append("there are no token texts to give logits of; name at least one")
    if reasons:
        raise Refused("; ".join(reasons))
    payload = {
        "messages": messages_json(with_system_prompts(messages, steering)),
        "top_k": len(vocabulary),
        "filter_vocabulary": list(vocabulary),
        "model": model,
    }
    return payload | controller_entry(steering)


def messages_json(messages: Messages) -> list[dict[str, str]]:
    """A conversation as the protocol writes it."""
    return [{"role": message.role, "content": message.content} for message in messages]


def controller_entry(steering: Steering) -> dict[str, Any]:
    """The controller of a steering under its key; nothing where there is nothing to control."""
    controller = controller_of(steering)
    return {} if controller is None else {"controller": controller}


def event_names(controller: Mapping[str, Any] | None) -> list[str | None]:
    """The events of a controller's scopes, in order, outer before inner; None for a scope without one."""
    return list(_event_names(controller or {}))


def _event_names(controller: Mapping[str, Any]) -> Iterable[str | None]:
    for scope in controller.get("scopes", []):
        yield scope.get("event_name")
        yield from _event_names(scope.get("controller", {}))

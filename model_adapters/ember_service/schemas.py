"""What requests look like, with the limits that the hosted service published. Imports pydantic.

Fields that aren't named here are ignored, as clients of OpenAI's protocol send more; those of them that would change
an answer are refused by `ChatRequest`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from model_adapters.backend import Message, Messages

MOST_MESSAGES = 128
MOST_FEATURES = 8192
MOST_RESULTS = 8192
DEFAULT_MAX_TOKENS = 2048

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
}
"""Fields of OpenAI's protocol that change an answer and that we don't have, with the values that change nothing."""


class Body(BaseModel):
    """A JSON object; numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False, extra="ignore")


class Turn(Body):
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: str


Conversation = Annotated[list[Turn], Field(min_length=1, max_length=MOST_MESSAGES)]
Index = Annotated[int, Field(ge=0)]
Specification = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S")]


def messages_of(turns: list[Turn]) -> Messages:
    """The conversation as the backend takes it."""
    return tuple(Message(turn.role, turn.content) for turn in turns)


class Asked(Body):
    """Every request but one names the model."""

    model: str


class ChatRequest(Asked):
    """Chat completions. Defaults are those of the goodfire SDK."""

    model_config = ConfigDict(allow_inf_nan=False, extra="allow")

    messages: Conversation
    stream: bool = False
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = 0.9
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.6
    stop: str | Annotated[list[str], Field(max_length=64)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    controller: dict[str, Any] | None = None

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, stop: str | list[str] | None) -> list[str]:
        texts = [stop] if isinstance(stop, str) else stop or []
        if any(not text for text in texts):
            raise ValueError("a stop string is empty; leave it out")
        return texts

    @model_validator(mode="after")
    def _nothing_unheard(self) -> "ChatRequest":
        for name, neutral in NEUTRAL.items():
            given = (self.model_extra or {}).get(name)
            if given is not None and given not in neutral:
                raise ValueError(f"{name} is not served here; leave it out")
        return self

    @property
    def most_tokens(self) -> int:
        """The answer's limit, whichever name it was given by."""
        return self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS


class LogitsRequest(Asked):
    """One next-token distribution. `top_k` null means as many as may be."""

    messages: Conversation
    top_k: Annotated[int, Field(ge=1, le=MOST_RESULTS)] | None = 10
    filter_vocabulary: Annotated[list[str], Field(min_length=1, max_length=MOST_RESULTS)] | None = None
    controller: dict[str, Any] | None = None


class RerankRequest(Asked):
    """Order features by a text."""

    query: Annotated[str, Field(max_length=2000)]
    feature_ids: Annotated[list[str], Field(max_length=MOST_FEATURES)]
    top_k: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 10


class NeighborsRequest(Asked):
    """Features like these."""

    feature_indices: Annotated[list[Index], Field(min_length=1, max_length=2048)]
    top_k: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 10


class LookupRequest(Asked):
    """Features by index."""

    indices: Annotated[list[Index], Field(max_length=MOST_FEATURES)]


class FeaturesRequest(Asked):
    """What is active at each token of a conversation."""

    messages: Conversation
    aggregate_by: Literal["count", "mean", "max", "sum"] = "count"
    include_feature_indexes: Annotated[list[Index], Field(max_length=512)] | None = None
    controller: dict[str, Any] | None = None


class ContrastRequest(Asked):
    """What tells two sets of conversations apart."""

    dataset_1: Annotated[list[Conversation], Field(min_length=1, max_length=64)]
    dataset_2: Annotated[list[Conversation], Field(min_length=1, max_length=64)]
    k_to_add: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 5
    k_to_remove: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 5

    @model_validator(mode="after")
    def _paired(self) -> "ContrastRequest":
        if len(self.dataset_1) != len(self.dataset_2):
            raise ValueError("dataset_1 and dataset_2 must have the same length")
        return self


class AttributionRequest(Asked):
    """Which features speak for one token of a conversation."""

    messages: Conversation
    start: Annotated[int, Field(ge=0, alias="startIndex")]
    end: Annotated[int, Field(ge=0, alias="endIndex")]


class TokenizeRequest(Asked):
    """A conversation's tokens."""

    messages: Conversation


class SpecificationRequest(Asked):
    """What is wanted, in words."""

    specification: Specification
    draw: Annotated[int, Field(ge=0, lt=2**31)] = 0


class StimulusRequest(Body):
    """The same without a model, as the SDK sends none."""

    specification: Specification
    model: str | None = None

"""What the service finds by itself: edits, contrasts and conditions for a specification. Imports fastapi."""

import asyncio
import hashlib
import re
from itertools import takewhile

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from model_adapters import auto_steer
from model_adapters.behavior import Behavior, find_behavior
from model_adapters.ember_service.connection import while_wanted
from model_adapters.ember_service.contrasts import Conversations, contrasting
from model_adapters.ember_service.refusals import Unprocessable
from model_adapters.ember_service.schemas import SpecificationRequest, StimulusRequest
from model_adapters.ember_service.searches import Searches
from model_adapters.ember_service.service import EmberService
from model_adapters.errors import Refused, SteerError

CONDITION_FEATURES = 3
"""Most features of a condition."""

UNTELLING = frozenset(
    re.findall(
        r"\w+",
        """
        a about an and any are as asked asks at be been being by comes conversation discusses for from he her his i in
        is it its me mentioned mentions my of on or our say saying says she somebody someone something talk talking
        talks text that the their them there they this to topic turns up us user users was we were with you your
        """,
    )
)
"""Words that say nothing of a condition's subject."""

CONDITION_SHARE = 0.5
"""A label counts for a condition when it scores at least this share of the best one's score."""

CONDITION_READ = 100
"""Labels read for one that fits; those before it score well for parts of words alone."""

CONDITION_THRESHOLD = 0.0
"""A condition asks for an activation above this, in units of value: any at all."""


def suggestion_routes(
    service: EmberService, searches: Searches, options: auto_steer.AutoSteerOptions | None
) -> APIRouter:
    """`auto-edits`, `auto-conditional` and `generate-contrastive-dataset`."""
    routes = APIRouter()

    @routes.post("/features/auto-edits")
    async def auto_edits(asked: SpecificationRequest, request: Request) -> JSONResponse:
        service.check_model(asked.model)
        behavior = behavior_of(asked.specification)

        async def search() -> object:
            terms = options or auto_steer.AutoSteerOptions()
            return await auto_steer.find_edits(behavior, service.backend, service.dictionary, terms, asked.draw)

        try:
            found = await while_wanted(request, searches.find(("edits", behavior.digest, asked.draw), search))
        except Refused as problem:
            raise Unprocessable(str(problem), "body", "specification") from problem
        edits = [[service.feature(edit.index), edit.value] for edit in found.edits]
        steer = {"draw": asked.draw, "dictionary": found.dictionary, "provenance": dict(found.provenance)}
        return JSONResponse({"edits": edits, "steer": steer})

    @routes.post("/features/auto-conditional")
    async def auto_conditional(asked: SpecificationRequest) -> JSONResponse:
        service.check_model(asked.model)
        condition = condition_part(asked.specification)
        labels = service.dictionary.labels
        read = await asyncio.to_thread(labels.search, condition, CONDITION_READ)
        found = [(index, score) for index, score in read if shares_a_word(condition, labels.of(index))]
        if not found:
            problem = f"no feature's label fits {condition[:200]!r}; name the subject in other words"
            raise Unprocessable(problem, "body", "specification")
        least = CONDITION_SHARE * found[0][1]
        named = [service.feature(index, score) for index, score in found[:CONDITION_FEATURES] if score >= least]
        one = {"left_hand": {"features": named}, "right_hand": CONDITION_THRESHOLD, "operator": ">"}
        return JSONResponse({"conditional": {"conditionals": [one], "operator": "AND"}})

    @routes.post("/attributions/generate-contrastive-dataset")
    async def contrastive(asked: StimulusRequest, request: Request) -> JSONResponse:
        if asked.model is not None:
            service.check_model(asked.model)
        behavior = behavior_of(asked.specification)

        async def search() -> Conversations:
            return await contrasting(behavior, service.backend)

        without, with_it = await while_wanted(request, searches.find(("contrast", behavior.digest), search))
        return JSONResponse([without, with_it])

    return routes


def behavior_of(specification: str) -> Behavior:
    """The package's own behavior of that name or text, else one given by its text. No file is ever opened."""
    text = " ".join(specification.split())
    if not text.casefold().endswith((".yaml", ".yml")):
        try:
            return find_behavior(text)
        except SteerError:
            pass  # a single word that names no behavior, or several of them: here it is a text like any other
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return Behavior(f"free-{digest}", text, "A free behavior, given by its text.")


def shares_a_word(one: str, other: str) -> bool:
    """Whether the texts have a word in common, endings aside: at least three letters, and all but two of the shorter.

    So `taxes` is `tax` and `joking` is `jokes`, but `cooking` isn't `looking`.
    """
    ours, theirs = (re.findall(r"\w{3,}", text.casefold()) for text in (one, other))
    return any(_beginning(mine, word) >= max(3, min(len(mine), len(word)) - 2) for mine in ours for word in theirs)


def _beginning(one: str, other: str) -> int:
    """How many characters two words begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def condition_part(specification: str) -> str:
    """What follows the first `when`, `whenever` or `if`, up to a comma; the whole text where there is none.

    Words of `UNTELLING` are left out, unless nothing else is there.
    """
    text = " ".join(specification.split())
    found = re.search(r"\b(?:when|whenever|if)\b\s+([^,;.]+)", text, flags=re.IGNORECASE)
    words = (found[1] if found else text).split()
    telling = [word for word in words if word.casefold().strip("\"'?!:()") not in UNTELLING]
    return " ".join(telling or words)

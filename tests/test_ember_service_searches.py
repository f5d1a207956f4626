"""Long searches of the local Ember: made once, kept, bounded, and not lost with their client."""

import asyncio

import pytest

from model_adapters.ember_service.refusals import Busy
from model_adapters.ember_service.searches import Searches
from tests.tiny_backend import run


class Source:
    """Something to search in: counts searches, and finishes when told."""

    def __init__(self):
        self.made, self.may_end = [], asyncio.Event()

    def search(self, key):
        async def make():
            self.made.append(key)
            await self.may_end.wait()
            return f"found {key}"

        return make


def test_a_search_goes_on_without_its_client():
    """A search whose client hung up goes on, and who asks again gets its result without another search."""

    async def ask():
        source, searches = Source(), Searches()
        first = asyncio.ensure_future(searches.find("a", source.search("a")))
        await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        source.may_end.set()
        assert await searches.find("a", source.search("a")) == "found a"
        assert await searches.find("a", source.search("a")) == "found a"
        return source.made

    assert run(ask()) == ["a"]


def test_too_many_searches_are_told_to_wait():
    """One search more than may be under way is Busy; asking for one that is under way is not."""

    async def ask():
        source, searches = Source(), Searches(running=2)
        asked = [asyncio.ensure_future(searches.find(key, source.search(key))) for key in "ab"]
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="2 searches"):
            await searches.find("c", source.search("c"))
        asked.append(asyncio.ensure_future(searches.find("a", source.search("a"))))
        await asyncio.sleep(0)
        source.may_end.set()
        assert await asyncio.gather(*asked) == ["found a", "found b", "found a"]
        assert await searches.find("c", source.search("c")) == "found c"
        return source.made

    assert run(ask()) == ["a", "b", "c"]


def test_only_the_latest_results_are_kept():
    """Of more results than are kept the one that was asked for longest ago is searched again."""

    async def ask():
        source, searches = Source(), Searches(kept=2)
        source.may_end.set()
        for key in ("a", "b", "a", "c", "a", "b"):
            await searches.find(key, source.search(key))
        return source.made

    assert run(ask()) == ["a", "b", "c", "b"]


def test_closing_ends_what_is_under_way():
    """A search under way is cancelled when the service stops."""

    async def ask():
        source, searches = Source(), Searches()
        asked = asyncio.ensure_future(searches.find("a", source.search("a")))
        await asyncio.sleep(0.01)
        await searches.close()
        with pytest.raises(asyncio.CancelledError):
            await asked

    run(ask())

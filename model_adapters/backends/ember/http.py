"""HTTP to an Ember service: pooled connections, bounded concurrency, retries, deadlines. httpx only.

All calls of the protocol are stateless, so a call that may or may not have been answered is asked again.
"""

import asyncio
import itertools
import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import httpx

from model_adapters.backends.ember.call import ROOT, Call, EmberError, Reply, refusal, shortened
from model_adapters.backends.ember.key import Key
from model_adapters.backends.ember.patience import Deadline, Patience
from model_adapters.backends.ember.response import Answered, read_response
from model_adapters.errors import SteerError

log = logging.getLogger(__name__)

Keep = Callable[[Call, Answered], None]
"""Told of everything that comes back; a cassette's recorder."""


class _Passing(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, why: str, wait: float | None = None, status: int | None = None) -> None:
        super().__init__(why)
        self.wait, self.status = wait, status


@dataclass(frozen=True)
class _Lane:
    """Connections of one event loop."""

    client: httpx.AsyncClient
    slots: asyncio.Semaphore


class EmberHttp:
    """Asks a service at `url`. Works from any event loop; connections belong to the loop that opened them.

    `transport` stands in for the network, for instance a service in this process.
    """

    def __init__(
        self,
        url: str,
        key: Key,
        *,
        patience: Patience | None = None,
        concurrency: int = 16,
        transport: httpx.AsyncBaseTransport | None = None,
        keep: Keep | None = None,
    ) -> None:
        self._url, self._key, self._patience = url, key, patience or Patience()
        self._concurrency, self._transport, self._keep = concurrency, transport, keep
        self._lanes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lane] = WeakKeyDictionary()
        self._run_ends: float | None = None
        self._luck = random.Random()

    @property
    def url(self) -> str:
        """The service's address."""
        return self._url

    async def ask(self, call: Call) -> Reply:
        """The answer to one call; raises EmberError when there is none within the deadlines and attempts."""
        if self._key.removed(json.dumps(dict(call.payload))) != json.dumps(dict(call.payload)):
            raise EmberError(f"{self._where(call)}: the request holds the key of the service; take it out")
        if self._run_ends is None:
            self._run_ends = time.monotonic() + self._patience.run_seconds
        lane = self._lane()
        async with lane.slots:
            deadline = self._deadline(self._run_ends)
            for attempt in itertools.count(1):
                try:
                    return await self._attempt(lane.client, call, deadline)
                except _Passing as failure:
                    await self._wait(call, failure, attempt, deadline)
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        lane = self._lanes.pop(asyncio.get_running_loop(), None)
        if lane is not None:
            await lane.client.aclose()

    def _lane(self) -> _Lane:
        loop = asyncio.get_running_loop()
        lane = self._lanes.get(loop)
        if lane is None:
            limits = httpx.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
            timeout = httpx.Timeout(None, connect=self._patience.connect_seconds)
            client = httpx.AsyncClient(limits=limits, timeout=timeout, transport=self._transport)
            lane = self._lanes[loop] = _Lane(client, asyncio.Semaphore(self._concurrency))
        return lane

    def _deadline(self, run_ends: float) -> Deadline:
        ends = time.monotonic() + self._patience.request_seconds
        if run_ends < ends:
            return Deadline(run_ends, "run_seconds", self._patience.run_seconds)
        return Deadline(ends, "request_seconds", self._patience.request_seconds)

    async def _attempt(self, client: httpx.AsyncClient, call: Call, deadline: Deadline) -> Reply:
        limit = min(self._patience.attempt_seconds or call.seconds, deadline.left)
        if limit <= 0:
            raise self._out_of_time(call, deadline, "they are over")
        try:
            async with asyncio.timeout(limit):
                answered = await self._exchange(client, call)
        except (TimeoutError, httpx.TimeoutException):
            raise _Passing(f"no answer within {limit:.3g} s") from None
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as problem:
            raise EmberError(f"{self._where(call)}: {self._said(problem)}; correct the base URL") from None
        except (httpx.TransportError, httpx.DecodingError) as problem:
            raise _Passing(f"the connection broke ({self._said(problem)})") from None
        except SteerError:
            raise
        except Exception as problem:  # a service in this process that fails, fails in here
            said = f"{type(problem).__name__}: {self._said(problem)}"
            raise EmberError(f"{self._where(call)}: {said}; the service failed in this process, see above") from problem
        if self._keep is not None:
            self._keep(call, answered)
        return self._reply(call, answered)

    def _reply(self, call: Call, answered: Answered) -> Reply:
        if answered.passing is not None:
            raise _Passing(answered.passing, answered.retry_after, answered.status)
        if answered.wrong is not None:
            raise EmberError(f"{self._where(call)}: {answered.wrong}", answered.status)
        error = refusal(call, self._url, answered.status, answered.body, answered.location, bool(self._key))
        if error is not None:
            raise error
        return Reply(answered.body, call.payload)

    async def _wait(self, call: Call, failure: _Passing, attempt: int, deadline: Deadline) -> None:
        wait = self._patience.wait_after(attempt, failure.wait, self._luck.random())
        tries = f"{attempt} attempt{'s' if attempt > 1 else ''}, the last one: {failure}"
        if attempt >= min(self._patience.attempts, call.attempts or self._patience.attempts):
            remedy = f"{'lower the concurrency' if failure.status == 429 else 'check the service'}, or try later"
            raise EmberError(f"{self._where(call)}: no answer after {tries}; {remedy}", failure.status)
        if wait > deadline.left:
            raise self._out_of_time(call, deadline, f"{tries}, the next one {wait:.3g} s away", failure.status)
        level = logging.WARNING if attempt >= 3 else logging.INFO
        log.log(level, "%s: %s; asking again in %.3g s", self._where(call), failure, wait)
        await asyncio.sleep(wait)

    def _out_of_time(self, call: Call, deadline: Deadline, why: str, status: int | None = None) -> EmberError:
        given = f"{deadline.parameter}={deadline.seconds:g}"
        return EmberError(f"{self._where(call)}: no answer within {given} ({why}); raise it, or try later", status)

    async def _exchange(self, client: httpx.AsyncClient, call: Call) -> Answered:
        accept = "text/event-stream" if call.stream else "application/json"
        headers = {"Accept": accept, **self._key.headers()}
        address = f"{self._url}{ROOT}{call.path}"
        if call.method == "GET":
            request = client.build_request("GET", address, params=dict(call.payload), headers=headers)
        else:
            headers["Content-Type"] = "application/json"
            content = json.dumps(dict(call.payload)).encode()
            request = client.build_request("POST", address, content=content, headers=headers)
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            return await read_response(response, self._url, self._key)
        finally:
            await response.aclose()

    def _where(self, call: Call) -> str:
        return f"{call.method} {self._url}{ROOT}{call.path}"

    def _said(self, problem: Exception) -> str:
        return shortened(self._key.removed(str(problem) or type(problem).__name__), 120)

"""Cassettes: every exchange with a service in a file of JSON lines, and answers from such a file.

Standard library only; nothing here connects to anything.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_adapters.backends.ember.call import Call, EmberError, Reply, canonical, refusal, request_key, shortened
from model_adapters.errors import SteerError

FORMAT = "steer-tasks cassette 1"
NAMED = 5
"""Differences that the error of a missing request names."""


@dataclass(frozen=True)
class Exchange:
    """One call and what came back. `final` is False where the client asked again."""

    url: str
    call: Call
    status: int
    body: Any
    location: str | None = None
    wrong: str | None = None
    final: bool = True

    def line(self) -> str:
        """One line of a cassette. A key is in none of it: requests don't carry one in their payload."""
        entry = {
            "format": FORMAT,
            "url": self.url,
            "method": self.call.method,
            "path": self.call.path,
            "fresh": self.call.fresh,
            "request": dict(self.call.payload),
            "status": self.status,
            "answer": self.body,
            "location": self.location,
            "wrong": self.wrong,
            "final": self.final,
        }
        return json.dumps(entry, ensure_ascii=True) + "\n"

    @classmethod
    def of_line(cls, line: str) -> "Exchange":
        """The exchange of one line. Raises ValueError for any other text."""
        entry = json.loads(line)
        if not isinstance(entry, dict) or entry.get("format") != FORMAT:
            raise ValueError(f"it is not of the format {FORMAT!r}")
        try:
            if not isinstance(entry["request"], dict) or entry["method"] not in ("GET", "POST"):
                raise ValueError("its request can't be read")
            call = Call(entry["method"], entry["path"], entry["request"], 0.0, fresh=bool(entry["fresh"]))
            about = (entry["location"], entry["wrong"], bool(entry["final"]))
            return cls(entry["url"], call, int(entry["status"]), entry["answer"], *about)
        except (KeyError, TypeError) as problem:
            raise ValueError(f"it lacks {problem}") from problem


class Recorder:
    """Appends exchanges to a file, each in one write, so that a killed run keeps all that came back before."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(self.path)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as problem:
            raise SteerError(f"{path} can't be recorded to ({problem.strerror}); give another path") from problem

    def keep(self, exchange: Exchange) -> None:
        """Write one exchange. Raises SteerError where the file can't take it."""
        data = exchange.line().encode()
        try:
            with self._lock:
                while data:
                    data = data[os.write(self._file, data) :]
        except OSError as problem:
            raise SteerError(f"{self.path} can't be recorded to ({problem.strerror}); free some space") from problem

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


def _drop_torn_line(path: Path) -> None:
    """Cut off what a killed write left at the end; another exchange would be lost behind it."""
    if path.exists() and path.stat().st_size:
        with path.open("r+b") as file:
            held = file.read()
            begins = f'{{"format": "{FORMAT}"'.encode()
            if held[: len(begins)] != begins[: len(held)]:
                raise SteerError(f"{path} is not a cassette; give another path to record to")
            file.truncate(held.rfind(b"\n") + 1)


@dataclass
class _Recorded:
    """The exchanges of one question, in order, and how many were given."""

    exchanges: list[Exchange] = field(default_factory=list)
    given: int = 0


class Cassette:
    """Answers calls from a file, connecting to nothing. Equal calls get their answers in the order recorded.

    The last answer is given again to a call that is repeated more often than recorded, unless it asks for a fresh one.
    Raises SteerError for a file that isn't a cassette; a line torn by a killed run at the end is passed over.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._recorded: dict[str, _Recorded] = {}
        self._lock = threading.Lock()
        urls = []
        for exchange in _exchanges(self.path):
            urls.append(exchange.url)
            if exchange.final:
                self._recorded.setdefault(request_key(exchange.call), _Recorded()).exchanges.append(exchange)
        if len(set(urls)) != 1:
            found = f"exchanges with {len(set(urls))} services" if urls else "no exchange"
            raise SteerError(f"{path} holds {found}; record one run with one service")
        self._url = urls[0]

    @property
    def url(self) -> str:
        """The address of the service that was recorded."""
        return self._url

    async def ask(self, call: Call) -> Reply:
        """The recorded answer, or the recorded refusal as EmberError; EmberError where the call is not recorded."""
        with self._lock:
            recorded = self._recorded.get(request_key(call))
            if recorded is None:
                raise EmberError(self._miss(call))
            place, count = recorded.given, len(recorded.exchanges)
            if call.fresh and place >= count:
                raise EmberError(
                    f"{self.path}: {call.path} was recorded {count} times with this request and is asked once more "
                    "for a fresh answer; record more, or give a seed"
                )
            recorded.given += 1
            exchange = recorded.exchanges[min(place, count - 1)]
        if exchange.wrong is not None:
            raise EmberError(f"{call.method} {self._url}{call.path}: {exchange.wrong}", exchange.status)
        error = refusal(call, self._url, exchange.status, exchange.body, exchange.location, has_key=True)
        if error is not None:
            raise error
        return Reply(exchange.body, exchange.call.payload)

    async def aclose(self) -> None:
        """Nothing is held."""

    def _miss(self, call: Call) -> str:
        firsts = [recorded.exchanges[0] for recorded in self._recorded.values()]
        alike = [one for one in firsts if (one.call.method, one.call.path) == (call.method, call.path)]
        if not alike:
            paths = ", ".join(sorted({f"{one.call.method} {one.call.path}" for one in firsts})) or "nothing"
            return f"{self.path} holds no {call.method} {call.path}, only {paths}; record it"
        asked = dict(_leaves(canonical(call)["payload"]))
        differing = [_differing(asked, dict(_leaves(canonical(one.call)["payload"]))) for one in alike]
        nearest = min(differing, key=len)
        more = f" and {len(nearest) - NAMED} more" if len(nearest) > NAMED else ""
        return (
            f"{self.path} doesn't hold this {call.path} request; the nearest recorded one differs in "
            f"{'; '.join(nearest[:NAMED])}{more}; ask what was recorded, or record again"
        )


def _exchanges(path: Path) -> Iterator[Exchange]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as problem:
        raise SteerError(f"{path} can't be replayed ({problem.strerror}); record it first") from problem
    except UnicodeDecodeError as problem:
        raise SteerError(f"{path} is not a cassette; give a file that was recorded") from problem
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            yield Exchange.of_line(line)
        except (ValueError, RecursionError) as problem:
            if number == len(lines):  # no line break behind it: the write was cut
                return
            raise SteerError(f"{path}, line {number}, is not an exchange ({problem}); record it again") from problem


def _leaves(held: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(held, Mapping) and held:
        for key in held:
            yield from _leaves(held[key], f"{path}.{key}" if path else str(key))
    elif isinstance(held, list) and held:
        for number, one in enumerate(held):
            yield from _leaves(one, f"{path}[{number}]")
    else:
        yield path, held


_ABSENT = object()


def _differing(asked: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    """One text for each field in which two requests differ."""
    found = []
    for path in dict.fromkeys([*asked, *recorded]):
        mine, theirs = asked.get(path, _ABSENT), recorded.get(path, _ABSENT)
        if mine is theirs or (type(mine) is type(theirs) and mine == theirs) or _same_number(mine, theirs):
            continue
        mine_shown, theirs_shown = _shown(mine, theirs)
        found.append(f"{path} ({mine_shown} asked, {theirs_shown} recorded)")
    return found


def _same_number(one: Any, other: Any) -> bool:
    return isinstance(one, (int, float)) and isinstance(other, (int, float)) and json.dumps(one) == json.dumps(other)


def _shown(mine: Any, theirs: Any) -> tuple[str, str]:
    start = 0
    if isinstance(mine, str) and isinstance(theirs, str):
        pairs = enumerate(zip(mine, theirs, strict=False))
        common = next((place for place, (one, other) in pairs if one != other), min(len(mine), len(theirs)))
        start = common - 10 if common > 20 else 0
    return _one_shown(mine, start), _one_shown(theirs, start)


def _one_shown(held: Any, start: int) -> str:
    if held is _ABSENT:
        return "nothing"
    if isinstance(held, str) and start:
        return f"'…{shortened(held[start:], 40)}'"
    return shortened(json.dumps(held, ensure_ascii=False), 40)

"""How long one waits for a service, and how often one asks again. Standard library only."""

import math
import time
from dataclasses import dataclass, fields

from model_adapters.errors import Refused


@dataclass(frozen=True)
class Patience:
    """How long one waits for a service. All in seconds but `attempts`.

    `request_seconds` bounds one call with its retries and waits, not its wait for a free connection; `run_seconds`
    everything from the first call on. `attempt_seconds` replaces the protocol's own limits for one attempt (320 for
    chat). The wait after attempt n is drawn from the upper half of `first_wait * 2**(n - 1)`, at most `longest_wait`;
    what the service asks for with Retry-After is waited at least.
    """

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    request_seconds: float = 900.0
    attempt_seconds: float | None = None
    run_seconds: float = math.inf
    connect_seconds: float = 10.0

    def __post_init__(self) -> None:
        for one in fields(self):
            held = getattr(self, one.name)
            if held is not None and not held > 0:
                raise Refused(f"{one.name} is {held}; it is a number above 0")

    def wait_after(self, attempt: int, asked: float | None, luck: float) -> float:
        """Seconds to wait after the attempt of that number, from 1; `luck` in [0, 1] spreads the clients."""
        drawn = min(self.longest_wait, self.first_wait * 2.0 ** min(attempt - 1, 60)) * (0.5 + 0.5 * luck)
        # After what was asked for, a little more each: else all who were sent away come back at once.
        return drawn if asked is None else asked + min(drawn, 1.0, self.longest_wait)


@dataclass(frozen=True)
class Deadline:
    """When a call must be answered, on the monotonic clock, and the parameter that says so."""

    ends: float
    parameter: str
    seconds: float

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

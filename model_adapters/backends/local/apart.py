"""Work in a thread that ends with it. Standard library only."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def apart(work: Callable[[], Result]) -> Result:
    """Do `work` in a thread of its own and wait for it; raises what it raises.

    A model is loaded so: whichever thread runs torch keeps a team of worker threads until it ends, and with two teams
    on two cores GNU's OpenMP puts workers to sleep between operations. A step of one row then takes a third longer.
    """
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as problem:
            outcome.set_exception(problem)

    thread = threading.Thread(target=run, name="steer-load", daemon=True)
    thread.start()
    thread.join()
    return outcome.result()

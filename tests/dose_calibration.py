"""Calibrations of the fake model of `dose_backend`, as tests ask for them."""

import asyncio

from model_adapters.backends.stored import stored
from model_adapters.behavior import find_behavior
from steer_tasks.calibrate.calibration import Calibration
from steer_tasks.calibrate.cost import Counted
from steer_tasks.calibrate.judging import Judging
from steer_tasks.calibrate.outcomes import OBJECTIVES
from steer_tasks.calibrate.plan import make_plan
from steer_tasks.calibrate.sized import Method

FUNNY = find_behavior("funny")
CAA = Method("caa", {})


def planned(budgets, objective="llr", method=CAA, behavior=FUNNY, **options):
    """A plan for these budgets."""
    return make_plan(method, behavior, OBJECTIVES[objective], budgets, **options)


def calibrated(backend, plan, ask=None, store=None):
    """The calibration after its end, its trace, and the steering or None."""
    judging = Judging("judge", ask, plan.behavior) if ask else None
    with asyncio.Runner() as runner:
        done = Calibration(plan, Counted(stored(backend, store), backend, store), runner.run, judging)
        return done, *done.calibrated()


def squared(edge, at):
    """A loss that is `at` at the dose `edge` and grows with its square."""
    return lambda dose: at * (dose / edge) ** 2

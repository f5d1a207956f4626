"""What Inspect imports to find our tasks, model providers, solvers and scorers (entry-point group `inspect_ai`).

May import the modules of this package that hold decorated functions; they must be light: no torch, no lm-eval.
"""

from steer_tasks import behavior, calibration, coherence, judge_calibration, mmlu_171, providers, scorers, solvers

__all__ = ["behavior", "calibration", "coherence", "judge_calibration", "mmlu_171", "providers", "scorers", "solvers"]

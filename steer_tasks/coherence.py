"""The Inspect task `coherence`: as `behavior`, without the judge's second score.

`inspect eval steer_tasks/coherence.py`, or `inspect eval steer_tasks/coherence` without the checkout.
"""

from inspect_ai import Task, task

from steer_tasks.arm_parameters import ArmRequest, takes_arm
from steer_tasks.joint import JointOptions, joint_task


@task
@takes_arm
def coherence(
    arm: ArmRequest,
    behavior: str | list[str] | None = "all",
    method: str = "caa",
    questions: str = "mmlu_171",
    questions_per_behavior: int = 12,
    protocol: str = "isolated",
    judge: str | None = None,
    rubrics: str | None = None,
    reference_model: str | None = None,
) -> Task:
    """Accuracy, coherence and the judge-free signals of one arm; arguments as for `behavior`."""
    options = JointOptions(questions, questions_per_behavior, protocol, judge, rubrics, reference_model)
    return joint_task("coherence", arm, options, ("coherence",))

"""The Inspect task `behavior`: what a steering bought and what it cost, from one generation for each question.

`inspect eval steer_tasks/behavior.py`, or `inspect eval steer_tasks/behavior` without the checkout.
"""

from inspect_ai import Task, task

from steer_tasks.arm_parameters import ArmRequest, takes_arm
from steer_tasks.joint import JointOptions, joint_task


@task
@takes_arm
def behavior(
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
    """Accuracy, behavior, coherence and the judge-free signals of one arm; as typed, of contrast vectors at dose 0.3.

    `questions` are `mmlu_171`, `mmlu_114` or `open_ended` (no accuracy there), `questions_per_behavior` of them drawn
    by a fixed seed, 0 for all. Sample ids are `behavior/question`, equal in every arm. The judge is the model bound to
    the role `grader`, else `judge`; without one, behavior and coherence are not scored. `rubrics` is a folder,
    `reference_model` the local model of the likelihood signal, `protocol` a name or a YAML file.
    """
    options = JointOptions(questions, questions_per_behavior, protocol, judge, rubrics, reference_model)
    return joint_task("behavior", arm, options, ("behavior", "coherence"))

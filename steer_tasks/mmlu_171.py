"""The Inspect task `mmlu_171`: accuracy on the 171 questions under a steering; as typed, of the control.

`inspect eval steer_tasks/mmlu_171.py`, or `inspect eval steer_tasks/mmlu_171` without the checkout.
"""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset

from steer_tasks.arm_parameters import ArmRequest, takes_arm
from steer_tasks.experiment import (
    asked_of,
    check_on,
    config_of,
    default_model,
    provenance,
    samples,
    solver_of,
    under_test,
    version_of,
)
from steer_tasks.protocols import load_protocol
from steer_tasks.scorers import accuracy, answered


@task
@takes_arm
def mmlu_171(arm: ArmRequest, protocol: str = "isolated", questions: str | None = None) -> Task:
    """The 171 questions in the chain-of-thought form, scored by accuracy and by whether they were answered.

    Sample ids are `behavior/question`, equal in every arm run with the same behaviors, and `question` where no
    behavior enters. `questions` is a file or folder. Everything that needs no weights is checked here.
    """
    wording = load_protocol(protocol)
    built, model = arm.arm(wording), under_test()
    check_on(built, model)
    asked = asked_of("mmlu_171", built.labels, 0, questions)
    return Task(
        dataset=MemoryDataset(samples(asked, wording, built, arm.wording), name="mmlu_171"),
        solver=solver_of(arm, wording),
        scorer=[accuracy(), answered()],
        config=config_of(wording.sampling),
        model=default_model(model),
        version=version_of(2, asked, wording),
        metadata=provenance(asked.described, wording, built),
    )

"""The Inspect task `judge_calibration`: is a judge any good? The model of the eval is the judge.

`inspect eval steer_tasks/judge_calibration.py --model PROVIDER/MODEL`: texts damaged by known amounts, and behaviors
present to known degrees, which the judge must order.
"""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig

from judges.calibration import CalibrationItem, calibration_items
from model_adapters.behavior import find_behaviors
from model_adapters.errors import SteerError
from steer_tasks.calibration import calibration, parsed, verdict
from steer_tasks.study import rubrics_of


@task
def judge_calibration(texts: int = 8, behavior: str | list[str] | None = "all", rubrics: str | None = None) -> Task:
    """Ordinal agreement with known damage and degrees, false alarms, repeatability, length bias, injections, parsing.

    `texts` is how many of the eight undamaged texts are used, `behavior` which behaviors' degrees, `rubrics` a folder.
    """
    if isinstance(texts, bool) or not 1 <= texts <= 8:
        raise SteerError(f"texts={texts!r}; give 1 to 8")
    slugs = [one.slug for one in find_behaviors(behavior)] if behavior else []
    items = calibration_items(texts, slugs)
    found = rubrics_of(rubrics)
    for one in find_behaviors(behavior) if behavior else ():
        found.behavior.check(one)
    return Task(
        dataset=MemoryDataset([_sample(item) for item in items], name="judge_calibration"),
        solver=verdict(rubrics),
        scorer=[calibration(), parsed()],
        config=GenerateConfig(temperature=0.0),
        version="1-A",
        metadata={"rubrics": found.provenance()},
    )


def _sample(item: CalibrationItem) -> Sample:
    return Sample(
        id=item.id,
        input=item.prompt,
        metadata={
            "test": item.test,
            "group": item.group,
            "level": item.level,
            "quality": item.quality,
            "behavior": item.behavior,
            "repeat": item.repeat,
            "answer": item.answer,
        },
    )

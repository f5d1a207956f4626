"""The task class of `mmlu_171_tradeoff`: questions with the behavior that a judge is asked about. Imports lm-eval."""

from collections.abc import Mapping
from typing import Any

import datasets

from steer_tasks.lm_eval_judge import behavior_in, judge_name
from steer_tasks.lm_eval_support import QuestionTask
from steer_tasks.study import rubrics_of


class TradeoffTask(QuestionTask):
    """Questions whose documents name the behavior, from the model's arguments or `--metadata`.

    A judge that can't be opened, or is the model under test, is refused here, before anything is generated.
    """

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Load the questions, name the behavior in each, and record who judges by which rubrics."""
        given = dict(self.config.metadata or {})
        judge, behavior = judge_name(given), behavior_in(given)
        super().download(dataset_kwargs)
        documents = [{**row, "behavior": behavior} for row in self.dataset["test"]]
        self.dataset = {"test": datasets.Dataset.from_list(documents)}
        judged = {"judge": judge, "behavior": behavior, "rubrics": rubrics_of(None).provenance()}
        self.config.metadata = {**(self.config.metadata or {}), "judged": judged}

"""What the lm-eval model tests share: somebody else's task, short ways to run it and read it, models and steerings."""

import json
from pathlib import Path

import datasets
import lm_eval.models
import numpy as np
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from model_adapters.backend import Message
from model_adapters.harnesses.documents import FIELD, to_field
from model_adapters.steering import AddVector, Steering, SystemPrompt
from model_adapters.steering_file import save_steering
from steer_tasks import _lm_eval_patch
from tests.tiny_model import tiny_model

OURS = Path(__file__).parent.parent / "steer_tasks" / "lm_eval_tasks"
ROWS = [
    {"q": "The sky is", "a": "blue today", "c": ["blue today", "green", "a very old shoe"], "n": 0},
    {"q": "Two and two", "a": "make four", "c": ["four", "seven", "eleven"], "n": 0},
    {"q": "A long question about nothing at all, which goes on", "a": "no", "c": ["no", "yes", "perhaps"], "n": 2},
]
MESSAGES = (Message("system", "Be exact."), Message("user", "Count to three."))


def rows(**_):
    return {"test": datasets.Dataset.from_list(ROWS)}


def foreign(kind, **more):
    """Somebody else's task of one kind of request, as lm-eval takes it from Python."""
    common = {"custom_dataset": rows, "test_split": "test", "doc_to_text": "{{q}}"}
    kinds = {
        "choice": {"output_type": "multiple_choice", "doc_to_choice": "c", "doc_to_target": "n"},
        "rolling": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{q}} {{a}}"},
        "text": {
            "output_type": "generate_until",
            "doc_to_target": "a",
            "generation_kwargs": {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 12},
        },
    }
    metrics = {"choice": "acc", "rolling": "bits_per_byte", "text": "exact_match"}
    metric = [{"metric": metrics[kind]}]
    return {"task": f"foreign_{kind}", **common, **kinds[kind], "metric_list": metric, **more}


@pytest.fixture(scope="session")
def registered():
    """The start-up hook's registration, in this process."""
    _lm_eval_patch.lm_eval_models(lm_eval.models)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """The same without a chat template."""
    return str(tiny_model(tmp_path_factory.mktemp("bare") / "model", template=None))


@pytest.fixture(scope="session")
def vector(tmp_path_factory):
    """A steering file that adds a vector at layer 1."""
    direction = np.random.default_rng(0).standard_normal(32).astype("f4")
    return str(save_steering(Steering((AddVector(1, direction, 1.0),)), tmp_path_factory.mktemp("s") / "vector.json"))


@pytest.fixture(scope="session")
def sentence(tmp_path_factory):
    """A steering file that holds a system prompt."""
    return str(save_steering(Steering((SystemPrompt("Be funny."),)), tmp_path_factory.mktemp("s") / "sentence.json"))


def local(name, **arguments):
    return {"pretrained": name, "device": "cpu", "dtype": "float32", **arguments}


def evaluated(model, tasks, arguments=None, **more):
    """lm-eval's results with bootstrapping left out and only our task folder indexed."""
    manager = TaskManager(include_path=str(OURS), include_defaults=False)
    return simple_evaluate(
        model=model, model_args=arguments, tasks=tasks, task_manager=manager, bootstrap_iters=0, **more
    )


def answers(found, task):
    return [sample["resps"] for sample in found["samples"][task]]


def close(ours, theirs, tokens=64):
    """The equality rule for log-probabilities: 1e-4 per token."""
    return ours == pytest.approx(theirs, abs=1e-4 * tokens)


def request(kind, *arguments, doc=None, index=0, repeats=1):
    return Instance(kind, doc or {}, tuple(arguments), 0, metadata=("task", index, repeats))


def message_request(prompt, doc=None, **generation):
    document = {FIELD: to_field(MESSAGES)} if doc is None else doc
    return request("generate_until", prompt, {"until": [], "max_gen_toks": 3, **generation}, doc=document)


def lines(path):
    """The lines of a proof file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]

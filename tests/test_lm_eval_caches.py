"""Response caches, failures, event loops and threads of `hook_steered`."""

import asyncio
import json
import threading

import pytest
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM

from model_adapters.errors import Refused, SteerError
from model_adapters.harnesses.documents import plain_form
from model_adapters.harnesses.lm_eval import HookSteered, PromptSteered
from tests import lm_eval_cases
from tests.lm_eval_cases import MESSAGES, ROWS, evaluated, foreign, local, message_request, request

tiny = lm_eval_cases.tiny
vector = lm_eval_cases.vector


def test_a_cache_belongs_to_one_run(tiny, vector, tmp_path):
    """A response cache filled under one steering, dtype or template is refused under another, both runs named."""
    path = str(tmp_path / "cache.db")
    first = HookSteered(**local(tiny), method="control")
    CachingLM(first, path)
    run = first.get_model_info()["steer"]["run"]
    others = [
        HookSteered(**local(tiny), steering=vector),
        HookSteered(**{**local(tiny), "dtype": "bfloat16"}, method="control"),
        HookSteered(**local(tiny), method="control", chat_template="never"),
        HookSteered(**local(tiny), method="control", max_length=512),
        PromptSteered(base="hf", **local(tiny), behavior="funny"),
    ]
    for other in others:
        with pytest.raises(SteerError, match="use another path") as caught:
            CachingLM(other, path)
        assert run in str(caught.value)
        assert other.get_model_info()["steer"]["run"] in str(caught.value)
    CachingLM(HookSteered(**local(tiny), method="control"), path)


def test_somebody_elses_cache_is_refused(tiny, tmp_path):
    """A cache that another model of lm-eval filled holds answers of an unknown run, and is refused."""
    path = str(tmp_path / "cache.db")
    CachingLM(HFLM(**local(tiny)), path).loglikelihood([request("loglikelihood", "a", "b")])
    with pytest.raises(SteerError, match="a run that left no mark"):
        CachingLM(HookSteered(**local(tiny), method="control"), path)


def test_one_failing_request_fails_the_run_after_the_others_are_stored(tiny, tmp_path):
    """The error names the request; the next run answers from the cache and runs only what is missing."""
    good = [request("loglikelihood", row["q"], " " + row["a"], index=i) for i, row in enumerate(ROWS)]
    bad = request("loglikelihood", "The sky is", "", index=7)
    path = str(tmp_path / "cache.db")
    model = HookSteered(**local(tiny), method="control")
    with pytest.raises(SteerError, match=r"^1 of 4 requests failed, .* document 7: .*continuation is empty"):
        CachingLM(model, path).loglikelihood([*good[:1], bad, *good[1:]])
    proof = tmp_path / "again.jsonl"
    again = HookSteered(**local(tiny), method="control", proof=str(proof))
    found = CachingLM(again, path).loglikelihood(good)
    assert not proof.exists()
    assert [tuple(one) for one in found] == model.loglikelihood(good, disable_tqdm=True)


def test_samples_that_would_share_a_cached_answer_are_refused(tiny, tmp_path):
    """Repeated samples need do_sample=true where there is a cache, because lm-eval would store one for all."""
    model = HookSteered(**local(tiny), method="control")
    asked = [request("generate_until", "a", {"temperature": 1.0, "max_gen_toks": 2}, repeats=2)]
    assert len(model.generate_until(asked, disable_tqdm=True)) == 1
    cached = CachingLM(model, str(tmp_path / "cache.db"))
    with pytest.raises(Refused, match="add do_sample=true"):
        cached.generate_until(asked)


def test_a_proof_line_that_a_kill_cut_short_leaves_the_next_ones_whole(tiny, tmp_path):
    """New lines start on their own after a half-written one."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"run": "half')
    model = HookSteered(**local(tiny), method="control", proof=str(path))
    model.generate_until([message_request(plain_form(MESSAGES))], disable_tqdm=True)
    half, whole = path.read_text().splitlines()
    assert half == '{"run": "half'
    assert json.loads(whole)["stop_reason"] in ("max_tokens", "stop")


def test_it_runs_inside_a_running_event_loop(tiny):
    """In a notebook, where a loop is running already, the model opens and answers."""

    async def cell():
        model = HookSteered(**local(tiny), method="control")
        return evaluated(model, [foreign("choice")], limit=1)

    assert asyncio.run(cell())["results"]["foreign_choice"]["acc,none"] in (0.0, 1.0)


def test_closing_leaves_the_model_without_hooks_and_no_thread(tiny):
    """After close the transformers model is as it was, and the threads of the run are gone."""
    before = {thread.ident for thread in threading.enumerate()}
    model = HookSteered(**local(tiny), method="control")
    model.generate_until([message_request(plain_form(MESSAGES))], disable_tqdm=True)
    inner = model.backend.model
    assert any(module._forward_hooks for module in inner.modules())
    model.close()
    assert not any(module._forward_hooks for module in inner.modules())
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("steer-")]
    assert not [thread for thread in ours if thread.ident not in before]

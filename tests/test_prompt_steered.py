"""`prompt_steered` in lm-eval: before `hf`, and before a chat service on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM

from model_adapters.errors import Refused, SteerError
from model_adapters.harnesses.documents import plain_form
from model_adapters.harnesses.lm_eval import PromptSteered
from tests import lm_eval_cases
from tests.lm_eval_cases import MESSAGES, answers, close, evaluated, foreign, lines, local, message_request

pytestmark = pytest.mark.usefixtures("registered")


registered = lm_eval_cases.registered
tiny = lm_eval_cases.tiny
vector = lm_eval_cases.vector
sentence = lm_eval_cases.sentence


def test_prompt_steering_of_hf_sends_what_the_local_engine_sends(mmlu, tiny, sentence):
    """base=hf and hook_steered render one prompt steering into the same text, and score it alike."""
    ours = evaluated("prompt_steered", ["mmlu_171_mc"], {"base": "hf", **local(tiny, steering=sentence)}, limit=2)
    theirs = evaluated("hook_steered", ["mmlu_171_mc"], local(tiny, steering=sentence), limit=2)
    for sample, other in zip(answers(ours, "mmlu_171_mc"), answers(theirs, "mmlu_171_mc"), strict=True):
        assert close([one[0][0] for one in sample], [one[0][0] for one in other])
    mine, other = (lines(found["config"]["steer"]["proof"])[-1] for found in (ours, theirs))
    assert mine["messages_sent"] == other["messages_sent"]
    assert (mine["proof"]["level"], other["proof"]["level"]) == ("sent", "measured")


def test_prompt_steering_refuses_what_a_prompt_cant_do(tiny, vector, sentence):
    """A vector, a steered base, an unknown base and foreign tasks without the flag are refused with the remedy."""
    for arguments, said in [
        ({"base": "hf", "steering": vector}, "hook_steered"),
        ({"base": "hf", "method": "caa", "behavior": "funny", "dose": 0.3}, "local model"),
        ({"base": "hook_steered", "behavior": "funny"}, "steered already"),
        ({"base": "no-such-model", "behavior": "funny"}, "none of lm-eval's models"),
        ({"behavior": "funny"}, "needs base="),
        ({"base": "hf", "behavior": "funny", "auth_token": "x"}, "looks like a key"),
        ({"base": "hf"}, "needs behavior="),
    ]:
        with pytest.raises(SteerError, match=said):
            PromptSteered(**local(tiny), **arguments)
    model = PromptSteered(base="hf", **local(tiny), steering=sentence)
    with pytest.raises(Refused, match="add --apply_chat_template"):
        evaluated(model, [foreign("text")])
    with pytest.raises(Refused, match="scored whole"):
        evaluated(model, [foreign("rolling")])
    assert (
        "Be funny."
        in evaluated(model, [foreign("text")], apply_chat_template=True)["samples"]["foreign_text"][0]["arguments"][0][
            0
        ]
    )


def test_prompt_steered_control_is_the_base_model(tiny):
    """With method=control foreign tasks give exactly what the base model gives, rolling included."""
    tasks = [foreign("choice"), foreign("rolling"), foreign("text")]
    theirs = evaluated(HFLM(**local(tiny)), tasks)
    ours = evaluated(PromptSteered(base="hf", **local(tiny), method="control"), tasks)
    for task in ("foreign_choice", "foreign_rolling", "foreign_text"):
        assert answers(ours, task) == answers(theirs, task)


def test_prompt_steered_answers_are_stored_under_lm_evals_own_requests(tiny, sentence, tmp_path):
    """What the base model finished is found again, though it was asked with another prompt than lm-eval's."""
    path = str(tmp_path / "cache.db")
    asked = [message_request(plain_form(MESSAGES))]
    first = PromptSteered(base="hf", **local(tiny), steering=sentence, proof=str(tmp_path / "1.jsonl"))
    cached = CachingLM(first, path)
    first.generate_until(asked)
    again = PromptSteered(base="hf", **local(tiny), steering=sentence, proof=str(tmp_path / "2.jsonl"))
    assert CachingLM(again, path).generate_until(asked) == cached.generate_until(asked)
    assert len(lines(tmp_path / "1.jsonl")) == 1
    assert not (tmp_path / "2.jsonl").exists()


@pytest.fixture
def service():
    """A chat service on this machine that answers with a number; yields its address and what it was sent."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = {"choices": [{"index": 0, "message": {"content": f"<answer>{'ABCD'[len(seen) % 4]}</answer>"}}]}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/chat/completions", seen
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("concurrent", [1, 2])
def test_a_chat_service_is_steered_by_its_messages(mmlu, service, concurrent, tmp_path):
    """base=local-chat-completions gets the protocol's messages with the behavior's sentence, each answer proved."""
    url, seen = service
    arguments = {
        "base": "local-chat-completions",
        "model": "m",
        "base_url": url,
        "behavior": "funny",
        "num_concurrent": concurrent,
        "proof": str(tmp_path / "p.jsonl"),
    }
    found = evaluated("prompt_steered", ["mmlu_171"], arguments, limit=3)
    assert found["results"]["mmlu_171"]["answered,none"] == 1.0
    assert len(seen) == 3
    for body in seen:
        system, user = body["messages"]
        assert system["content"].endswith("\n\nIn everything you write, be funny.")
        assert "<answer>" in user["content"]
        assert (body["max_tokens"], body["temperature"], body["model"]) == (2048, 0, "m")
    proved = lines(tmp_path / "p.jsonl")
    assert sorted(map(json.dumps, (line["messages_sent"] for line in proved))) == sorted(
        map(json.dumps, (body["messages"] for body in seen))
    )
    steer = found["config"]["steer"]
    assert (steer["model"]["url"], steer["model"]["model_digest"], steer["model"]["name"]) == (url, None, "m")
    by_document = {line["doc_id"]: line["completion"] for line in proved}
    assert [sample["resps"][0][0] for sample in found["samples"]["mmlu_171"]] == [by_document[i] for i in range(3)]

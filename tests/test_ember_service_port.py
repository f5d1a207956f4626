"""The local Ember on a real port: framing, clients that hang up, and a clean stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from model_adapters.backend import Request, Sampling
from model_adapters.errors import SteerError
from steer_tasks.cli import main
from steer_tasks.serve import listen
from tests.tiny_backend import Passes, alone, another_model, user
from tests.tiny_model import tiny_model
from tests.tiny_service import CHAT, NAME, chat_body, on_a_port, tiny_service, wait_for, write_dictionary

PATH = "/api/inference/v1" + CHAT
LONG = 900
"""Tokens of an answer that nobody waits for to the end; the tiny model's context is 1024."""


@contextmanager
def slow_service(folder):
    """A service whose model needs 10 ms for a token and never ends an answer by itself, on a port."""
    model = another_model()

    def slowly(_model, _inputs, output):
        time.sleep(0.01)
        output.logits[..., model.config.eos_token_id] = -1e9

    model.register_forward_hook(slowly)
    with tiny_service(folder, model=model) as service, Passes(model) as passes, on_a_port(service.app) as url:
        yield service, passes, url


def passes_stop(passes, within=1.0):
    """Whether the model is at rest `within` seconds from now."""
    time.sleep(within)
    seen = len(passes.shapes)
    time.sleep(0.3)
    return len(passes.shapes) == seen


def raw_request(url, body):
    """A connection on which a request has been sent by hand."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    data = json.dumps(body).encode()
    lines = [f"POST {PATH} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + data)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_an_abandoned_request_stops_costing_compute(tmp_path, stream):
    """When a client hangs up in the middle of an answer the model stops working on it, and goes on for others."""
    with slow_service(tmp_path) as (_, passes, url):
        body = chat_body(max_completion_tokens=LONG, stream=stream, temperature=1.9, top_p=1.0, seed=1)
        connection = raw_request(url, body)
        wait_for(lambda: len(passes.shapes) > 10)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        connection.close()
        assert passes_stop(passes)
        assert len(passes.shapes) < LONG / 3
        answer = httpx.post(url + PATH, json=chat_body(max_completion_tokens=2), timeout=30)
        assert answer.status_code == 200


def test_an_abandoned_row_leaves_the_others(tmp_path):
    """Of two answers written together the one whose client stays is finished, as if it had been alone."""
    with slow_service(tmp_path) as (service, passes, url):
        gone = raw_request(url, chat_body(max_completion_tokens=LONG, temperature=1.9, top_p=1.0, seed=1))
        stays = []
        body = chat_body(max_completion_tokens=60)
        thread = threading.Thread(target=lambda: stays.append(httpx.post(url + PATH, json=body, timeout=60)))
        thread.start()
        wait_for(lambda: len(passes.shapes) > 5)
        gone.close()
        thread.join(60)
        assert passes_stop(passes, 0.1)
        text = stays[0].json()["choices"][0]["message"]["content"]
        assert text == alone(service.backend, Request(user(), sampling=Sampling(max_tokens=60))).text


def chunks_of(connection):
    """The HTTP chunks of an answer, read off the wire by hand."""
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        received = connection.recv(65536)
        assert received, "the connection was cut"
        data += received
    head, _, rest = data.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower()
    chunks = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return chunks[:-1]


def test_every_event_is_a_chunk_of_its_own(tmp_path):
    """A stream is HTTP-chunked, one small ASCII event in each chunk, with `data: ` nowhere inside and [DONE] alone."""
    with tiny_service(tmp_path) as service, on_a_port(service.app) as url:

        async def pieces(_request):
            yield 'Say "data: " twice: data: {}'
            yield "é😀\n\n" * 500
            yield await complete(_request)

        complete = service.backend.complete
        service.backend.stream = pieces  # a method of this one object: the framing is what is looked at
        connection = raw_request(url, chat_body(stream=True))
        *events, done = chunks_of(connection)
        connection.close()
    assert done == b"data: [DONE]\n\n"
    text = ""
    for event in events:
        assert event.isascii()
        assert len(event) < 8192
        assert event.startswith(b"data: ")
        assert event.endswith(b"\n\n")
        assert event.count(b"data: ") == 1
        text += json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"]["content"]
    assert text == 'Say "data: " twice: data: {}' + "é😀\n\n" * 500


def test_a_stream_that_fails_is_no_answer(tmp_path):
    """Where an answer fails after it began, an error event follows and no end mark does."""
    from model_adapters.errors import NotApplied

    with tiny_service(tmp_path) as service, on_a_port(service.app) as url:

        async def pieces(_request):
            yield "a"
            raise NotApplied("after 1 tokens the model's output is not finite")

        service.backend.stream = pieces
        connection = raw_request(url, chat_body(stream=True))
        events = chunks_of(connection)
        connection.close()
    assert len(events) == 2
    assert json.loads(events[1].removeprefix(b"data: "))["error"]["type"] == "NotApplied"


def served(tmp_path, *options, key=None, slow=0.0):
    """`steer serve` on the tiny model in a process of its own; (process, its first line)."""
    model = tiny_model(tmp_path / "model")
    dictionary = write_dictionary(tmp_path / "dictionary")
    words = ["serve", "--model", str(model), "--dictionary", str(dictionary), "--port", "0", "--served-as", NAME]
    # Slow enough that a request is under way when the signal comes.
    code = (
        "import functools, sys, time, torch\n"
        "torch.set_num_threads(1)\n"
        "from transformers import LlamaForCausalLM as L\n"
        "forward = L.forward\n"
        f"L.forward = functools.wraps(forward)(lambda *a, **k: (time.sleep({slow}), forward(*a, **k))[1])\n"
        "from steer_tasks.cli import main\n"
        f"sys.exit(main({[*words, *options]!r}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if key:
        environment["GOODFIRE_API_KEY"] = key
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    return process, process.stdout.readline()


def test_a_stop_finishes_what_is_under_way(tmp_path):
    """After SIGTERM the running request is answered whole, no new one is taken, and the exit status is 0."""
    process, line = served(tmp_path, slow=0.02)
    try:
        assert line.startswith("steer serve: "), process.stderr.read()
        assert f", {NAME} with dictionary tiny-random on http://127.0.0.1:" in line
        url = line.split()[-1]
        body = chat_body(max_completion_tokens=100, temperature=1.9, top_p=1.0, seed=3)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(httpx.post(url + PATH, json=body, timeout=60)))
        thread.start()
        time.sleep(0.7)
        assert answers == []
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx.TransportError):
            httpx.get(url + "/api/inference/v1/models", timeout=5)
        thread.join(60)
        assert answers[0].status_code == 200
        assert answers[0].json()["usage"]["completion_tokens"] > 20
        out, error = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "")
        assert "Traceback" not in error
    finally:
        process.kill()
        process.communicate()


def test_the_key_comes_from_the_environment(tmp_path):
    """With GOODFIRE_API_KEY set, `steer serve` asks for it and prints it nowhere."""
    process, line = served(tmp_path, key="s3cret-key")
    try:
        url = line.split()[-1] + "/api/inference/v1/models"
        assert httpx.get(url, timeout=30).status_code == 401
        answer = httpx.get(url, timeout=30, headers={"Authorization": "Bearer s3cret-key"})
        assert [one["id"] for one in answer.json()["data"]] == [str(tmp_path / "model"), NAME]
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "s3cret" not in line + out + error
    finally:
        process.kill()
        process.communicate()


def test_a_taken_port_is_refused_in_a_line(tmp_path, capsys):
    """A port that somebody else listens at is refused before anything is loaded."""
    taken = listen("127.0.0.1", 0)
    taken.listen()
    port = taken.getsockname()[1]
    try:
        assert main(["serve", "--model", "embedded", "--port", str(port)]) == 2
    finally:
        taken.close()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--port {port} can't be listened at" in error
    with pytest.raises(SteerError, match="can't be listened at"):
        listen("127.0.0.1", 99999)


def test_a_model_without_a_dictionary_is_refused(capsys):
    """A model other than the embedded one needs its own dictionary, and the line says so."""
    assert main(["serve", "--model", "some/model", "--port", "0"]) == 2
    assert "needs --dictionary" in capsys.readouterr().err

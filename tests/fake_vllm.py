"""A vLLM server with vllm-lens, without a model: residuals are a function of the tokens, and vectors are added."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np

from model_adapters.backends.vllm.tensor import packed, unpacked

N_LAYERS, D_MODEL, LENGTH = 4, 8, 64


@cache
def row(token: int, layer: int, d_model: int) -> np.ndarray:
    """What a block makes of a token, `(d_model,)`."""
    return np.random.default_rng([token, layer]).normal(size=d_model)


@dataclass
class FakeVllm:
    """`counts` is whether written tokens have positions, `steers` whether vectors are added, `lens` whether the plugin
    is there, `tokenizer` what `/tokenize` answers with (without one it isn't there). Each of `mishaps` befalls one
    completion, the first first: an error of the connection, or a status. `bodies` are the completions that
    were asked for, `keys` what they were authorized with, `most` how many were under way at once."""

    counts: bool = True
    steers: bool = True
    lens: bool = True
    shift: float = 0.0
    status: int = 200
    said: str = "fine"
    length: int = LENGTH
    d_model: int = D_MODEL
    seconds: float = 0.0
    tokenizer: Any = None
    mishaps: list = field(default_factory=list)
    bodies: list[dict] = field(default_factory=list)
    keys: set = field(default_factory=set)
    waiting: list = field(default_factory=list)
    most: int = 0

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.status != 200:
            return httpx.Response(self.status, json={"error": {"message": "no such thing"}})
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "served", "root": "tiny", "max_model_len": self.length}]})
        if request.url.path == "/version":
            return httpx.Response(200, json={"version": "9.9"})
        body = json.loads(request.content)
        self.keys.add(request.headers.get("authorization"))
        if request.url.path == "/tokenize":
            if self.tokenizer is None:
                return httpx.Response(404, json={"detail": "Not Found"})
            return httpx.Response(200, json={"tokens": self.tokenizer.encode(body["prompt"], add_special_tokens=False)})
        if self.mishaps:
            mishap = self.mishaps.pop(0)
            if isinstance(mishap, Exception):
                raise mishap
            return httpx.Response(mishap, text="away")
        self.bodies.append(body)
        self.waiting.append(body)
        self.most = max(self.most, len(self.waiting))
        time.sleep(self.seconds)
        self.waiting.remove(body)
        return httpx.Response(200, json=self.completed(body))

    def completed(self, body: dict) -> dict:
        prompt, most = body["prompt"], body["max_tokens"]
        written = [(sum(prompt) + n) % 50 for n in range(most)]
        xargs = {name: json.loads(value) for name, value in (body.get("vllm_xargs") or {}).items()}
        whole = [*prompt, *written[:-1]]
        choice: dict = {"text": self.said, "finish_reason": "length", "stop_reason": None, "token_ids": written}
        found: dict = {"choices": [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": most}}
        if "prompt_logprobs" in body:
            rows = [{str(token): {"logprob": -0.5 - n, "rank": 1 + n % 2}} for n, token in enumerate(prompt)]
            choice["prompt_logprobs"] = [None, *rows[1:]]
        wanted = xargs.get("output_residual_stream")
        if self.lens and wanted is not None:
            stream = self.residual(whole, len(prompt), xargs.get("apply_steering_vectors", []))
            stream = stream if wanted is True else stream[wanted]
            found["activations"] = {"residual_stream": packed(stream)}
        return found

    def residual(self, tokens: list[int], prompt: int, vectors: list[dict]) -> np.ndarray:
        stream = np.stack([[row(token, layer, self.d_model) for token in tokens] for layer in range(N_LAYERS)])
        for one in vectors if self.steers else []:
            array, positions = unpacked(one["activations"]) * one["scale"], one["position_indices"]
            for place in range(len(tokens)):
                known = place if self.counts or place < prompt else 0
                for index, layer in enumerate(one["layer_indices"]):
                    if positions is None:
                        stream[layer, place] += array[index]
                    elif known in positions:
                        stream[layer, place] += array[index, positions.index(known)]
        return stream + self.shift


@contextmanager
def listening(fake: FakeVllm) -> Iterator[str]:
    """The address of a port of this machine where `fake` answers, for as long as this is open."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            request = httpx.Request(self.command, "http://there" + self.path, headers=dict(self.headers), content=body)
            answer = fake.answer(request)
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        # As many as a client opens at once: the default of 5 resets some of them on a busy machine.
        request_queue_size = 512

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()

"""A vLLM server with vllm-lens, without a model: residuals are a function of the tokens, and vectors are added."""

import json
from dataclasses import dataclass, field

import httpx
import numpy as np

from model_adapters.backends.vllm.tensor import packed, unpacked

N_LAYERS, D_MODEL, LENGTH = 4, 8, 64


@dataclass
class FakeVllm:
    """`counts` is whether written tokens have positions, `steers` whether vectors are added, `lens` whether the plugin
    is there. `bodies` are the completions that were asked for."""

    counts: bool = True
    steers: bool = True
    lens: bool = True
    shift: float = 0.0
    status: int = 200
    said: str = "fine"
    bodies: list[dict] = field(default_factory=list)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.status != 200:
            return httpx.Response(self.status, json={"error": {"message": "no such thing"}})
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "served", "root": "tiny", "max_model_len": LENGTH}]})
        if request.url.path == "/version":
            return httpx.Response(200, json={"version": "9.9"})
        body = json.loads(request.content)
        self.bodies.append(body)
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
        stream = np.stack(
            [np.stack([np.random.default_rng([t, n]).normal(size=D_MODEL) for t in tokens]) for n in range(N_LAYERS)]
        )
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

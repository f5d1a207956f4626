"""A local Ember on the tiny model and a random dictionary: in the process, on a port, and what tests ask it with."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from model_adapters.backends.local.backend import LocalBackend
from model_adapters.ember_service.app import create_app
from model_adapters.ember_service.identifiers import feature_id
from model_adapters.features.dictionary import Dictionary, open_dictionary
from tests.tiny_backend import D_MODEL, opened

N_FEATURES, LAYER, FACTOR = 48, 2, 4.0
NAME = "tiny"
CHAT = "/chat/completions"
WORDS = ("ships", "rivers", "jokes", "pirates", "taxes", "music")


def write_dictionary(folder: Path, activation: str = "relu", seed: int = 3, labelled: int = N_FEATURES) -> Path:
    """A random dictionary in the folder layout; feature i is labelled `<word> number i`."""
    import torch
    from safetensors.torch import save_file

    random = np.random.default_rng(seed)
    encoder = random.normal(size=(N_FEATURES, D_MODEL)).astype(np.float32)
    weights = {
        "encoder_linear.weight": encoder,
        "encoder_linear.bias": random.normal(size=N_FEATURES).astype(np.float32),
        "decoder_linear.weight": random.normal(size=(D_MODEL, N_FEATURES)).astype(np.float32) * 0.3,
        "decoder_linear.bias": random.normal(size=D_MODEL).astype(np.float32),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.from_numpy(array) for name, array in weights.items()}, folder / "dictionary.safetensors")
    about = {"name": "tiny-random", "model": NAME, "layer": LAYER, "activation": activation, "factor": FACTOR}
    (folder / "dictionary.json").write_text(json.dumps(about))
    labels = {str(index): f"{WORDS[index % len(WORDS)]} number {index}" for index in range(labelled)}
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a written dictionary, by key."""
    from safetensors.numpy import load_file

    return load_file(folder / "dictionary.safetensors")


class TinyService:
    """The service in this process, spoken to without a port."""

    def __init__(self, backend: LocalBackend, dictionary: Dictionary, folder: Path, **options: Any) -> None:
        self.backend, self.dictionary, self.folder = backend, dictionary, folder
        self.app = create_app(backend, dictionary, **{"names": [NAME], **options})

    def client(self, **headers: str) -> httpx.AsyncClient:
        """An HTTP client whose server is the application itself."""
        transport = httpx.ASGITransport(app=self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://ember/api/inference/v1", headers=headers)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request and its answer."""

        async def once() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, path, timeout=60, **options)

        return asyncio.run(once())

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """The same with a JSON body; the model is named where the body doesn't."""
        return self.ask("POST", path, json={"model": NAME, **body})

    def chat(self, body: Mapping[str, Any]) -> Any:
        """The answer to a chat request that must succeed."""
        answer = self.post(CHAT, chat_body(**body))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def feature(self, index: int) -> dict[str, Any]:
        """A feature as the SDK writes it into a controller."""
        name = feature_id(self.dictionary.digest, index).replace("-", "")
        return {"uuid": name, "label": f"L{index}", "index_in_sae": index, "max_activation_strength": 1}

    def group(self, *indices: int) -> dict[str, Any]:
        """A group of features."""
        return {"features": [self.feature(index) for index in indices]}

    def edit(self, index: int, value: float, mode: str = "nudge") -> dict[str, Any]:
        """One intervention."""
        return {"mode": mode, "value": value, "features": self.group(index)}


def controller(*interventions: Any, scopes: Any = ()) -> dict[str, Any]:
    """A controller as the SDK sends it."""
    return {
        "interventions": list(interventions),
        "scopes": list(scopes),
        "name": "controller__14015087",
        "nonzero_strength_threshold": None,
        "min_nudge_entropy": None,
        "max_nudge_entropy": None,
    }


def scope(condition: Mapping[str, Any], inside: Mapping[str, Any], event: str | None = None) -> dict[str, Any]:
    """A scope of one condition."""
    joined = {"operator": "AND", "conditionals": [condition]}
    return {"conditionals": joined, "controller": inside, "is_active": False, "event_name": event}


def compare(left: Mapping[str, Any], operator: str, right: Any) -> dict[str, Any]:
    """One condition."""
    return {"left_hand": left, "operator": operator, "right_hand": right}


def chat_body(**given: Any) -> dict[str, Any]:
    """A greedy chat request of eight tokens."""
    messages = [{"role": "user", "content": "hello"}]
    return {"model": NAME, "messages": messages, "temperature": 0, "max_completion_tokens": 8, **given}


@contextmanager
def tiny_service(folder: Path, activation: str = "relu", model: Any = None, **options: Any) -> Iterator[TinyService]:
    """A service on the tiny model; the backend is closed in the end."""
    dictionary = open_dictionary(write_dictionary(folder / "dictionary", activation))
    with opened(model, interrupts=True) as backend:
        yield TinyService(backend, dictionary, folder / "dictionary", **options)


@contextmanager
def on_a_port(app: Any) -> Iterator[str]:
    """The application on a free loopback port in a thread of its own; gives the base URL."""
    import uvicorn

    from steer_tasks.serve import listen

    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
    assert not thread.is_alive(), "the server did not stop"


def wait_for(met: Any, seconds: float = 30.0) -> None:
    """Return once `met()` is true; fail after so many seconds."""
    until = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < until, f"not so after {seconds} s"
        time.sleep(0.01)

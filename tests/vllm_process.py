"""A real vLLM server as a process of its own, on a port of this machine."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

STARTS_S, STOPS_S = 240, 30
"""Loading the embedded model takes about half a minute on two cores."""


@contextmanager
def serving(environment: Path, model: Path, log: Path, *words: str) -> Iterator[str]:
    """The address of a server of `model`, once it is healthy; it is stopped in the end. `words` are vLLM's own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The command `vllm serve` is this module; in the CPU build it looks for a distribution that has another name there.
    line = [environment / "bin" / "python", "-m", "vllm.entrypoints.openai.api_server", "--model", model, *words]
    line += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "embedded", "--enforce-eager"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "4", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VLLM_API_KEY")}
    with log.open("w") as said:
        process = subprocess.Popen(
            list(map(str, line)), env=variables | settings, stdout=said, stderr=said, start_new_session=True
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            _stop(process)


def _wait(process: subprocess.Popen, url: str, log: Path) -> None:
    """Return when the server is healthy. Raises AssertionError with the end of its log where it ends or takes long."""
    ends = time.monotonic() + STARTS_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    problem = "is late" if process.poll() is None else "ended"
    raise AssertionError(f"the server {problem}: {log.read_text()[-2000:]}")


def _stop(process: subprocess.Popen) -> None:
    """End the server and the engine that it started, which share a process group."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOPS_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

"""What every test stands on: no network beyond this machine, a cache of its own, and where shared data lies."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from platformdirs import user_cache_path

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports them, and inherited by subprocesses: no test waits for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# No test and none of its subprocesses asks the package registry for anything.
os.environ["PIP_NO_INDEX"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


class NetworkIsOff(ConnectionRefusedError):
    """A test tried to leave this machine. An OSError, so that the product takes the path it takes offline."""


def is_local(host: object) -> bool:
    """Whether a host as sockets take it is this machine: a loopback address, `localhost`, or none at all."""
    if host is None:
        return True
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def network_off() -> Iterator[None]:
    """For the whole run, sockets of this process reach loopback and Unix addresses only; names aren't looked up."""
    patch = pytest.MonkeyPatch()

    def guarded(method):
        def call(self, *args):
            # The address is the last argument of all of these: connect(address), sendto(data[, flags], address).
            address = args[-1]
            if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
                raise NetworkIsOff(f"the network is off in tests: {address[0]}:{address[1]}")
            return method(self, *args)

        return call

    for name in ("connect", "connect_ex", "sendto"):
        patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    look_up = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        if not is_local(host):
            raise NetworkIsOff(f"the network is off in tests: {host!r}")
        return look_up(host, *args, **kwargs)

    patch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of this run, new and empty but for the embedded model, which is the user's own."""
    kept = os.environ.get("STEER_TASKS_CACHE")
    real = Path(kept).expanduser() if kept else user_cache_path("steer-tasks", appauthor=False)
    folder = tmp_path_factory.mktemp("cache")
    (real / "embedded").mkdir(parents=True, exist_ok=True)
    (folder / "embedded").symlink_to(real / "embedded", target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEER_TASKS_CACHE", str(folder))
        for name in ("STEER_TASKS_MMLU", "STEER_TASKS_STUDY", "STEER_TASKS_JUDGE", "STEER_TASKS_AUTOLOAD"):
            patch.delenv(name, raising=False)
        for name in ("GOODFIRE_API_KEY", "GOODFIRE_BASE_URL", "INSPECT_EVAL_MODEL", "VLLM_BASE_URL", "VLLM_API_KEY"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with nothing in it, for one test."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("STEER_TASKS_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data that isn't part of the project: `STEER_TASKS_SHARED`, by default `../shared`."""
    return Path(os.environ.get("STEER_TASKS_SHARED") or ROOT.parent / "shared")


@pytest.fixture(scope="session")
def mmlu_dev(shared: Path) -> Path:
    """The whole development split of MMLU, 285 rows; a test that needs it is skipped by name where it is absent."""
    path = shared / "data" / "mmlu_dev.json"
    if not path.exists():
        pytest.skip(f"needs {path}; STEER_TASKS_SHARED names the folder that holds data/mmlu_dev.json")
    return path


@pytest.fixture
def mmlu(mmlu_dev: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, and the questions of this test and of its subprocesses come from there."""
    monkeypatch.setenv("STEER_TASKS_MMLU", str(mmlu_dev))
    return mmlu_dev


@pytest.fixture(scope="session")
def study_70b(shared: Path) -> Path:
    """The study's public table of 1,499 answers; a test that needs it is skipped by name where it is absent."""
    path = shared / "data" / "ember_open_ended_70b.csv"
    if not path.exists():
        pytest.skip(f"needs {path}; STEER_TASKS_SHARED names the folder that holds data/ember_open_ended_70b.csv")
    return path


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT

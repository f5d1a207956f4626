"""Opening a model: what is found, what is refused in one line, and which weights it was."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from model_adapters.backend import Request, Sampling, Text
from model_adapters.backends.local import loading, model_digest, model_shape, open_local
from model_adapters.backends.local.weights import SETTLED_S, state_digest, weights_folder
from model_adapters.errors import SteerError
from model_adapters.steering import CONTROL
from tests.tiny_backend import another_model, run, user
from tests.tiny_model import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's folder, last changed a while ago."""
    made = tiny_model(tmp_path_factory.mktemp("model"))
    settle(made)
    return made


def settle(folder: Path) -> None:
    """Let files look as if they were written a minute ago."""
    for path in folder.iterdir():
        then = time.time() - 60
        os.utime(path, (then, then))


def one_line(problem: BaseException) -> str:
    """The error's text, which has to be one line."""
    assert "\n" not in str(problem)
    return str(problem)


def test_a_folder_is_opened(folder):
    """A folder's model answers, knows its shape, and its identity names dtype and weights."""
    backend = open_local(str(folder), device="cpu", max_length=64)
    try:
        done = run(backend.complete(Request(user(), CONTROL, Sampling(max_tokens=3))))
        assert done.tokens_out == 3
        assert (backend.n_layers, backend.d_model, backend.max_length) == (4, 32, 64)
        assert backend.identity.model_digest == model_digest(str(folder))
        assert (backend.identity.dtype, backend.identity.backend) == ("float32", "local")
        assert backend.identity.arguments["max_length"] == "64"
    finally:
        backend.close()


def test_the_shape_is_read_without_weights(folder, tmp_path):
    """Layers and width come from config.json alone."""
    shutil.copy(folder / "config.json", tmp_path)
    assert model_shape(str(tmp_path)) == (4, 32)


def test_a_home_folder_is_understood(folder, monkeypatch):
    """A name that begins with ~ is the user's home."""
    monkeypatch.setenv("HOME", str(folder.parent))
    assert model_shape(f"~/{folder.name}") == (4, 32)
    assert model_digest(f"~/{folder.name}") == model_digest(str(folder))


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model", "not a name/at all?", "/no/such/folder"])
def test_an_unknown_model_is_refused_by_name(name):
    """What is neither a folder nor known is an error of one line, for its shape as for itself."""
    for ask in (model_shape, open_local):
        with pytest.raises(SteerError) as caught:
            ask(name)
        assert name in one_line(caught.value)


def test_an_unknown_model_is_noticed_within_seconds_without_a_hub():
    """Where the hub can't be reached, an unknown name ends soon, and not after minutes of trying again."""
    program = (
        "import sys, time\n"
        "from model_adapters.backends.local import model_shape\n"
        "from model_adapters.errors import SteerError\n"
        "import transformers\n"
        "began = time.monotonic()\n"
        "try:\n"
        "    model_shape('nobody/no-such-model')\n"
        "except SteerError as problem:\n"
        "    assert time.monotonic() - began < 15, time.monotonic() - began\n"
        "    print(problem)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("\n") == 1
    assert "nobody/no-such-model" in ran.stdout


def test_a_folder_that_is_no_model_is_refused_by_name(tmp_path, folder):
    """An empty folder, one without weights, and one whose weights are cut off each say what is the matter."""
    with pytest.raises(SteerError, match="not a folder that transformers can load"):
        open_local(str(tmp_path))
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with pytest.raises(SteerError) as caught:
        open_local(str(broken))
    assert str(broken) in one_line(caught.value)
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(SteerError) as caught:
        open_local(str(broken))
    assert str(broken) in one_line(caught.value)


def test_code_from_a_model_is_never_run(folder, tmp_path):
    """A model that brings its own code is refused, without a question and without running it."""
    import json

    copied = shutil.copytree(folder, tmp_path / "own_code")
    config = json.loads((copied / "config.json").read_text())
    config.update(model_type="unheard_of", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"})
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(SteerError) as caught:
        open_local(str(copied))
    assert str(copied) in one_line(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("dtype", ["float99", "bf16", "int8", ""])
def test_an_unknown_dtype_is_refused_before_weights_are_read(folder, dtype, monkeypatch):
    """The names there are stand in the error; an empty name means none was given."""
    if not dtype:
        assert loading.default_dtype(str(folder)) == "auto"
        return
    with pytest.raises(SteerError, match=rf"dtype={dtype} is unknown; it is one of auto, float32, bfloat16, float16"):
        open_local(str(folder), dtype=dtype)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta", "cpu:x"])
def test_a_device_that_is_not_here_is_refused_before_weights_are_read(tmp_path, device):
    """A device that no torch knows, that this machine has not, or that holds no numbers."""
    with pytest.raises(SteerError) as caught:
        open_local(str(tmp_path), device=device)
    assert f"device={device} is unknown or not here" in one_line(caught.value)


def test_the_default_dtype(monkeypatch):
    """`embedded` runs in bfloat16 where that is native; every other model in the dtype of its files."""
    assert loading.default_dtype("someone/model") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        assert loading.default_dtype("embedded") == expected


def test_dtype_is_honoured_and_part_of_the_identity(folder):
    """The same weights in another dtype are another run."""
    backends = [open_local(str(folder), device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16", "auto")]
    for backend in backends:
        backend.close()
    assert [backend.identity.dtype for backend in backends] == ["float32", "bfloat16", "float32"]
    assert len({backend.identity.digest for backend in backends}) == 2


def test_the_digest_is_that_of_the_content(folder, tmp_path, empty_cache):
    """Copies agree wherever they lie; another seed, a changed config or another file's name do not."""
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert model_digest(str(copied)) == model_digest(str(folder))
    assert model_digest(str(tiny_model(tmp_path / "other", seed=1))) != model_digest(str(folder))
    (copied / "config.json").write_text((copied / "config.json").read_text() + " ")
    assert model_digest(str(copied)) != model_digest(str(folder))
    assert model_digest(str(tmp_path / "copy")) is not None
    assert model_digest("nobody/no-such-model") is None
    assert weights_folder("nobody/no-such-model") is None
    (tmp_path / "nothing").mkdir()
    assert model_digest(str(tmp_path / "nothing")) is None


def test_the_digest_of_large_files_is_remembered_and_never_stale(folder, tmp_path, empty_cache, monkeypatch):
    """A file is read once; when its bytes change at equal length, even at equal time of writing, it is read again."""
    copied = shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.setattr("model_adapters.backends.local.weights.SETTLED_S", -1.0)
    first = model_digest(str(copied))
    weights = copied / "model.safetensors"
    stat = weights.stat()
    opened = []
    real = Path.open

    def counted(self, *args, **kwargs):
        opened.append(self.name)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", counted)
    assert model_digest(str(copied)) == first
    assert weights.name not in opened
    monkeypatch.setattr(Path, "open", real)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    time.sleep(0.02)
    weights.write_bytes(bytes(data))
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert model_digest(str(copied)) != first


def test_a_file_that_was_just_written_is_not_remembered(folder, tmp_path, empty_cache):
    """Two writes within the clock's grain can't be told apart, so a fresh file is read each time."""
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / "config.json").touch()
    model_digest(str(copied))
    assert list((empty_cache / "digests").iterdir()) == []
    assert SETTLED_S > 1.0


def test_a_model_in_memory_has_a_digest_of_its_own():
    """Equal weights agree; one changed number, another dtype or a buffer do not."""
    model, same, changed = another_model(), another_model(), another_model()
    with torch.no_grad():
        changed.model.layers[3].mlp.up_proj.weight[0, 0] += 1e-6
    digests = [state_digest(one) for one in (model, same, changed, another_model(torch.bfloat16))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    model.register_buffer("flag", torch.tensor(True))
    assert state_digest(model) != digests[0]


def test_a_model_without_a_template_takes_text_only(tmp_path):
    """Messages are refused by name before any pass; rendered text is answered."""
    backend = open_local(str(tiny_model(tmp_path, template=None)), device="cpu")
    try:
        with pytest.raises(SteerError, match="no chat template"):
            run(backend.complete(Request(user(), CONTROL)))
        assert run(backend.complete(Request(Text("a"), CONTROL, Sampling(max_tokens=2)))).tokens_out == 2
    finally:
        backend.close()

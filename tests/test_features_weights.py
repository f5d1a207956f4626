"""Dictionaries in every layout that is read, against numpy by hand; and what is refused."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model_adapters.errors import SteerError
from model_adapters.features import open_dictionary
from model_adapters.features.dictionary import file_digest

N, D = 7, 5
RANDOM = np.random.default_rng(0)
ENCODER = RANDOM.normal(size=(N, D)).astype(np.float32)
BIAS = RANDOM.normal(size=N).astype(np.float32)
DECODER = RANDOM.normal(size=(N, D)).astype(np.float32)
DECODER_BIAS = RANDOM.normal(size=D).astype(np.float32)
INPUT_BIAS = RANDOM.normal(size=D).astype(np.float32)
HIDDEN = RANDOM.normal(size=(11, D)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path / "cache"))


def tensors(dtype=torch.float32):
    return {
        "encoder_linear.weight": torch.tensor(ENCODER).to(dtype),
        "encoder_linear.bias": torch.tensor(BIAS).to(dtype),
        "decoder_linear.weight": torch.tensor(DECODER.T).contiguous().to(dtype),
        "decoder_linear.bias": torch.tensor(DECODER_BIAS).to(dtype),
    }


def state_dict(folder: Path):
    torch.save(tensors(), folder / "sae.pth")
    return open_dictionary(folder / "sae.pth", layer=3, factor=9.0), 0.0


def plain_safetensors(folder: Path):
    save_file(tensors(), folder / "sae.safetensors")
    return open_dictionary(folder / "sae.safetensors", layer=3, factor=9.0), 0.0


def own_folder(folder: Path):
    save_file({**tensors(), "input_bias": torch.tensor(INPUT_BIAS)}, folder / "dictionary.safetensors")
    about = {"name": "mine", "model": "m", "layer": 3, "activation": "relu", "factor": 9.0}
    (folder / "dictionary.json").write_text(json.dumps(about))
    return open_dictionary(folder), INPUT_BIAS


def saelens(folder: Path, applies=True):
    save_file(
        {
            "W_enc": torch.tensor(ENCODER.T).contiguous(),
            "b_enc": torch.tensor(BIAS),
            "W_dec": torch.tensor(DECODER),
            "b_dec": torch.tensor(DECODER_BIAS),
        },
        folder / "sae_weights.safetensors",
    )
    config = {"architecture": "standard", "hook_name": "blocks.3.hook_resid_post", "apply_b_dec_to_input": applies}
    (folder / "cfg.json").write_text(json.dumps(config))
    return open_dictionary(folder, factor=9.0), DECODER_BIAS if applies else 0.0


def saelens_that_subtracts_nothing(folder: Path):
    return saelens(folder, applies=False)


def sparsify(folder: Path, k=N):
    folder = folder / "layers.3"
    folder.mkdir()
    save_file(
        {
            "encoder.weight": torch.tensor(ENCODER),
            "encoder.bias": torch.tensor(BIAS),
            "W_dec": torch.tensor(DECODER),
            "b_dec": torch.tensor(DECODER_BIAS),
        },
        folder / "sae.safetensors",
    )
    (folder / "cfg.json").write_text(json.dumps({"k": k}))
    return open_dictionary(folder, factor=9.0), DECODER_BIAS


LAYOUTS = [state_dict, plain_safetensors, own_folder, saelens, saelens_that_subtracts_nothing, sparsify]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_dictionary(layout, tmp_path):
    """Rows, activations and reconstructions are those of the published formula, whatever file they come from."""
    dictionary, subtracted = layout(tmp_path)
    assert (dictionary.n_features, dictionary.d_model, dictionary.layer) == (N, D, 3)
    rows = dictionary.rows([6, 0, 6])
    assert np.array_equal(rows.encoder, ENCODER[[6, 0, 6]])
    assert np.array_equal(rows.decoder, DECODER[[6, 0, 6]])
    assert np.allclose(rows.bias, (BIAS - ENCODER @ np.broadcast_to(subtracted, D))[[6, 0, 6]], atol=1e-6)
    assert np.allclose(rows.decoder_norms, np.linalg.norm(DECODER[[6, 0, 6]], axis=1))
    expected = np.maximum((HIDDEN - subtracted) @ ENCODER.T + BIAS, 0)
    assert np.allclose(dictionary.encode(HIDDEN), expected, atol=1e-5)
    assert np.allclose(dictionary.decode(expected), expected @ DECODER + DECODER_BIAS, atol=1e-5)
    # A row reads alone what the whole dictionary reads.
    assert np.allclose(np.maximum(HIDDEN @ rows.encoder.T + rows.bias, 0), expected[:, [6, 0, 6]], atol=1e-5)


def test_a_transposed_tensor_is_read_as_saved(tmp_path):
    """A state dict whose decoder was saved as a view of its transpose gives the same numbers."""
    held = tensors()
    held["decoder_linear.weight"] = torch.tensor(DECODER).T
    torch.save(held, tmp_path / "x.pth")
    dictionary = open_dictionary(tmp_path / "x.pth", layer=0, factor=1.0)
    assert np.array_equal(dictionary.rows([4, 1]).decoder, DECODER[[4, 1]])
    assert np.array_equal(dictionary.weights.decoder(slice(0, N)), DECODER)


def test_many_columns_are_those_read_one_by_one(tmp_path):
    """Reading many features in blocks of neighbours gives what reading each alone gives, in the order asked."""
    wide = np.random.default_rng(3).normal(size=(9000, D)).astype(np.float32)
    held = {
        "encoder_linear.weight": torch.tensor(wide),
        "encoder_linear.bias": torch.zeros(len(wide)),
        "decoder_linear.weight": torch.tensor(wide.T).contiguous(),
    }
    save_file(held, tmp_path / "x.safetensors")
    dictionary = open_dictionary(tmp_path / "x.safetensors", layer=0, factor=1.0)
    which = np.random.default_rng(4).permutation(9000)[:200].tolist()
    assert np.array_equal(dictionary.rows(which).decoder, wide[which])
    assert np.array_equal(dictionary.rows(which[:3]).decoder, wide[which[:3]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_narrow_types_are_widened_exactly(dtype, ending, tmp_path):
    """float16 and bfloat16 files give exactly the float32 numbers that they hold."""
    path = tmp_path / f"sae.{ending}"
    if ending == "pth":
        torch.save(tensors(dtype), path)
    else:
        save_file(tensors(dtype), path)
    rows = open_dictionary(path, layer=0, factor=1.0).rows([2, 5])
    held = tensors(dtype)
    assert np.array_equal(rows.encoder, held["encoder_linear.weight"][[2, 5]].float().numpy())
    assert np.array_equal(rows.decoder, held["decoder_linear.weight"].T[[2, 5]].float().numpy())
    assert rows.encoder.dtype == rows.bias.dtype == rows.decoder.dtype == np.float32


def test_of_topk_the_largest_are_kept(tmp_path):
    """At most K features of a token are active, its largest; of equal ones the lower index."""
    dictionary, _ = sparsify(tmp_path, k=2)
    whole = np.maximum((HIDDEN - DECODER_BIAS) @ ENCODER.T + BIAS, 0)
    found = dictionary.encode(HIDDEN)
    for row, kept in zip(whole, found, strict=True):
        largest = sorted(range(N), key=lambda index: (-row[index], index))[:2]
        assert np.allclose([kept[index] for index in largest], [row[index] for index in largest], atol=1e-5)
        assert np.count_nonzero(kept) <= 2
        assert np.count_nonzero(np.delete(kept, largest)) == 0
    assert dictionary.activation == "topk:2"


def test_neighbors_are_the_nearest_decoders(tmp_path):
    """By cosine with the group's centroid of directions, nearest first, the group itself left out."""
    dictionary, _ = state_dict(tmp_path)
    unit = DECODER / np.linalg.norm(DECODER, axis=1, keepdims=True)
    centroid = unit[[1, 4]].mean(axis=0)
    cosines = unit @ centroid / np.linalg.norm(centroid)
    expected = [index for index in np.argsort(-cosines) if index not in (1, 4)][:3]
    found = dictionary.neighbors([1, 4], 3)
    assert [index for index, _ in found] == expected
    assert np.allclose([cosine for _, cosine in found], cosines[expected], atol=1e-6)
    assert len(dictionary.neighbors([0], 100)) == N - 1


def test_goodfires_dictionaries_are_known_by_their_shape(tmp_path, monkeypatch):
    """A file with a published one's features and width needs no layer and no factor."""
    from model_adapters.features import sources

    monkeypatch.setattr(sources, "PUBLISHED", {(N, D): sources.PUBLISHED[65536, 4096]})
    torch.save(tensors(), tmp_path / "x.pth")
    dictionary = open_dictionary(tmp_path / "x.pth")
    assert (dictionary.layer, dictionary.factor, dictionary.activation) == (19, 9.0, "relu")
    assert dictionary.name == "Llama-3.1-8B-Instruct-SAE-l19"
    assert open_dictionary(tmp_path / "x.pth", layer=12).layer == 12


def test_a_changed_byte_is_another_dictionary(tmp_path):
    """The digest is that of the file, remembered until the file changes."""
    dictionary, _ = plain_safetensors(tmp_path)
    path = tmp_path / "sae.safetensors"
    before = os.stat(path)
    assert dictionary.digest == file_digest(path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert file_digest(path) != dictionary.digest


def test_the_digest_is_not_computed_twice(tmp_path, monkeypatch):
    """A large file is hashed once; the next time its size and time of change are enough."""
    import hashlib

    dictionary, _ = plain_safetensors(tmp_path)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert open_dictionary(tmp_path / "sae.safetensors", layer=3, factor=9.0).digest == dictionary.digest


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def broken(folder: Path, kind: str) -> tuple[Path, dict]:
    path = folder / "x.pth"
    given: dict[str, object] = {"layer": 0, "factor": 1.0}
    held = tensors()
    match kind:
        case "code":
            path.write_bytes(pickle.dumps(Code()))
        case "not tensors":
            torch.save({"a": 1}, path)
        case "truncated":
            torch.save(held, path)
            path.write_bytes(path.read_bytes()[:200])
        case "no encoder":
            torch.save({"something": torch.zeros(2)}, path)
        case "no bias":
            del held["encoder_linear.bias"]
            torch.save(held, path)
        case "shapes":
            held["decoder_linear.weight"] = torch.zeros(D, N + 1)
            torch.save(held, path)
        case "bias shape":
            held["decoder_linear.bias"] = torch.zeros(D + 1)
            torch.save(held, path)
        case "safetensors":
            path = folder / "x.safetensors"
            path.write_bytes(b"no")
        case "ending":
            path = folder / "x.npz"
            path.write_bytes(b"no")
        case "nothing":
            path = folder / "none.pth"
        case "no layer":
            torch.save(held, path)
            given = {"factor": 1.0}
        case "no factor":
            torch.save(held, path)
            given = {"layer": 1}
        case "activation":
            torch.save(held, path)
            given["activation"] = "gelu"
        case "two files":
            torch.save(held, path)
            torch.save(held, folder / "y.pth")
            path = folder
        case "broken json":
            (folder / "dictionary.json").write_text("{")
            path = folder
        case "transcoder" | "mlp":
            path = folder / ("layers.3" if kind == "transcoder" else "layers.3.mlp")
            path.mkdir()
            (path / "sae.safetensors").write_bytes(b"")
            (path / "cfg.json").write_text(json.dumps({"k": 2, "transcode": kind == "transcoder"}))
        case "gated":
            (folder / "sae_weights.safetensors").write_bytes(b"")
            (folder / "cfg.json").write_text(json.dumps({"architecture": "gated"}))
            path = folder
    return path, given


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("code", "not a plain torch state dict"),
        ("not tensors", "not a plain torch state dict"),
        ("truncated", "not a plain torch state dict"),
        ("no encoder", "not a sparse autoencoder; its tensors are called encoder_linear.weight"),
        ("no bias", "encoder_linear.bias is missing"),
        ("shapes", "decoder_linear.weight is (5, 8), encoder_linear.weight asks for (5, 7)"),
        ("bias shape", "decoder_linear.bias is (6,), not (5,)"),
        ("safetensors", "not a whole safetensors file"),
        ("ending", "dictionaries are .safetensors, .pth or .pt files, or folders"),
        ("nothing", "is neither `demo`, nor a file, nor a folder"),
        ("no layer", "says no layer; give layer=N"),
        ("no factor", "says no factor; give factor=F"),
        ("activation", "activation 'gelu' is neither relu nor topk:K"),
        ("two files", "holds 2 weight files and no dictionary.json"),
        ("broken json", "can't be read as JSON"),
        ("transcoder", "a transcoder"),
        ("mlp", "is not a block's output"),
        ("gated", "architecture 'gated' is not read"),
    ],
)
def test_what_is_no_dictionary_is_refused_by_name(kind, said, tmp_path, monkeypatch):
    """Every fault is named on one line, and no code in a file is run."""
    monkeypatch.chdir(tmp_path)
    path, given = broken(tmp_path, kind)
    with pytest.raises(SteerError) as caught:
        open_dictionary(path, **given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("call", ["rows", "encode", "neighbors"])
def test_indices_and_widths_that_do_not_fit_are_refused(call, tmp_path):
    """An index out of range and a residual of another width name the dictionary's own."""
    dictionary, _ = state_dict(tmp_path)
    given = np.zeros((2, D + 1)) if call == "encode" else [N]
    said = r"encodes residuals \(tokens, 5\), not \(2, 6\)" if call == "encode" else "feature 7 is out of range"
    arguments = (given, 3) if call == "neighbors" else (given,)
    with pytest.raises(SteerError, match=said):
        getattr(dictionary, call)(*arguments)


def test_a_package_that_is_not_there_is_named():
    """A SAELens release by name says which package it needs."""
    with pytest.raises(SteerError, match="pip install sae-lens"):
        open_dictionary("saelens:release/layer_19")


def test_importing_the_features_is_light():
    """Neither torch nor scikit-learn is there before a function needs it."""
    code = "import sys, model_adapters.features; print({'torch', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


MEASURE = """
import resource, sys, time
from model_adapters.features import open_dictionary, resolve
from model_adapters.steering import EditFeatures, FeatureEdit, Steering

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

import torch, safetensors
before, began = peak(), time.monotonic()
dictionary = open_dictionary(sys.argv[1])
edits = EditFeatures((FeatureEdit(5, 0.5), FeatureEdit(40_000, -0.3), FeatureEdit(65_535, 0.2, "pin")))
steering = resolve(Steering((edits,)), dictionary)
assert [one.layer for one in steering.on_residuals] == [19, 19, 19]
print(peak() - before, time.monotonic() - began)
"""

WRITE = """
import sys, torch
from safetensors.torch import save_file
n, d = 65536, 4096
tensors = {
    "encoder_linear.weight": torch.full((n, d), 0.5),
    "encoder_linear.bias": torch.zeros(n),
    "decoder_linear.weight": torch.full((d, n), 0.25),
    "decoder_linear.bias": torch.zeros(d),
}
save_file(tensors, sys.argv[1]) if sys.argv[1].endswith("safetensors") else torch.save(tensors, sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_three_edits_of_a_large_dictionary_take_little_memory(ending, tmp_path):
    """Resolving 3 edits of 65,536 features of width 4,096 (2.1 GB) raises peak memory by less than 300 MB."""
    path = tmp_path / f"sae.{ending}"
    free = os.statvfs(tmp_path)
    if free.f_bavail * free.f_frsize < 4 * 2**30:
        pytest.skip("needs 4 GB of free disk")
    subprocess.run([sys.executable, "-c", WRITE, str(path)], check=True)
    assert path.stat().st_size > 2 * 65536 * 4096 * 4
    try:
        done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=False)
    finally:
        path.unlink()
    assert done.returncode == 0, done.stderr
    growth, seconds = map(float, done.stdout.split())
    print(f"peak memory grew by {growth:.0f} MB in {seconds:.1f} s")
    assert growth < 300

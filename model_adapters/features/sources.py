"""Where a dictionary lies and what its files say of it. numpy and the standard library only."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_adapters.errors import SteerError
from model_adapters.features.weights import Weights

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "demo"

PUBLISHED: Mapping[tuple[int, int], Mapping[str, Any]] = {
    (65536, 4096): {
        "name": "Llama-3.1-8B-Instruct-SAE-l19",
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "layer": 19,
        "factor": 9.0,
    },
    (65536, 8192): {
        "name": "Llama-3.3-70B-Instruct-SAE-l50",
        "model": "meta-llama/Llama-3.3-70B-Instruct",
        "layer": 50,
        "factor": 12.0,
    },
}
"""Goodfire's two open dictionaries, by features and width. Layers are those of their model cards; the factors are
`ACTIVATION_NORMALIZATION_FACTOR` of the `goodfire` SDK 0.3.0 to 0.3.3 (that its service used them is inferred)."""


@dataclass(frozen=True)
class Source:
    """The files of a dictionary, and what they say."""

    name: str
    weights: Path
    labels: Path | None = None
    subtracts: bool | None = None
    says: Mapping[str, Any] = field(default_factory=dict)

    def known(self, weights: Weights) -> Mapping[str, Any]:
        """`name`, `model`, `layer`, `factor`, `activation`, as far as files or a published shape tell."""
        return self.says or PUBLISHED.get((weights.n_features, weights.d_model), {})


def find_source(named: str | Path) -> Source:
    """The files behind a name. Raises SteerError where there are none."""
    text = str(named)
    if text == DEMO:
        return _folder(DEMO_FOLDER)
    kind, colon, rest = text.partition(":")
    if colon and kind in ("saelens", "sparsify"):
        return _of_package(kind, rest)
    path = Path(text).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise SteerError(f"dictionary {text!r} is neither `{DEMO}`, nor a file, nor a folder; see docs/features.md")
    beside = [path.with_name(name) for name in (f"{path.stem}.labels.json", "labels.json")]
    return Source(path.stem, path, next((one for one in beside if one.is_file()), None))


def _folder(folder: Path) -> Source:
    if (folder / "dictionary.json").is_file():
        says = _object(folder / "dictionary.json")
        labels = folder / "labels.json"
        return Source(folder.name, folder / "dictionary.safetensors", labels if labels.is_file() else None, None, says)
    if (folder / "sae_weights.safetensors").is_file():
        return _saelens(folder)
    if (folder / "sae.safetensors").is_file():
        return _sparsify(folder)
    files = sorted(one for one in folder.iterdir() if one.suffix in (".pth", ".pt", ".safetensors"))
    if len(files) != 1:
        raise SteerError(f"{folder}: holds {len(files)} weight files and no dictionary.json; name the file itself")
    labels = folder / "labels.json"
    return Source(files[0].stem, files[0], labels if labels.is_file() else None)


def _saelens(folder: Path) -> Source:
    """A release of SAELens on disk: `cfg.json` beside `sae_weights.safetensors`."""
    config = _object(folder / "cfg.json")
    architecture = config.get("architecture", "standard")
    if architecture not in ("standard", "topk"):
        raise SteerError(f"{folder}: SAELens architecture {architecture!r} is not read; standard and topk are")
    held = config.get("metadata")
    metadata: Mapping[str, Any] = held if isinstance(held, dict) else {}
    hook = str(config.get("hook_name") or metadata.get("hook_name") or "")
    if config.get("normalize_activations", "none") not in (None, "none"):
        raise SteerError(f"{folder}: normalises activations, which isn't read; fold it into the weights first")
    says = {
        "name": folder.name,
        "model": config.get("model_name") or metadata.get("model_name"),
        "layer": _layer(hook, folder),
        "activation": f"topk:{config['k']}" if architecture == "topk" and "k" in config else None,
    }
    return Source(folder.name, folder / "sae_weights.safetensors", None, bool(config.get("apply_b_dec_to_input")), says)


def _sparsify(folder: Path) -> Source:
    """A folder of EleutherAI's sparsify, named after its hook point: `cfg.json` beside `sae.safetensors`."""
    config = _object(folder / "cfg.json")
    if config.get("transcode") or config.get("skip_connection"):
        raise SteerError(f"{folder}: a transcoder, which reads one place and writes another; give an autoencoder")
    if "k" not in config:
        raise SteerError(f"{folder}: cfg.json says no k; sparsify's autoencoders keep the k largest")
    says = {"name": folder.name, "layer": _layer(folder.name, folder), "activation": f"topk:{config['k']}"}
    return Source(folder.name, folder / "sae.safetensors", None, True, says)


def _layer(hook: str, folder: Path) -> int | None:
    """The block a hook name means: `blocks.N.hook_resid_post` and `layers.N` are its output."""
    if found := re.fullmatch(r"blocks\.(\d+)\.hook_resid_post|(?:model\.)?layers\.(\d+)", hook):
        return int(found[1] or found[2])
    if found := re.fullmatch(r"blocks\.([1-9]\d*)\.hook_resid_pre", hook):
        return int(found[1]) - 1  # what goes into a block is what came out of the one before
    if hook and re.match(r"blocks\.|(?:model\.)?layers\.", hook):
        raise SteerError(f"{folder}: hook point {hook!r} is not a block's output; only the residual stream is steered")
    return None


def _of_package(kind: str, rest: str) -> Source:
    folder = Path(rest).expanduser()
    if folder.is_dir():
        return _saelens(folder) if kind == "saelens" else _sparsify(folder)
    if kind == "saelens":
        release, slash, name = rest.rpartition("/")
        if not slash:
            raise SteerError(f"saelens:{rest}: write saelens:RELEASE/ID, or saelens:FOLDER")
        try:
            from sae_lens import SAE
        except ImportError as problem:
            raise SteerError(f"saelens:{rest} needs the package sae-lens: pip install sae-lens") from problem
        return _saved(SAE.from_pretrained(release, name), f"{release}-{name}".replace("/", "-"))
    try:
        from huggingface_hub import snapshot_download

        repository, hook = rest.rsplit("/", 1)
        return _sparsify(Path(snapshot_download(repository, allow_patterns=[f"{hook}/*"])) / hook)
    except (OSError, ValueError) as problem:
        raise SteerError(
            f"sparsify:{rest} was not found ({problem}); write sparsify:OWNER/NAME/HOOK, or sparsify:FOLDER"
        ) from problem


def _saved(loaded: Any, name: str) -> Source:
    """A loaded autoencoder of SAELens, saved to the cache in its own layout and read from there."""
    from model_adapters.cache import cache_folder

    folder = cache_folder("dictionaries") / name
    if not (folder / "sae_weights.safetensors").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        (loaded[0] if isinstance(loaded, tuple) else loaded).save_model(str(folder))
    return _saelens(folder)


def _object(path: Path) -> Mapping[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise SteerError(f"{path}: can't be read as JSON ({problem}); fetch the dictionary again") from problem
    if not isinstance(read, dict):
        raise SteerError(f"{path}: not a JSON object; fetch the dictionary again")
    return read

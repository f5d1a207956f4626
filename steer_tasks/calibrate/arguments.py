"""The options of `steer calibrate`, and how they are read. Light: everything else is imported when it runs."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_adapters.errors import SteerError
from steer_tasks.calibrate.outcomes import LOSSES
from steer_tasks.parameters import parameters
from steer_tasks.runner import add_runner_options

if TYPE_CHECKING:
    from model_adapters.features import Dictionary
    from steer_tasks.calibrate.sized import Method


class Once(argparse.Action):
    """An option that is given at most once; of two, argparse would drop the first without a word."""

    def __call__(
        self, parser: argparse.ArgumentParser, known: argparse.Namespace, value: Any, flag: Any = None
    ) -> None:
        """Keep the value. Ends with a usage error where there is one already."""
        if getattr(known, self.dest) is not None:
            parser.error(f"{flag} is given twice; give it once")
        setattr(known, self.dest, value)


def add_calibrate_options(one: argparse.ArgumentParser) -> None:
    """The options of `steer calibrate`."""
    one.add_argument("--model", required=True, help="`embedded`, a Hugging Face id, or a folder")
    one.add_argument("--method", action="append", required=True, help="a method's name; several with --match")
    behavior = "one: a slug, the study's text, a YAML file, or any other text"
    one.add_argument("--behavior", action=Once, help=behavior)
    parameter = "a parameter of the method, or METHOD.NAME=VALUE of one of several; not its size"
    one.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE", help=parameter)
    lost = ", ".join(f"{name} ({loss.unit}{', by --judge' if loss.is_judged else ''})" for name, loss in LOSSES.items())
    budget = f"largest losses against the unsteered model, such as margin:0.1,repeated:0.1; there are {lost}"
    one.add_argument("--budget", action=Once, metavar="NAME:NUMBER,…", help=budget)
    objective = "what is made large: behavior (needs --judge) or llr (default: behavior with a judge, llr without)"
    one.add_argument("--objective", action=Once, metavar="NAME", help=objective)
    judge = "an Inspect model that judges; never the one under test"
    one.add_argument("--judge", action=Once, metavar="PROVIDER/MODEL", help=judge)
    one.add_argument("--layers", action=Once, metavar="N,N", help="layers to search (default: the method's own)")
    sizes = "least and largest dose to try (default 0.05:1.6; of methods without a dose a factor, 0.125:4)"
    one.add_argument("--doses", action=Once, metavar="LOW:HIGH", help=sizes)
    match = "find the size whose KL equals a steering's, or a number of nats per token, instead; no budget then"
    one.add_argument("--match", action=Once, metavar="kl:FILE|kl=NUMBER", help=match)
    out = "the steering's file, its trace beside it; with several methods a folder (default: in the cache folder)"
    one.add_argument("--out", action=Once, help=out)
    one.add_argument("--questions", type=int, metavar="N", help="only N calibration questions, drawn by the seed")
    one.add_argument("--max-tokens", type=int, metavar="N", help="longest answer (default 2048)")
    one.add_argument("--seed", type=int, default=0, help="of the halves (default 0)")
    one.add_argument("--draw", type=int, default=0, help="seeds a method that samples (default 0)")
    one.add_argument("--dictionary", help="a feature dictionary for methods that need one: `demo`, a file, a folder")
    one.add_argument("--no-store", action="store_true", help="answer everything anew, and keep no answer")
    add_runner_options(one)


def named_methods(names: Sequence[str], pairs: Sequence[str]) -> list["Method"]:
    """The methods with their parameters: `name=value` goes to all of them, `METHOD.name=value` to one."""
    from model_adapters.methods import method_class
    from steer_tasks.calibrate.sized import Method

    if len(set(names)) < len(names):
        raise SteerError(f"--method {', '.join(names)}: a method is named twice")
    for name in names:
        method_class(name)
    given = parameters(pairs)
    for key in given:
        if (owner := key.partition(".")[0]) != key and owner not in names:
            raise SteerError(f"-p {key}: no --method is called {owner!r}")
    common = {key: value for key, value in given.items() if "." not in key}
    return [
        Method(
            name,
            common | {key.partition(".")[2]: given[key] for key in given if key.startswith(f"{name}.")},
        )
        for name in names
    ]


def whole_numbers(text: str | None) -> list[int]:
    """`10,14,18` as numbers."""
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise SteerError(f"--layers {text}: write whole numbers with commas between") from None


def sizes_of(text: str | None) -> tuple[float, float] | None:
    """`0.1:1.6` as the least and the largest size."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = 0.0
    if not 0 < low <= high < float("inf"):
        raise SteerError(f"--doses {text}: write LOW:HIGH, two finite numbers above 0, the smaller first")
    return low, high


def writable(text: str | None) -> Path | None:
    """Where a file is to go, its folder made; None where nothing is said. Raises SteerError where it can't go there."""
    if text is None:
        return None
    path = Path(text).expanduser().resolve()
    if path.is_dir():
        raise SteerError(f"--out {path} is a folder; name a file")
    path = path if path.suffix == ".json" else path.with_name(path.name + ".json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise SteerError(f"--out {path}: its folder can't be made ({problem.strerror}); choose another") from problem
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as problem:
        raise SteerError(f"--out {path}: its folder can't be written ({problem.strerror}); choose another") from problem
    return path


def check_one(given: argparse.Namespace) -> None:
    """Raise SteerError for several behaviors, and for a draw that is none, before anything is opened."""
    from model_adapters.behavior import behavior_slugs

    names = [part.strip() for part in (given.behavior or "").split(",")]
    if names == ["all"] or (len(names) > 1 and set(names) <= {*behavior_slugs(), ""}):
        raise SteerError(f"--behavior {given.behavior}: a calibration is of one behavior; run it once for each")
    if given.draw < 0:
        raise SteerError(f"--draw is {given.draw}; draws are whole numbers from 0")


def check_shape(given: argparse.Namespace, layers: Sequence[int]) -> None:
    """Raise Refused for layers that the model doesn't have, before its weights are loaded, or anything is asked."""
    from model_adapters.backends.local.loading import model_shape
    from model_adapters.errors import Refused
    from model_adapters.harnesses.served import known_shape

    if not layers:
        return
    shape = (model_shape if given.runner == "local" else known_shape)(given.model, given.revision)
    if shape is None:  # only the server knows, and says so when the method asks
        return
    if wrong := [layer for layer in layers if not 0 <= layer < shape[0]]:
        raise Refused(f"--layers: layer {wrong[0]} is out of range; {given.model} has layers 0 to {shape[0] - 1}")


def dictionary_of(name: str | None) -> "Dictionary | None":
    """The feature dictionary of that name."""
    from model_adapters.features import open_dictionary

    return open_dictionary(name) if name else None

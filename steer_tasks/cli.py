"""The `steer` command. Light: torch and the harnesses are imported only by the subcommand that needs them."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from model_adapters.errors import SteerError
from steer_tasks import listing
from steer_tasks.agreement import add_agreement_options, run_agreement
from steer_tasks.calibrate.arguments import add_calibrate_options
from steer_tasks.calibrate.command import calibrate
from steer_tasks.calibrate.unconfirmed import UNCONFIRMED, Unconfirmed
from steer_tasks.parameters import parameters
from steer_tasks.report import add_report_options, run_report
from steer_tasks.run import add_run_options, run
from steer_tasks.runner import add_runner_options, check_runner, open_model
from steer_tasks.serve import add_serve_options, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `steer …`; 0 when it worked, 2 with one line on stderr when what was asked can't be done.

    A calibration that ran and confirmed nothing gives 3, with its line.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["lm_eval"]:  # its options are the harness's own
        return run_lm_eval(words[1:])
    given = parser().parse_args(words)
    run: Callable[[argparse.Namespace], None] = given.run
    try:
        run(given)
        sys.stdout.flush()
    except BrokenPipeError:  # `steer behaviors | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SteerError as problem:
        print(f"steer: {problem}", file=sys.stderr)
        return 2
    except Unconfirmed as problem:
        print(f"steer: {problem}", file=sys.stderr)
        return UNCONFIRMED
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Steer a language model and measure it in lm-eval and Inspect."
    top = argparse.ArgumentParser(prog="steer", description=about)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], help_text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help_text, description=help_text)
        made.set_defaults(run=run)
        return made

    command("methods", lambda _: print(listing.methods_text()), "list the methods and their parameters")
    command("behaviors", lambda _: print(listing.behaviors_text()), "list the behaviors")
    one = command("prepare", _prepare, "find a steering once and store it")
    one.add_argument("method", help="a method's name; `steer methods` lists them")
    one.add_argument("--behavior", help="a slug, the study's text, a YAML file, or any other text")
    one.add_argument("--model", required=True, help="`embedded`, a Hugging Face id, or a folder")
    one.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE", help="a parameter")
    one.add_argument("--dictionary", help="a feature dictionary for methods that need one: `demo`, a file, a folder")
    one.add_argument("--draw", type=int, default=0, help="seeds a method that samples (default 0)")
    one.add_argument("--redraw", action="store_true", help="search again even where it was prepared before")
    add_runner_options(one)
    one.add_argument("--out", help="also write the steering to this .json file")
    one = command("show", _show, "print what a steering file holds")
    one.add_argument("file")
    one = command("spec", _spec, "print a steering as --extra-body for `inspect eval`")
    one.add_argument("file", help="a steering file, or `control`")
    add_serve_options(command("serve", serve, "serve a steered model over the Ember protocol"))
    add_run_options(command("run", run, "run a grid of arms, behaviors and models, and have it judged"))
    add_report_options(command("report", run_report, "write a report of logs: what each arm bought and what it cost"))
    about = "find the dose that a capability budget allows, or the doses of equal KL"
    add_calibrate_options(command("calibrate", calibrate, about))
    add_agreement_options(command("agreement", run_agreement, "print how far two judges agree"))
    one = command("doctor", _doctor, "print versions, what is registered, and what is missing")
    one.add_argument("--base-url", metavar="URL", help="a vLLM server to look at (default: VLLM_BASE_URL)")
    command("lm_eval", lambda _: None, "lm-eval's own command line with our models and tasks registered")
    return top


def _prepare(given: argparse.Namespace) -> None:
    from model_adapters.behavior import find_behavior
    from model_adapters.methods import build_method
    from model_adapters.preparation import prepare
    from model_adapters.steering_file import save_steering

    method = build_method(given.method, parameters(given.parameters))
    behavior = find_behavior(given.behavior) if given.behavior else None
    if given.draw < 0:
        raise SteerError(f"--draw is {given.draw}; draws are whole numbers from 0")
    check_runner(given)
    from model_adapters.features import open_dictionary

    dictionary = open_dictionary(given.dictionary) if given.dictionary else None
    backend = open_model(given)
    with asyncio.Runner() as loop:
        try:
            asked = {"draw": given.draw, "redraw": given.redraw, "dictionary": dictionary}
            prepared = loop.run(prepare(method, behavior, backend, **asked))
        finally:
            loop.run(backend.aclose())
    path = save_steering(prepared.steering, Path(given.out)) if given.out else prepared.path
    print(listing.steering_text(prepared.steering))
    print(f"file         {path}")


def _show(given: argparse.Namespace) -> None:
    from model_adapters.steering_file import load_steering

    print(listing.steering_text(load_steering(given.file)))


def _spec(given: argparse.Namespace) -> None:
    from model_adapters.steering import CONTROL
    from model_adapters.steering_file import load_steering

    steering = CONTROL if given.file == "control" else load_steering(given.file)
    file = str(Path(given.file).resolve()) if steering else None
    print(json.dumps({"steer": {"v": 1, "fingerprint": steering.fingerprint, "file": file}}))


def _doctor(given: argparse.Namespace) -> None:
    from steer_tasks.doctor import report

    print(report(given.base_url))


def run_lm_eval(words: Sequence[str]) -> int:
    """lm-eval's command line in this process, our models and tasks registered first."""
    import _steer_autoload

    _steer_autoload.install(always=True)
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm_eval", *words]
    cli_evaluate()
    return 0


if __name__ == "__main__":
    sys.exit(main())

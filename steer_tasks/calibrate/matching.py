"""`steer calibrate --match`: methods at equal KL. Imports scipy."""

import argparse
import asyncio
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from model_adapters.behavior import find_behavior
from model_adapters.errors import NotFinite, SteerError
from model_adapters.steering import Steering
from model_adapters.steering_file import load_steering, save_steering
from steer_tasks.calibrate.arguments import check_shape, dictionary_of, named_methods, sizes_of, whole_numbers, writable
from steer_tasks.calibrate.cost import Counted
from steer_tasks.calibrate.divergence import Spoken, check_distributions, control_answers, divergence
from steer_tasks.calibrate.match import Matched, Target, match_kl, parse_target
from steer_tasks.calibrate.opening import check_runner, opened
from steer_tasks.calibrate.plan import check_layers
from steer_tasks.calibrate.sized import RANGES, Method, Place, Sized, sized
from steer_tasks.calibrate.table import Use, match_table, show, use_line
from steer_tasks.calibrate.unconfirmed import Unconfirmed


def run_match(given: argparse.Namespace) -> None:
    """Find each method's size at the target's KL and write its steering.

    Raises SteerError for what can't be done, Unconfirmed where a KL comes no nearer than 1%.
    """
    refuse_beside_match(given)
    check_runner(given, needs_kl=True)
    target = parse_target(given.match)
    frozen = load_steering(Path(target.file).expanduser()) if target.file else None
    methods, layers = named_methods(given.method, given.parameters), whole_numbers(given.layers)
    if len(layers) > 1:
        raise SteerError("--layers: with --match give one layer, so that methods are compared at one place")
    for method in methods:
        check_layers(method, layers)
        method.built(*layers)
    behavior = find_behavior(given.behavior) if given.behavior else None
    files, sizes = output_files(given.out, methods), sizes_of(given.doses)
    check_shape(given, layers)
    place = Place(layers[0] if layers else None, given.draw, dictionary_of(given.dictionary))
    found = []
    with asyncio.Runner() as runner, opened(given, runner) as model:
        check_distributions(model.source)
        ready = [runner.run(sized(method, behavior, model.source, place)) for method in methods]
        for method, one in zip(methods, ready, strict=True):
            one.check((sizes or RANGES[method.size])[1])
        spoken = runner.run(control_answers(model))
        wanted = target_kl(runner, model, spoken, target, frozen)
        for method, one in zip(methods, ready, strict=True):
            matched = matched_to(runner, model, spoken, method, one, wanted, sizes)
            found.append((method, one, matched))
    report(found, files, given, target, wanted, model)


def refuse_beside_match(given: argparse.Namespace) -> None:
    """Raise SteerError for options that belong to a calibration under budgets."""
    beside = {"--budget": given.budget, "--objective": given.objective, "--judge": given.judge}
    beside |= {"--questions": given.questions, "--max-tokens": given.max_tokens}
    if extra := [name for name, value in beside.items() if value is not None]:
        raise SteerError(f"--match compares at equal KL, with no budget and no questions; leave {extra[0]} out")


def output_files(out: str | None, methods: Sequence[Method]) -> list[Path | None]:
    """A file for each method: the one that is named, or one in the folder that is named; None for the cache folder."""
    if out is None:
        return [None] * len(methods)
    if len(methods) == 1:
        return [writable(out)]
    folder = Path(out).expanduser()
    if folder.is_file() or folder.suffix == ".json":
        raise SteerError(f"--out {out}: with several methods name a folder")
    return [writable(str(folder / f"{method.name}.json")) for method in methods]


def target_kl(
    runner: "asyncio.Runner", model: Counted, spoken: Sequence[Spoken], target: Target, frozen: Steering | None
) -> float:
    """The KL to match, in nats per token."""
    if frozen is None:
        assert target.value is not None
        return target.value
    value = runner.run(divergence(model, frozen, spoken)).mean
    if value <= 0:
        raise SteerError(f"--match kl:{target.file}: this steering moves nothing, so there is no KL to match")
    return value


def matched_to(
    runner: "asyncio.Runner",
    model: Counted,
    spoken: Sequence[Spoken],
    method: Method,
    found: Sized,
    wanted: float,
    sizes: tuple[float, float] | None,
) -> Matched:
    """The size of one method, each trial said on stderr."""

    def kl_at(size: float) -> float:
        try:
            value = runner.run(divergence(model, found.at(size), spoken)).mean
        except NotFinite:
            value = math.inf
        print(f"{method.name}: {method.size} {size:.4g}, kl {value:.4g}", file=sys.stderr, flush=True)
        return value

    return match_kl(kl_at, wanted, *(sizes or RANGES[method.size]), method.name)


def report(
    found: Sequence[tuple[Method, Sized, Matched]],
    files: Sequence[Path | None],
    given: argparse.Namespace,
    target: Target,
    wanted: float,
    model: Counted,
) -> None:
    """Write the steerings and say what was found; the last two lines name a file and its use, for each method."""
    from model_adapters.preparation import store

    rows, lines = [], []
    for (method, one, matched), file in zip(found, files, strict=True):
        about = {"kl": matched.kl, "target": wanted, "file": target.file, "trials": matched.trials}
        steering = one.at(matched.size).described(matched=about)
        rows.append(
            [
                method.name,
                ",".join(map(str, one.layers)),
                f"{method.size} {matched.size:.4g}",
                f"{matched.kl:.4g}" + ("" if matched.is_near else " (not near)"),
                str(matched.trials),
                steering.fingerprint,
            ]
        )
        if matched.is_near:
            path = save_steering(steering, file) if file else store(steering)
            lines.append(f"{method.name}: {method.size} {matched.size:.4g}, kl {matched.kl:.4g}; {path}")
            lines.append(use_line(path, Use.of(given)))
    show(match_table(rows, wanted))
    print(f"cost: {sum(matched.trials for _, _, matched in found)} trials: {model.cost.text()}")
    print("\n".join(lines))
    if missed := [method.name for method, _, matched in found if not matched.is_near]:
        raise Unconfirmed(f"{', '.join(missed)}: KL comes no nearer than 1% of {wanted:.4g}; no steering is written")

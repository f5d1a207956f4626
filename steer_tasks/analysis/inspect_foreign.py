"""Somebody else's Inspect task, run on one of our providers: which arm its log is of. Imports inspect_ai."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inspect_ai.log import EvalLog

from model_adapters.errors import SteerError
from model_adapters.steering import CONTROL, SystemPrompt
from model_adapters.steering_file import load_steering
from steer_tasks.arms import FOUND


def foreign_metadata(path: Path, header: EvalLog, steer: Mapping[str, Any], remarks: dict[str, None]) -> dict[str, Any]:
    """What our own tasks say in their logs' metadata, from the report `steer` on one of its answers.

    Method, parameters and behavior are those that the steering's file names; where it is gone, a remark says so. Raises
    SteerError for a log without such a report.
    """
    task = header.eval.task.rpartition("/")[2]
    if not steer:
        raise SteerError(
            f"{path} is a log of the task {header.eval.task}, and no answer in it says how it was steered; run it on "
            "hook_steered, goodfire_steered or prompt_steered"
        )
    spec = steer.get("spec") or {}
    file = spec.get("file")
    is_control = steer.get("fingerprint") == CONTROL.fingerprint
    # A spec names a file for every steering but the control.
    arm = {"method": "control"} if is_control else _frozen(str(file), steer, remarks)
    about = {"fingerprint": steer.get("fingerprint"), "steering": file, **arm}
    return {"arm": about, "questions": {"name": task}, "protocol": {}}


def foreign_about(arm: Mapping[str, Any]) -> dict[str, Any]:
    """What our own tasks say in a sample's metadata."""
    frozen = arm.get("frozen") or {}
    behavior = frozen.get("behavior") or {}
    return {
        "behavior": behavior.get("slug"),
        **({"behavior_text": behavior["text"]} if behavior.get("text") else {}),
        "fingerprint": arm.get("fingerprint"),
        "steering": {"source_fingerprint": frozen.get("source_fingerprint"), "prompts": frozen.get("prompts")},
    }


def _frozen(file: str, steer: Mapping[str, Any], remarks: dict[str, None]) -> dict[str, Any]:
    """How the steering in a file was found, as `Arm.provenance` says it, with its behavior and prompts."""
    try:
        steering = load_steering(file)
    except SteerError as problem:
        remarks.setdefault(f"method and behavior are unknown: {problem}")
        return {}
    if steering.fingerprint != steer.get("fingerprint"):
        remarks.setdefault(f"method and behavior are unknown: {file} no longer holds the steering that ran")
        return {}
    behavior = steering.provenance.get("behavior")
    return {
        "frozen": {
            **{name: steering.provenance.get(name) for name in FOUND},
            "behavior": behavior if isinstance(behavior, dict) else None,
            "source_fingerprint": steering.provenance.get("source_fingerprint"),
            "prompts": [one.text for one in steering.interventions if isinstance(one, SystemPrompt)],
        }
    }

"""A trial of a study: train.py's job with some keys set, as a run of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from unsafe2safe.core.config.components import explain, nearest
from unsafe2safe.core.config.schema_sweep import Parameter
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.core.ledger import fingerprint, flatten, read_run, result_keys
from unsafe2safe.jobs.common import plain
from unsafe2safe.jobs.sweep_front import Point
from unsafe2safe.jobs.train import NEVER_CHANGES_RESULT

# Of a task that looks at held-out scenes by itself: privacy is what is no longer found.
_LEAKED, _KEPT = "leaked/mean", "outside/ssim"


def check_parameters(config: Train) -> None:
    """Refuse axes that are no keys of ``config``, or that change no result.

    Raises:
        ConfigError: names the axis, and the nearest right key.
    """
    content = plain(config)
    known = flatten(content)
    counting = result_keys(content, NEVER_CHANGES_RESULT)
    owners: dict[str, str] = {}
    for name, parameter in config.sweep.parameters.items():
        for key in parameter.keys:
            where = f"sweep.parameters.{name}.keys"
            if key not in known:
                raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, known)}")
            if key not in counting and key != "trainer.batch_size":
                raise ConfigError(f"{where}: {key} changes no result of a training")
            if key in owners:
                raise ConfigError(f"{where}: {key} is set by {owners[key]} already")
            owners[key] = name


def values_of_keys(
    parameters: Mapping[str, Parameter], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """Each key's value, of the value ``chosen`` for each axis."""
    return {key: chosen[name] for name, axis in parameters.items() for key in axis.keys}


def default_values(config: Train) -> dict[str, Any]:
    """What ``config`` itself has for each key of an axis."""
    known = flatten(plain(config))
    return {key: known[key] for axis in config.sweep.parameters.values() for key in axis.keys}


def trial_name(values: Mapping[str, Any]) -> str:
    """Of the folder of the trial with ``values``: equal ones have one run."""
    # 16 and 16.0 are one value of a key, whichever an axis or a default writes
    return fingerprint({k: float(v) if type(v) is int else v for k, v in values.items()})


def trial_config(
    config: Train, values: Mapping[str, Any], folder: Path, inputs: Mapping[str, Path]
) -> Train:
    """``config`` with ``values``, as one training in ``folder`` on ``inputs``.

    Raises:
        ConfigError: a value does not fit its key.
    """
    content = plain(config)
    fixed = {"mode": "run", "output_dir": str(folder), "existing": "resume"}
    # the newest complete run may be another one by the time of a later trial
    found = {key: str(path) for key, path in inputs.items()}
    for key, value in {**found, **fixed, **values}.items():
        *sections, last = key.split(".")
        owner = content
        for section in sections:
            owner = owner[section]
        owner[last] = value
    try:
        return Train.model_validate(content)
    except ValidationError as error:
        raise explain(error, "", Train.model_fields) from None


def read_points(run: Path) -> list[Point]:
    """What the finished training in ``run`` is worth: the points of its last validation, or where
    its task looks at held-out scenes by itself, that one.

    Raises:
        UsageError: it has neither.
    """
    validations = sorted((run / "validation").glob("step-*.json"))
    if validations:
        return _validated(validations[-1])
    held_out = cast(dict[str, float], (read_run(run) or {}).get("held_out") or {})
    if _LEAKED in held_out and _KEPT in held_out:
        return [Point(1.0 - held_out[_LEAKED], held_out[_KEPT], {}, held_out)]
    raise UsageError(
        f"{run} tells neither privacy nor fidelity: give validation.every, so that each trial is "
        "validated"
    )


def _validated(path: Path) -> list[Point]:
    try:
        points = [
            Point(
                float(point["privacy"]),
                float(point["fidelity"]),
                point.get("guidance") or {},
                point.get("metrics") or {},
            )
            for point in json.loads(path.read_text("utf-8"))["points"]
            if point.get("privacy") is not None and point.get("fidelity") is not None
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} cannot be read ({type(error).__name__}: {error})") from None
    if not points:
        raise UsageError(f"{path} holds no point that has both privacy and fidelity")
    return points

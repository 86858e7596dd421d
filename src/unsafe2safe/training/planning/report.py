"""A plan as JSON and as a table to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.training.planning.advice import advise
from unsafe2safe.training.planning.estimate import (
    GIB,
    Planner,
    Settings,
    parameters_of,
)
from unsafe2safe.training.planning.gpus import Gpu

SCHEMA = "unsafe2safe.plan.1"
_ASSUMED = {"utilization", "context_gib", "fragmentation"}


def plan_of(
    planner: Planner, settings: Settings, config: Train, gpus: Sequence[Gpu], samples: int | None
) -> dict[str, Any]:
    """All figures of a plan; bytes, operations and seconds as plain numbers."""
    planned = planner.planned
    other = {
        ("with" if on else "without"): planner.step(_checkpointed(settings, on)).peak_bytes
        for on in (False, True)
    }
    per_sample = planner.cache_bytes_per_sample(settings)
    return {
        "schema": SCHEMA,
        "model": planned.model.name,
        "editor": str(config.editor["name"]),
        "trainable": planned.trainable,
        "settings": asdict(settings),
        "assumed": config.plan.model_dump(mode="json", include=_ASSUMED),
        "samples_per_step": settings.samples_per_step,
        "parameters": dict(parameters_of(planner)),
        "memory_per_gpu_bytes": {
            **planner.memory(settings),
            "total": planner.total(settings),
        },
        "activation_bytes_by_checkpointing": other,
        "flops_per_step_per_gpu": planner.flops_per_step(settings),
        "max_steps": config.trainer.max_steps,
        "cache_bytes": {
            "per_sample": per_sample,
            "samples": samples,
            "total": per_sample * samples if samples is not None else None,
        },
        "gpus": {gpu.name: _on(planner, settings, gpu, config) for gpu in gpus},
    }


def _checkpointed(settings: Settings, on: bool) -> Settings:
    return replace(settings, gradient_checkpointing=on)


def _on(planner: Planner, settings: Settings, gpu: Gpu, config: Train) -> dict[str, Any]:
    seconds = planner.seconds_per_step(settings, gpu)
    fits = planner.fits(settings, gpu)
    return {
        "memory_gib": gpu.memory_gib,
        "fits": fits,
        "seconds_per_step": seconds,
        "seconds": seconds * config.trainer.max_steps,
        "advice": None if fits else _advice(planner, settings, gpu),
    }


def _advice(planner: Planner, settings: Settings, gpu: Gpu) -> dict[str, Any]:
    found = advise(planner, settings, gpu)
    if found is None:
        return {"suffices": False, "overrides": []}
    return {
        "suffices": True,
        "overrides": list(found.overrides),
        "total_bytes": planner.total(found.settings),
        "seconds_per_step": planner.seconds_per_step(found.settings, gpu),
    }


def table(plan: dict[str, Any]) -> str:
    """The plan as lines of text."""
    return "\n".join(_lines(plan))


def _lines(plan: dict[str, Any]) -> Iterator[str]:
    settings = plan["settings"]
    yield f"Plan of {plan['model']} ({plan['trainable']}), {_told(settings, plan)}"
    yield ""
    yield _row("parameters", "trained", "frozen")
    for name, counts in plan["parameters"].items():
        yield _row(name, _count(counts["trained"]), _count(counts["frozen"]))
    yield ""
    yield _row("memory per GPU", "GiB")
    for name, size in plan["memory_per_gpu_bytes"].items():
        yield _row(name, _gib(size))
    kept = plan["activation_bytes_by_checkpointing"]
    yield (
        f"(activations without gradient checkpointing {_gib(kept['without'])} GiB, "
        f"with it {_gib(kept['with'])} GiB)"
    )
    yield ""
    yield f"{plan['flops_per_step_per_gpu'] / 1e12:,.4g} TFLOP per optimizer step and GPU"
    yield _cache_line(plan["cache_bytes"])
    yield ""
    share = plan["assumed"]["utilization"]
    yield _row(f"at {share:.0%} of peak", "GiB", "s/step", f"{plan['max_steps']:,} steps", "fits")
    for name, on in plan["gpus"].items():
        fits = "yes" if on["fits"] else "no"
        times = _short(on["seconds_per_step"]), _duration(on["seconds"])
        yield _row(name, f"{on['memory_gib']:.1f}", *times, fits)
        if on["advice"]:
            yield f"    {_advice_line(on['advice'])}"


def _told(settings: dict[str, Any], plan: dict[str, Any]) -> str:
    parts = [
        f"{settings['resolution']} px",
        f"batch {settings['batch_size']}",
        f"x {settings['accumulate']} accumulated" if settings["accumulate"] > 1 else "",
        f"on {settings['devices']} GPU" + ("s" if settings["devices"] > 1 else ""),
        f"({settings['sharding']}, {plan['samples_per_step']} samples per step)"
        if settings["devices"] > 1
        else "",
    ]
    numbers = f"weights {settings['weights']}, precision {settings['precision']}"
    checkpointed = "on" if settings["gradient_checkpointing"] else "off"
    cache = "on" if settings["cache"] else "off"
    first = " ".join(part for part in parts if part)
    return f"{first}; {numbers}, gradient checkpointing {checkpointed}, cache {cache}"


def _cache_line(cache: dict[str, Any]) -> str:
    line = f"{cache['per_sample'] / 2**20:,.3g} MiB of cache per pair"
    if cache["samples"] is None:
        return f"{line} (plan.samples=... for a whole data set)"
    return f"{line}, {cache['total'] / GIB:,.3g} GiB for {cache['samples']:,} pairs"


def _advice_line(advice: dict[str, Any]) -> str:
    if not advice["suffices"]:
        return "nothing that we know to change makes it fit"
    told = " ".join(advice["overrides"])
    size, seconds = _gib(advice["total_bytes"]), _short(advice["seconds_per_step"])
    return f"would fit with {told}: {size} GiB, {seconds} s/step"


def _row(first: str, *rest: str) -> str:
    return f"{first:<22}" + "".join(f"{text:>16}" for text in rest)


def _gib(size: float) -> str:
    return _short(size / GIB)


def _short(value: float) -> str:
    return f"{value:,.3g}"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _count(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)

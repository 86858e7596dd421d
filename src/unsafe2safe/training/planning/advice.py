"""What to change where a training does not fit, gentlest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from unsafe2safe.training.planning.estimate import Planner, Settings
from unsafe2safe.training.planning.gpus import Gpu

_LEAST_RESOLUTION = 256
_Change = tuple[Settings, str]
Remedy = Callable[[Settings, Planner], Iterator[_Change]]


@dataclass(frozen=True)
class Advice:
    """Overrides that make a training fit, and what it then takes."""

    overrides: tuple[str, ...]
    settings: Settings


def advise(planner: Planner, settings: Settings, gpu: Gpu) -> Advice | None:
    """The first remedy that suffices alone; else the fewest that suffice together, taken in their
    order; None where all of them do not.

    The order is from what changes nothing in the result to what changes most.
    """
    for remedy in REMEDIES:
        for changed, told in remedy(settings, planner):
            if planner.fits(changed, gpu):
                return Advice((told,), changed)
    now, overrides = settings, tuple[str, ...]()
    for remedy in REMEDIES:
        tried = list[_Change]()
        for change in remedy(now, planner):
            tried.append(change)
            if planner.fits(change[0], gpu):
                return Advice((*overrides, change[1]), change[0])
        if tried:  # the most that this remedy can do
            now, overrides = tried[-1][0], (*overrides, tried[-1][1])
    return None


def _checkpointing(settings: Settings, _planner: Planner) -> Iterator[_Change]:
    if not settings.gradient_checkpointing:
        changed = replace(settings, gradient_checkpointing=True)
        yield changed, "trainer.gradient_checkpointing=true"


def _smaller_batch(settings: Settings, _planner: Planner) -> Iterator[_Change]:
    """Ever smaller batches, as many samples in each optimizer step."""
    for batch_size in range(settings.batch_size - 1, 0, -1):
        if settings.batch_size % batch_size == 0:
            accumulate = settings.accumulate * settings.batch_size // batch_size
            changed = replace(settings, batch_size=batch_size, accumulate=accumulate)
            yield changed, f"trainer.batch_size={batch_size} trainer.accumulate={accumulate}"


def _cache(settings: Settings, _planner: Planner) -> Iterator[_Change]:
    if not settings.cache:
        yield replace(settings, cache=True), "plan.cache=true"


def _bf16(settings: Settings, _planner: Planner) -> Iterator[_Change]:
    if settings.precision == "32-true" or settings.weights == "fp32":
        weights = "bf16" if settings.weights == "fp32" else settings.weights
        precision = "bf16-mixed" if settings.precision == "32-true" else settings.precision
        changed = replace(settings, weights=weights, precision=precision)
        yield changed, f"plan.weights={weights} trainer.precision={precision}"


def _fsdp(settings: Settings, _planner: Planner) -> Iterator[_Change]:
    sharded = settings.sharding == "fsdp"
    if not sharded and settings.devices > 1 and settings.weights in ("fp32", "bf16"):
        yield replace(settings, sharding="fsdp"), "trainer.strategy=fsdp"


def _nf4(settings: Settings, planner: Planner) -> Iterator[_Change]:
    if settings.weights != "nf4" and planner.planned.trainable != "full":
        changed = replace(settings, weights="nf4", sharding="ddp")
        told = "plan.weights=nf4" + (" trainer.strategy=ddp" if settings.sharding == "fsdp" else "")
        yield changed, told


def _lower_resolution(settings: Settings, _planner: Planner) -> Iterator[_Change]:
    resolution = settings.resolution // 2
    while resolution >= _LEAST_RESOLUTION:
        yield replace(settings, resolution=resolution), f"plan.resolution={resolution}"
        resolution //= 2


REMEDIES: tuple[Remedy, ...] = (
    _checkpointing,
    _smaller_batch,
    _cache,
    _bf16,
    _fsdp,
    _nf4,
    _lower_resolution,
)

"""Figures as the report tells them: rounded, with their interval, counts and floor of chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.results import Definition, RowResult
from unsafe2safe.metrics.base import Direction

_SAME = 5e-4  # figures this close are told as equal
_SMALL = 0.1  # scales end at 1, but for figures that all stay below this
_NEAR_ONE = 1.05  # or, with an end of an interval, reach a little beyond
# Details that are drawn or told in words; others are listed by name.
_TOLD = {"chance", "chance_low", "chance_high", "half_width", "measurable"}


@dataclass(frozen=True)
class Cell:
    """A figure as told, with ``notes`` below it and further ``details`` on demand.

    ``bar``, ``low``, ``high`` and ``chance`` are places on its scale in percent; where ``drawn``
    is False there is nothing to draw.
    """

    value: str
    interval: str = ""
    counts: str = ""
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    best: bool = False
    drawn: bool = False
    bar: float = 0.0
    low: float = 0.0
    high: float = 0.0
    chance: float | None = None

    @property
    def spread(self) -> float:
        """Width of the interval, wide enough to be seen."""
        return round(max(self.high - self.low, 0.8), 2)


def row_of_cells(
    definition: Definition, rows: Sequence[RowResult], results: Sequence[MetricResult]
) -> tuple[Cell, ...]:
    """One metric's cells, one per row, on one scale, the best ones marked."""
    kinds = [row.kind == "reference" for row in rows]
    best = best_of(definition.direction, results, kinds)
    full = full_scale(results)
    return tuple(
        make_cell(result, definition.unit, full, best=index in best)
        for index, result in enumerate(results)
    )


def best_of(
    direction: Direction, results: Sequence[MetricResult], is_reference: Sequence[bool]
) -> set[int]:
    """Indices of the best among what is no reference; none where all of it is the same."""
    values = {
        index: result.value
        for index, (result, reference) in enumerate(zip(results, is_reference, strict=True))
        if not reference and result.value is not None and measurable(result)
    }
    if len(values) < 2 or direction == "none":
        return set()
    top = max(values.values()) if direction == "up" else min(values.values())
    best = {index for index, value in values.items() if abs(value - top) < _SAME}
    return best if len(best) < len(values) else set()


def measurable(result: MetricResult) -> bool:
    """Whether the set is large enough for this figure: an attacker's says so itself."""
    return result.details.get("measurable") != 0


def full_scale(results: Sequence[MetricResult]) -> float:
    """Where the scale ends that the bars of ``results`` share; it begins at 0."""
    numbers = [abs(result.value) for result in results if result.value is not None]
    numbers += [abs(end) for result in results for end in (result.interval or ())]
    most = max(numbers, default=1.0)
    if _SMALL < most <= _NEAR_ONE:
        return 1.0
    if most <= 0.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= most)


def make_cell(result: MetricResult, unit: str, full: float, *, best: bool = False) -> Cell:
    if result.unavailable:
        return Cell("not available", notes=(result.unavailable,))
    counts = _counts(result, unit)
    if result.value is None:
        return Cell("none", counts=counts)
    if not measurable(result):
        told = f"estimate {number(result.value)}"
        if result.interval:
            told += f" ({number(result.interval[0])} to {number(result.interval[1])})"
        why = "interval half-width above 5 points"
        return Cell("not measurable", why, counts, (told, *_notes(result)), _details(result))
    low, high = result.interval or (result.value, result.value)
    chance = result.details.get("chance")
    return Cell(
        value=number(result.value),
        interval=_interval(result),
        counts=counts,
        notes=_notes(result),
        details=_details(result),
        best=best,
        drawn=True,
        bar=_percent(result.value, full),
        low=_percent(low, full),
        high=_percent(high, full),
        chance=None if chance is None else _percent(chance, full),
    )


def _counts(result: MetricResult, unit: str) -> str:
    counts = [f"{result.n:,} {unit}{'' if result.n == 1 else 's'}"]
    if result.n_missing:
        counts.append(f"{result.n_missing:,} missing")
    if result.n_not_applicable:
        counts.append(f"{result.n_not_applicable:,} n/a")
    return ", ".join(counts)


def _notes(result: MetricResult) -> tuple[str, ...]:
    """The floor of chance, in words."""
    details, notes = result.details, []
    if "chance" in details:
        told = f"chance {number(details['chance'])}"
        if "chance_high" in details:
            told += f" (to {number(details['chance_high'])})"
        notes.append(told)
    return tuple(notes)


def _details(result: MetricResult) -> tuple[str, ...]:
    """What else belongs to a figure, by name."""
    return tuple(
        f"{name.replace('_', ' ')}: {value:.4g}"
        for name, value in result.details.items()
        if name not in _TOLD
    )


def _interval(result: MetricResult) -> str:
    """In words where resampling says nothing: a single image, or the same value everywhere."""
    if result.interval is None:
        return "no interval"
    low, high = result.interval
    return "no spread" if low == high else f"{number(low)} to {number(high)}"


def number(value: float) -> str:
    """Three decimals, or fewer where they would say nothing."""
    if not math.isfinite(value):
        return "none"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.0e}" if 0 < abs(value) < 0.00095 else f"{value:.3f}"


def _percent(value: float, full: float) -> float:
    return round(100.0 * min(max(value / full, 0.0), 1.0), 2)

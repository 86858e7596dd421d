"""Points of privacy and fidelity, the front among them, and what it says of the defaults.

Both objectives are shares of 1 and the higher the better.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unsafe2safe.metrics import tradeoff

DEFAULTS = "defaults"


@dataclass(frozen=True)
class Point:
    """What one trained adapter is worth at one guidance."""

    privacy: float
    fidelity: float
    guidance: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def dominates(self, other: Point) -> bool:
        """At least as good in both objectives and better in one."""
        return (
            self.privacy >= other.privacy
            and self.fidelity >= other.fidelity
            and (self.privacy > other.privacy or self.fidelity > other.fidelity)
        )


@dataclass(frozen=True)
class Row:
    """A point with the run that it is of."""

    trial: str  # its number, or DEFAULTS
    run: str  # its folder's name
    parameters: Mapping[str, Any]
    point: Point
    told: bool  # whether it stood for its trial before the sampler


def front(points: Iterable[Point]) -> list[Point]:
    """The points that none of the others dominates, from the most private on."""
    kept = list(points)
    best = [point for point in kept if not any(other.dominates(point) for other in kept)]
    return sorted(best, key=lambda point: (-point.privacy, -point.fidelity))


def hypervolume(points: Iterable[Point]) -> float:
    """Share of the unit square that is dominated by one of ``points``."""
    return tradeoff.hypervolume(tradeoff.Tradeoff(p.privacy, p.fidelity, 0) for p in points)


def stands_for(points: Sequence[Point], earlier: Sequence[Point]) -> int:
    """Which of a trial's ``points`` the sampler is told: the one that adds most hypervolume to the
    ``earlier`` ones, and where none adds any, or two add the same, the one with the greatest
    product of both objectives."""
    before = hypervolume(earlier)

    def worth(index: int) -> tuple[float, float]:
        point = points[index]
        gain = hypervolume([*earlier, point]) - before
        return round(gain, 12), point.privacy * point.fidelity

    return max(range(len(points)), key=worth)


def own_point(points: Sequence[Point], settings: Mapping[str, Any]) -> Point:
    """The one of an adapter's ``points`` at the guidance of the editor's own ``settings``; where
    none is, the one with the greatest product of both objectives."""
    own = [p for p in points if all(settings.get(k) == v for k, v in p.guidance.items())]
    return max(own or points, key=lambda point: point.privacy * point.fidelity)


def verdict(rows: Sequence[Row], defaults: Point) -> str:
    """Whether a point of ``rows`` dominates that of the defaults, in words."""
    told = f"the defaults' point (privacy {defaults.privacy:.3f}, fidelity {defaults.fidelity:.3f})"
    better = [row for row in rows if row.point.dominates(defaults)]
    if not better:
        return f"no point dominates {told}"
    best = max(better, key=lambda row: hypervolume([row.point]))
    which = "the defaults at another guidance" if best.trial == DEFAULTS else f"trial {best.trial}"
    return (
        f"the front dominates {told}: {which} has privacy {best.point.privacy:.3f}, "
        f"fidelity {best.point.fidelity:.3f}"
    )


def as_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str | float | bool | None]]]:
    """Columns and cells: parameters, guidance, both objectives, and whether it is on the front."""
    parameters = sorted({name for row in rows for name in row.parameters})
    guidance = sorted({name for row in rows for name in row.point.guidance})
    on_front = {id(point) for point in front(row.point for row in rows)}
    columns = ["trial", "run", *parameters, *guidance, "privacy", "fidelity", "front", "told"]
    cells = [
        [
            row.trial,
            row.run,
            *(row.parameters.get(name) for name in parameters),
            *(row.point.guidance.get(name) for name in guidance),
            row.point.privacy,
            row.point.fidelity,
            id(row.point) in on_front,
            row.told,
        ]
        for row in rows
    ]
    return columns, cells


def as_csv(rows: Sequence[Row]) -> str:
    columns, cells = as_table(rows)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *cells])
    return text.getvalue()


def as_json(rows: Sequence[Row], defaults: Point) -> dict[str, Any]:
    columns, cells = as_table(rows)
    points = [
        {**dict(zip(columns, line, strict=True)), "metrics": dict(row.point.metrics)}
        for row, line in zip(rows, cells, strict=True)
    ]
    return {
        "points": points,
        "hypervolume": hypervolume(row.point for row in rows),
        "defaults": {
            "privacy": defaults.privacy,
            "fidelity": defaults.fidelity,
            "dominated": any(row.point.dominates(defaults) for row in rows),
        },
        "verdict": verdict(rows, defaults),
    }

"""Privacy against fidelity, as coordinates that the template draws as SVG."""

from __future__ import annotations

from dataclasses import dataclass

from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.results import Evaluation

WIDTH, HEIGHT = 460, 350
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 10.0, 10.0, 46.0
_ROOM = 0.05
_MASKS, _SCENES = "ssim_outside", "outside_ssim"
_PRIVACY = (
    ("face_sim", _MASKS, "Faces", "unlike the original face (1 - FaceSim)"),
    ("text_leak_recall", _MASKS, "Text", "no longer readable (1 - text read back)"),
    ("leaked", _SCENES, "Attributes", "no longer found (1 - leaked)"),
    ("leaked_letters", _SCENES, "Letters", "no longer read (1 - leaked letters)"),
)


@dataclass(frozen=True)
class Point:
    """One row; all in SVG units. The bars are the ends of its intervals."""

    index: int
    name: str
    title: str
    kind: str
    x: float
    y: float
    x_bar: tuple[float, float] | None
    y_bar: tuple[float, float] | None
    told: str


@dataclass(frozen=True)
class Tick:
    place: float
    label: str


@dataclass(frozen=True)
class Panel:
    title: str
    y_label: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


def panels(evaluation: Evaluation) -> list[Panel]:
    """A panel for each privacy measure of which at least one row has a value."""
    found = []
    for name, fidelity, title, y_label in _PRIVACY:
        points = tuple(
            point
            for index, row in enumerate(evaluation.rows)
            if (point := _point(index, evaluation, name, fidelity)) is not None
        )
        if points:
            steps = [i / 4 for i in range(5)]
            found.append(
                Panel(
                    title=title,
                    y_label=y_label,
                    x_label="kept outside what is private (SSIM)",
                    x_ticks=tuple(Tick(_x(step), f"{step:.2f}") for step in steps),
                    y_ticks=tuple(Tick(_y(step), f"{step:.2f}") for step in steps),
                    points=points,
                )
            )
    return found


def _point(index: int, evaluation: Evaluation, privacy: str, fidelity: str) -> Point | None:
    row = evaluation.rows[index]
    across, up = row.metrics.get(fidelity), row.metrics.get(privacy)
    if across is None or up is None or across.value is None or up.value is None:
        return None
    leak = up.interval
    return Point(
        index=index,
        name=row.name,
        title=row.title,
        kind=row.kind,
        x=_x(across.value),
        y=_y(1.0 - up.value),
        x_bar=_bar(across),
        y_bar=(_y(1.0 - leak[0]), _y(1.0 - leak[1])) if leak else None,
        told=f"{row.title}: privacy {1.0 - up.value:.3f}, fidelity {across.value:.3f}",
    )


def _bar(result: MetricResult) -> tuple[float, float] | None:
    return (_x(result.interval[0]), _x(result.interval[1])) if result.interval else None


def _x(value: float) -> float:
    return round(_LEFT + _share(value) * (WIDTH - _LEFT - _RIGHT), 2)


def _y(value: float) -> float:
    return round(_TOP + (1.0 - _share(value)) * (HEIGHT - _TOP - _BOTTOM), 2)


def _share(value: float) -> float:
    """Where ``value`` of [0, 1] lies along an axis, with room for the points at its ends."""
    return (min(max(value, 0.0), 1.0) + _ROOM) / (1.0 + 2.0 * _ROOM)

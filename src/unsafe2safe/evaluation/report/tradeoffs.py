"""Privacy against fidelity: points of all rows, the Pareto front among them, its hypervolume."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.report.cells import measurable
from unsafe2safe.evaluation.report.palette import PALETTE, series
from unsafe2safe.evaluation.report.tables import headline_metrics
from unsafe2safe.evaluation.results import Definition, Evaluation
from unsafe2safe.metrics.tradeoff import Tradeoff, hypervolume, pareto_front

# What a picture is worth beside its private parts, the first measured ones.
_FIDELITY = ("ssim_outside", "outside_ssim", "st_lpips_outside", "clip_similarity", "kept_equal")
_MOST_FIDELITIES, _MOST = 2, 12
_ROOM, _LEAST_ROOM = 0.045, 0.02
_FONT = 'Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif'


@dataclass(frozen=True)
class Point:
    """One row; both figures in [0, 1] and the higher the better, with their intervals."""

    index: int
    title: str
    kind: str
    privacy: float
    fidelity: float
    privacy_ends: tuple[float, float]
    fidelity_ends: tuple[float, float]
    on_front: bool


@dataclass(frozen=True)
class Plane:
    """A measure of privacy against one of fidelity."""

    key: str
    privacy: Definition
    fidelity: Definition
    points: tuple[Point, ...]
    front: tuple[Tradeoff, ...]
    hypervolume: float

    @property
    def privacy_label(self) -> str:
        return _label(self.privacy)

    @property
    def fidelity_label(self) -> str:
        return _label(self.fidelity)

    @property
    def told(self) -> str:
        """The drawing in words."""
        points = "; ".join(
            f"{p.title}: privacy {p.privacy:.3f}, fidelity {p.fidelity:.3f}"
            + (" (on the Pareto front)" if p.on_front else "")
            for p in self.points
        )
        return f"{self.privacy_label} against {self.fidelity_label}. {points}."


def _label(definition: Definition) -> str:
    return f"1 - {definition.title}" if definition.direction == "down" else definition.title


def planes(evaluation: Evaluation, wanted: Sequence[str] = ()) -> list[Plane]:
    """A plane for each measure of privacy, those of the headline first, and each of fidelity."""
    named = {item.name: item for item in evaluation.definitions}
    first = [item.name for item in headline_metrics(evaluation, wanted)]
    private = [
        item
        for item in evaluation.definitions
        if item.group == "privacy" and _is_share(evaluation, item)
    ]
    private.sort(key=lambda item: first.index(item.name) if item.name in first else len(first))
    faithful = [
        named[name] for name in _FIDELITY if name in named and _is_share(evaluation, named[name])
    ]
    if not faithful:
        quality = (item for item in evaluation.definitions if item.group == "quality")
        faithful = [item for item in quality if _is_share(evaluation, item)]
    found = [
        plane
        for fidelity in faithful[:_MOST_FIDELITIES]
        for privacy in private
        if (plane := _plane(evaluation, privacy, fidelity)) is not None
    ]
    return found[:_MOST]


def _is_share(evaluation: Evaluation, definition: Definition) -> bool:
    """Whether one way is better and all values lie in [0, 1], a similarity's a little below."""
    values = [row.metrics[definition.name].value for row in evaluation.rows]
    found = [value for value in values if value is not None]
    judged = definition.direction != "none"
    return judged and bool(found) and all(-1.0 <= v <= 1.0 + 1e-9 for v in found)


def _plane(evaluation: Evaluation, privacy: Definition, fidelity: Definition) -> Plane | None:
    points = []
    for index, row in enumerate(evaluation.rows):
        up, across = row.metrics[privacy.name], row.metrics[fidelity.name]
        if up.value is None or across.value is None or not (measurable(up) and measurable(across)):
            continue
        points.append((index, row, _oriented(privacy, up), _oriented(fidelity, across)))
    if not points:
        return None
    own = [
        Tradeoff(up[0], across[0], index)
        for index, row, up, across in points
        if row.kind != "reference"
    ]
    front = pareto_front(own)
    on_front = {(point.privacy, point.fidelity) for point in front}
    return Plane(
        key=f"{privacy.name}.{fidelity.name}",
        privacy=privacy,
        fidelity=fidelity,
        points=tuple(
            Point(
                index=index,
                title=row.title,
                kind=row.kind,
                privacy=up[0],
                fidelity=across[0],
                privacy_ends=up[1],
                fidelity_ends=across[1],
                on_front=row.kind != "reference" and (up[0], across[0]) in on_front,
            )
            for index, row, up, across in points
        ),
        front=tuple(front),
        hypervolume=hypervolume(own),
    )


def _oriented(definition: Definition, result: MetricResult) -> tuple[float, tuple[float, float]]:
    """Value and interval in [0, 1], the higher the better."""
    assert result.value is not None
    low, high = result.interval or (result.value, result.value)
    if definition.direction == "down":
        return _share(1.0 - result.value), (_share(1.0 - high), _share(1.0 - low))
    return _share(result.value), (_share(low), _share(high))


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def figure(plane: Plane) -> dict[str, Any]:
    """The plane as a Plotly figure (``data`` and ``layout``), in the palette's light colours."""
    import plotly.graph_objects as go

    drawing = go.Figure()
    if plane.front:
        across, up = _stairs(plane.front)
        fill = {"fill": "toself", "fillcolor": _light("area"), "hoverinfo": "skip"}
        drawing.add_scatter(
            x=[0.0, *across, across[-1], 0.0],
            y=[up[0], *up, 0.0, 0.0],
            mode="lines",
            line={"width": 0},
            **fill,
        )
        drawing.add_scatter(
            x=[0.0, *across, across[-1]],
            y=[up[0], *up, 0.0],
            mode="lines",
            line={"color": _light("accent"), "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )
    for point in sorted(plane.points, key=lambda point: point.kind != "reference"):
        drawing.add_trace(_mark(point))  # the compared ones on top
    drawing.update_layout(_layout(plane))
    content: dict[str, Any] = json.loads(drawing.to_json())
    content["layout"].pop("template", None)
    return content


def close_up(plane: Plane) -> dict[str, list[float]] | None:
    """Ranges of both axes that hold the compared rows with their intervals, and a little more."""
    own = [point for point in plane.points if point.kind != "reference"]
    if not own:
        return None
    return {
        "x": _around([end for point in own for end in point.fidelity_ends]),
        "y": _around([end for point in own for end in point.privacy_ends]),
    }


def _around(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    room = max(0.12 * (high - low), _LEAST_ROOM)
    ends = (max(low - room, -_LEAST_ROOM / 2), min(high + room, 1.0 + _LEAST_ROOM / 2))
    return [round(end, 4) for end in ends]


def _mark(point: Point) -> Any:
    import plotly.graph_objects as go

    colour = light(point.index, point.kind)
    bar = {"type": "data", "symmetric": False, "color": colour, "thickness": 1.2, "width": 0}
    ends = ((point.fidelity, point.fidelity_ends), (point.privacy, point.privacy_ends))
    bars = [
        bar | {"array": [high - value], "arrayminus": [value - low]} for value, (low, high) in ends
    ]
    return go.Scatter(
        x=[point.fidelity],
        y=[point.privacy],
        error_x=bars[0],
        error_y=bars[1],
        mode="markers+text",
        marker={
            "size": 20,
            "color": colour,
            "line": {"color": _light("card"), "width": 1.5},
            "symbol": "square" if point.kind == "reference" else "circle",
        },
        text=[str(point.index + 1)],
        textposition="middle center",
        textfont={"color": _light("card"), "size": 11},
        name=point.title,
        hovertemplate="%{fullData.name}<br>privacy %{y:.3f}, fidelity %{x:.3f}<extra></extra>",
        cliponaxis=False,
    )


def _stairs(front: Sequence[Tradeoff]) -> tuple[list[float], list[float]]:
    """The border of what the front dominates, from its most private point on."""
    across, up = [front[0].fidelity], [front[0].privacy]
    for before, point in pairwise(front):
        across += [before.fidelity, point.fidelity]
        up += [point.privacy, point.privacy]
    return across, up


def _layout(plane: Plane) -> dict[str, Any]:
    axis = {
        "range": [-_ROOM, 1.0 + _ROOM],
        "tickvals": [0.0, 0.25, 0.5, 0.75, 1.0],
        "gridcolor": _light("line"),
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "tickfont": {"color": _light("soft"), "size": 12},
        "fixedrange": True,
    }
    title = {"font": {"color": _light("soft"), "size": 13}}
    return {
        "xaxis": axis | {"title": title | {"text": f"Fidelity: {plane.fidelity_label}"}},
        "yaxis": axis | {"title": title | {"text": f"Privacy: {plane.privacy_label}"}},
        "font": {"family": _FONT, "color": _light("ink")},
        "hoverlabel": {
            "bgcolor": _light("raised"),
            "bordercolor": _light("edge"),
            "font": {"color": _light("ink"), "size": 13},
        },
        "paper_bgcolor": _light("card"),
        "plot_bgcolor": _light("card"),
        "margin": {"l": 58, "r": 16, "t": 14, "b": 52},
        "height": 440,
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": False,
    }


def light(index: int, kind: str) -> str:
    """The light colour of a row."""
    return _light(series(index, kind))


def _light(name: str) -> str:
    return PALETTE[name].light

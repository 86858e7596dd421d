"""The front of a study as a picture: privacy upwards, fidelity to the right."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unsafe2safe.jobs.sweep_front import DEFAULTS, Point, Row, front

_WIDTH, _HEIGHT = 900, 680
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 30, 60, 80
_TICKS = 5
_ROOM = 0.08  # beside the outermost points, as a share of the range
_LEAST_RANGE = 0.02
_INK, _GRID, _FAINT, _FRONT, _DEFAULTS = "#222222", "#dddddd", "#9aa5b1", "#1f6fb2", "#d9730d"


def draw_front(rows: Sequence[Row], defaults: Point) -> NDArray[np.uint8]:
    """(680, 900, 3) uint8: all points, those of the front joined, the defaults' another colour."""
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    across = _range([row.point.fidelity for row in rows])
    up = _range([row.point.privacy for row in rows])

    def place(point: Point) -> tuple[float, float]:
        return _x(point.fidelity, across), _y(point.privacy, up)

    _axes(draw, across, up)
    best = front(row.point for row in rows)
    _stairs(draw, [place(point) for point in best])
    on_front = {id(point) for point in best}
    for row in rows:
        x, y = place(row.point)
        if row.point is defaults:
            continue
        colour = _DEFAULTS if row.trial == DEFAULTS else _FAINT
        if id(row.point) in on_front:
            _dot(draw, x, y, 7, _FRONT)
            if row.trial != DEFAULTS:
                _text(draw, (x + 10, y - 8), row.trial, 15, _FRONT, "lm")
        else:
            _dot(draw, x, y, 5, colour)
    x, y = place(defaults)
    draw.rectangle((x - 8, y - 8, x + 8, y + 8), fill=_DEFAULTS, outline="white")
    _legend(draw)
    return np.asarray(image, dtype=np.uint8)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max((high - low) * _ROOM, (_LEAST_RANGE - (high - low)) / 2, 1e-3)
    return low - room, high + room


def _x(value: float, ends: tuple[float, float]) -> float:
    return _LEFT + (value - ends[0]) / (ends[1] - ends[0]) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, ends: tuple[float, float]) -> float:
    return _HEIGHT - _BOTTOM - (value - ends[0]) / (ends[1] - ends[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _axes(draw: ImageDraw.ImageDraw, across: tuple[float, float], up: tuple[float, float]) -> None:
    for index in range(_TICKS):
        share = index / (_TICKS - 1)
        value = across[0] + share * (across[1] - across[0])
        x = _x(value, across)
        draw.line((x, _TOP, x, _HEIGHT - _BOTTOM), fill=_GRID)
        _text(draw, (x, _HEIGHT - _BOTTOM + 8), f"{value:.3f}", 15, _INK, "ma")
        value = up[0] + share * (up[1] - up[0])
        y = _y(value, up)
        draw.line((_LEFT, y, _WIDTH - _RIGHT, y), fill=_GRID)
        _text(draw, (_LEFT - 8, y), f"{value:.3f}", 15, _INK, "rm")
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    _text(draw, (middle, _HEIGHT - 30), "fidelity (higher: more is kept)", 18, _INK, "mm")
    _text(draw, (12, 12), "privacy (higher: less is found)", 18, _INK, "la")


def _stairs(draw: ImageDraw.ImageDraw, places: Sequence[tuple[float, float]]) -> None:
    """What the front dominates ends at these stairs."""
    corners = []
    for (x, y), (next_x, next_y) in pairwise(places):
        corners += [(x, y), (x, next_y), (next_x, next_y)]
    if corners:
        draw.line(corners, fill=_FRONT, width=2)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: str) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline="white")


def _legend(draw: ImageDraw.ImageDraw) -> None:
    x = _WIDTH - _RIGHT - 420
    for colour, name, width in (
        (_FRONT, "front (trial)", 140),
        (_FAINT, "dominated", 120),
        (_DEFAULTS, "defaults", 100),
    ):
        _dot(draw, x, 22, 6, colour)
        _text(draw, (x + 12, 22), name, 16, _INK, "lm")
        x += width


def _text(
    draw: ImageDraw.ImageDraw,
    where: tuple[float, float],
    text: str,
    size: int,
    colour: str,
    anchor: Literal["ma", "rm", "mm", "la", "lm"],
) -> None:
    draw.text(where, text, fill=colour, font=ImageFont.load_default(size), anchor=anchor)

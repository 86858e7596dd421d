"""Privacy against fidelity: which points are worth keeping, and a drawing of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unsafe2safe.vision.arrays import RgbImage

_WIDTH, _HEIGHT = 640, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 20, 60
_FIRST, _LAST = (180, 200, 230), (20, 60, 140)  # colours of the earliest and the latest step
_FRONT, _BEST, _INK, _GRID = (200, 90, 20), (200, 20, 40), (40, 40, 40), (225, 225, 225)
_RADIUS = 5


class Tradeoff(NamedTuple):
    """A point after ``step`` optimizer steps; both figures in [0, 1], more is better."""

    privacy: float
    fidelity: float
    step: int


def pareto_front(points: Iterable[Tradeoff]) -> list[Tradeoff]:
    """The points that no other one beats or equals in both figures, by falling privacy.

    Of equal points the earliest step counts.
    """
    front: list[Tradeoff] = []
    for point in sorted(points, key=lambda point: (-point.privacy, -point.fidelity, point.step)):
        if not front or point.fidelity > front[-1].fidelity:
            front.append(point)
    return front


def hypervolume(points: Iterable[Tradeoff]) -> float:
    """Share of the unit square that one of ``points`` dominates: 1 where one is perfect in both."""
    area, reached = 0.0, 0.0
    for point in pareto_front(points):  # from the most private on
        area += max(point.privacy, 0.0) * max(point.fidelity - reached, 0.0)
        reached = max(reached, point.fidelity)
    return area


def balance(privacy: float, fidelity: float) -> float:
    """Harmonic mean of two figures in [0, 1]: 0 where one of them is."""
    total = privacy + fidelity
    return 2.0 * privacy * fidelity / total if total > 0 else 0.0


def draw_tradeoff(points: Sequence[Tradeoff], best: Tradeoff | None) -> RgbImage:
    """(480, 640, 3) uint8: fidelity across and privacy up, later steps darker, the front as a line,
    ``best`` ringed."""
    image = Image.new("RGB", (_WIDTH, _HEIGHT), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    _axes(draw)
    front = [_place(point) for point in pareto_front(points)]
    if len(front) > 1:
        draw.line(front, fill=_FRONT, width=2)
    last = max((point.step for point in points), default=1)
    for point in points:
        x, y = _place(point)
        box = (x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS)
        draw.ellipse(box, fill=_colour(point.step / max(last, 1)))
    if best is not None:
        x, y = _place(best)
        draw.ellipse((x - 10, y - 10, x + 10, y + 10), outline=_BEST, width=2)
        label = f"step {best.step}"
        draw.text((x - 14, y), label, fill=_BEST, font=_font(14), anchor="rm")
    return np.asarray(image)


def _axes(draw: ImageDraw.ImageDraw) -> None:
    font = _font(14)
    for fifth in range(6):
        share = fifth / 5
        x, y = _place(Tradeoff(share, share, 0))
        draw.line((x, _TOP, x, _HEIGHT - _BOTTOM), fill=_GRID)
        draw.line((_LEFT, y, _WIDTH - _RIGHT, y), fill=_GRID)
        draw.text((x, _HEIGHT - _BOTTOM + 8), f"{share:.1f}", fill=_INK, font=font, anchor="mt")
        draw.text((_LEFT - 8, y), f"{share:.1f}", fill=_INK, font=font, anchor="rm")
    draw.text((_WIDTH // 2, _HEIGHT - 14), "fidelity", fill=_INK, font=font, anchor="ms")
    draw.text((8, 8), "privacy", fill=_INK, font=font)


def _place(point: Tradeoff) -> tuple[float, float]:
    across = _LEFT + point.fidelity * (_WIDTH - _LEFT - _RIGHT)
    down = _TOP + (1.0 - point.privacy) * (_HEIGHT - _TOP - _BOTTOM)
    return across, down


def _colour(age: float) -> tuple[int, int, int]:
    red, green, blue = (
        round(first + age * (last - first)) for first, last in zip(_FIRST, _LAST, strict=True)
    )
    return red, green, blue


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

"""Backgrounds: eight places, each varied by colours, horizon and clutter from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unsafe2safe.core.randomness import generator
from unsafe2safe.data.synthetic.attributes import UNITS, Colour, Public
from unsafe2safe.data.synthetic.canvas import Canvas

_Rng = np.random.Generator


def draw_place(canvas: Canvas, public: Public) -> None:
    """All of the background; the same for every redraw of a scene."""
    rng = generator(public.clutter, public.place, stream="background")
    _DRAWN[public.place](canvas, rng)


def _vary(rng: _Rng, colour: Colour, by: int = 16) -> Colour:
    shift = rng.integers(-by, by + 1, 3) + rng.integers(-by, by + 1)
    red, green, blue = np.clip(np.add(colour, shift), 0, 255).tolist()
    return red, green, blue


def _halves(
    canvas: Canvas, rng: _Rng, upper: Colour, lower: Colour, span: tuple[int, int]
) -> float:
    horizon = float(rng.uniform(*span))
    canvas.rect((0, 0, UNITS, horizon), _vary(rng, upper))
    canvas.rect((0, horizon, UNITS, UNITS), _vary(rng, lower))
    return horizon


def _framed(canvas: Canvas, rng: _Rng, size: tuple[float, float], inner: Colour) -> None:
    """A picture or window on the wall."""
    width, height = rng.uniform(*size), rng.uniform(*size)
    x, y = rng.uniform(0, UNITS - width), rng.uniform(1, 22)
    canvas.rect((x, y, x + width, y + height), _vary(rng, (236, 232, 224)))
    canvas.rect((x + 1, y + 1, x + width - 1, y + height - 1), _vary(rng, inner, 30))


def _living_room(canvas: Canvas, rng: _Rng) -> None:
    floor = _halves(canvas, rng, (226, 208, 180), (150, 106, 72), (40, 50))
    canvas.rect((0, floor - 1.5, UNITS, floor), _vary(rng, (246, 240, 230)))
    for _ in range(rng.integers(1, 3)):
        _framed(canvas, rng, (9, 16), (120, 150, 170))
    x, width = rng.uniform(-6, 40), rng.uniform(22, 34)
    colour = _vary(rng, (160, 84, 76), 36)
    canvas.rect((x, floor - 8, x + width, floor + 6), colour, corner=2.5)
    canvas.rect((x + 2, floor - 1, x + width - 2, floor + 4), _vary(rng, colour, 24), corner=1.5)


def _kitchen(canvas: Canvas, rng: _Rng) -> None:
    counter = _halves(canvas, rng, (206, 226, 224), (196, 176, 150), (36, 46))
    step = rng.uniform(7, 10)
    line = _vary(rng, (184, 206, 204))
    for k in range(1, int(UNITS / step) + 1):
        canvas.rect((k * step, 0, k * step + 0.7, counter), line)
    canvas.rect((0, counter - 1, UNITS, counter + 2), _vary(rng, (110, 112, 118)))
    for k in range(4):
        left = k * 16 + rng.uniform(0.5, 1.5)
        canvas.rect((left, counter + 4, left + 13, 62), _vary(rng, (222, 206, 184)))
        canvas.rect((left + 10, counter + 7, left + 11.4, counter + 11), (96, 96, 100))


def _office(canvas: Canvas, rng: _Rng) -> None:
    floor = _halves(canvas, rng, (214, 218, 226), (112, 118, 132), (42, 52))
    x, width = rng.uniform(2, 30), rng.uniform(20, 30)
    canvas.rect((x, 2, x + width, 2 + rng.uniform(16, 24)), _vary(rng, (150, 196, 232)))
    for k in range(int(rng.integers(3, 6))):
        canvas.rect((x, 4 + 4 * k, x + width, 5 + 4 * k), (240, 242, 246))
    shelf = rng.uniform(0, 44)
    canvas.rect((shelf, floor - 16, shelf + 18, floor), _vary(rng, (140, 100, 66)))
    for k in range(6):
        book = _vary(rng, (140, 110, 110), 60)
        canvas.rect((shelf + 1.5 + 2.6 * k, floor - 14, shelf + 3.5 + 2.6 * k, floor - 7), book)


def _classroom(canvas: Canvas, rng: _Rng) -> None:
    floor = _halves(canvas, rng, (240, 226, 178), (176, 132, 92), (44, 52))
    x, width, y = rng.uniform(2, 20), rng.uniform(32, 42), rng.uniform(3, 9)
    canvas.rect((x, y, x + width, y + 22), _vary(rng, (150, 100, 62)))
    canvas.rect((x + 1.2, y + 1.2, x + width - 1.2, y + 20.8), _vary(rng, (48, 78, 70)))
    for k in range(int(rng.integers(1, 4))):
        start = x + rng.uniform(3, 8)
        end = start + rng.uniform(8, width - 14)
        canvas.rect((start, y + 4 + 5 * k, end, y + 4.9 + 5 * k), (208, 216, 210))
    desk = rng.uniform(-4, 44)
    canvas.rect((desk, floor - 3, desk + 24, floor), _vary(rng, (206, 160, 104)))
    canvas.rect((desk + 2, floor, desk + 4, floor + 10), _vary(rng, (120, 90, 60)))


def _park(canvas: Canvas, rng: _Rng) -> None:
    ground = _halves(canvas, rng, (170, 212, 240), (112, 172, 88), (34, 46))
    _clouds(canvas, rng)
    for _ in range(int(rng.integers(2, 5))):
        x, size = rng.uniform(0, UNITS), rng.uniform(6, 11)
        canvas.rect((x - 1.2, ground - size, x + 1.2, ground + 2), _vary(rng, (110, 78, 50)))
        canvas.ellipse(x, ground - size - 2, size * 0.8, size, _vary(rng, (58, 126, 62), 24))
    _path(canvas, rng, ground, (214, 196, 160))


def _street(canvas: Canvas, rng: _Rng) -> None:
    ground = _halves(canvas, rng, (196, 210, 222), (98, 100, 106), (42, 52))
    left = rng.uniform(-10, 0)
    while left < UNITS:
        width, top = rng.uniform(13, 22), rng.uniform(4, 20)
        canvas.rect((left, top, left + width, ground), _vary(rng, (176, 142, 122), 36))
        pane = _vary(rng, (92, 106, 124), 24)
        for column in range(2):
            for row in range(int(rng.integers(2, 4))):
                wx = left + 2.5 + column * (width / 2 - 0.5)
                wy = top + 3 + row * 8
                canvas.rect((wx, wy, wx + 4, min(wy + 4.5, ground)), pane)
        left += width + rng.uniform(0, 2)
    for k in range(4):
        canvas.rect((k * 17 + 3, ground + 8, k * 17 + 11, ground + 9.4), (226, 222, 206))


def _beach(canvas: Canvas, rng: _Rng) -> None:
    sand = _halves(canvas, rng, (142, 206, 240), (236, 214, 160), (38, 48))
    canvas.rect((0, sand - rng.uniform(9, 16), UNITS, sand), _vary(rng, (44, 134, 180)))
    canvas.rect((0, sand - 1, UNITS, sand + 0.8), (240, 248, 250))
    x, y, size = rng.uniform(6, 58), rng.uniform(6, 14), rng.uniform(3, 5)
    canvas.ellipse(x, y, size, size, (255, 226, 110))
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.uniform(2, 62), rng.uniform(sand + 3, 62)
        canvas.ellipse(x, y, 1.6, 1.0, _vary(rng, (200, 172, 122)))


def _mountains(canvas: Canvas, rng: _Rng) -> None:
    ground = _halves(canvas, rng, (186, 206, 236), (138, 150, 96), (40, 50))
    _clouds(canvas, rng)
    for _ in range(int(rng.integers(2, 4))):
        x, half, top = rng.uniform(4, 60), rng.uniform(14, 24), rng.uniform(6, 20)
        rock = _vary(rng, (112, 116, 134), 22)
        canvas.polygon([(x - half, ground), (x, top), (x + half, ground)], rock)
        cap = 0.28
        canvas.polygon(
            [
                (x - half * cap, top + (ground - top) * cap),
                (x, top),
                (x + half * cap, top + (ground - top) * cap),
            ],
            (244, 246, 250),
        )
    _path(canvas, rng, ground, (180, 164, 128))


def _clouds(canvas: Canvas, rng: _Rng) -> None:
    for _ in range(int(rng.integers(0, 3))):
        x, y = rng.uniform(4, 60), rng.uniform(4, 14)
        for dx in (-4.0, 0.0, 4.0):
            canvas.ellipse(x + dx, y, 4.2, 2.6, (246, 249, 252))


def _path(canvas: Canvas, rng: _Rng, ground: float, colour: Colour) -> None:
    top, bottom = rng.uniform(8, 56), rng.uniform(0, 64)
    points = [(top - 2, ground), (top + 2, ground), (bottom + 9, UNITS), (bottom - 9, UNITS)]
    canvas.polygon(points, _vary(rng, colour))


_DRAWN: dict[str, Callable[[Canvas, _Rng], None]] = {
    "living room": _living_room,
    "kitchen": _kitchen,
    "office": _office,
    "classroom": _classroom,
    "park": _park,
    "street": _street,
    "beach": _beach,
    "mountains": _mountains,
}

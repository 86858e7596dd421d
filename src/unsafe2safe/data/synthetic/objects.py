"""The objects of the scenes, ten kinds: the label of downstream tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unsafe2safe.data.synthetic.attributes import OBJECT_COLOURS, Colour, Thing
from unsafe2safe.data.synthetic.canvas import Canvas

_DARK: Colour = (34, 34, 40)
_METAL: Colour = (176, 180, 188)
_GLASS: Colour = (190, 222, 240)
_WOOD: Colour = (120, 76, 44)


@dataclass(frozen=True)
class _Pen:
    """Draws in a square that runs from (0, 0) to (1, 1)."""

    canvas: Canvas
    thing: Thing

    def x(self, value: float) -> float:
        rect = self.thing.rect
        across = 1 - value if self.thing.mirrored else value
        return rect.left + across * (rect.right - rect.left)

    def y(self, value: float) -> float:
        return self.thing.rect.top + value * (self.thing.rect.bottom - self.thing.rect.top)

    def rect(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        ends = sorted((self.x(left), self.x(right)))
        self.canvas.rect((ends[0], self.y(top), ends[1], self.y(bottom)), colour)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        rect = self.thing.rect
        width, height = rect.right - rect.left, rect.bottom - rect.top
        self.canvas.ellipse(self.x(x), self.y(y), rx * width, ry * height, colour)

    def ring(self, x: float, y: float, radius: float, colour: Colour) -> None:
        width = self.thing.rect.right - self.thing.rect.left
        self.canvas.ring(self.x(x), self.y(y), radius * width, 1.3, colour)

    def shape(self, colour: Colour, *points: tuple[float, float]) -> None:
        self.canvas.polygon([(self.x(x), self.y(y)) for x, y in points], colour)

    def line(self, width: float, colour: Colour, *points: tuple[float, float]) -> None:
        self.canvas.line([(self.x(x), self.y(y)) for x, y in points], width, colour)


def _car(pen: _Pen, colour: Colour) -> None:
    pen.shape(colour, (0.2, 0.5), (0.34, 0.22), (0.7, 0.22), (0.84, 0.5))
    pen.shape(_GLASS, (0.28, 0.48), (0.38, 0.29), (0.66, 0.29), (0.75, 0.48))
    pen.rect(0.02, 0.48, 0.98, 0.78, colour)
    for x in (0.25, 0.75):
        pen.oval(x, 0.8, 0.14, 0.14, _DARK)
        pen.oval(x, 0.8, 0.06, 0.06, _METAL)


def _bicycle(pen: _Pen, colour: Colour) -> None:
    for x in (0.24, 0.76):
        pen.ring(x, 0.7, 0.22, _DARK)
    pen.line(1.5, colour, (0.24, 0.7), (0.42, 0.36), (0.68, 0.36), (0.76, 0.7))
    pen.line(1.5, colour, (0.42, 0.36), (0.5, 0.7), (0.68, 0.36))
    pen.line(1.3, _DARK, (0.68, 0.36), (0.66, 0.2), (0.78, 0.18))
    pen.rect(0.32, 0.24, 0.5, 0.32, _DARK)


def _dog(pen: _Pen, colour: Colour) -> None:
    pen.rect(0.18, 0.46, 0.74, 0.72, colour)
    for x in (0.2, 0.36, 0.52, 0.66):
        pen.rect(x, 0.68, x + 0.1, 0.98, colour)
    pen.oval(0.78, 0.34, 0.2, 0.2, colour)
    pen.rect(0.8, 0.34, 0.99, 0.48, colour)
    pen.shape(_DARK, (0.62, 0.18), (0.72, 0.18), (0.66, 0.48))
    pen.oval(0.84, 0.3, 0.04, 0.04, _DARK)
    pen.oval(0.96, 0.38, 0.04, 0.05, _DARK)
    pen.line(1.6, colour, (0.2, 0.5), (0.05, 0.26))


def _cat(pen: _Pen, colour: Colour) -> None:
    pen.oval(0.5, 0.72, 0.28, 0.27, colour)
    pen.oval(0.5, 0.34, 0.24, 0.22, colour)
    pen.shape(colour, (0.27, 0.34), (0.28, 0.04), (0.46, 0.18))
    pen.shape(colour, (0.73, 0.34), (0.72, 0.04), (0.54, 0.18))
    for x in (0.41, 0.59):
        pen.oval(x, 0.32, 0.045, 0.06, (240, 240, 120))
        pen.oval(x, 0.32, 0.02, 0.05, _DARK)
    pen.shape((230, 130, 140), (0.46, 0.41), (0.54, 0.41), (0.5, 0.46))
    pen.line(1.6, colour, (0.74, 0.86), (0.95, 0.8), (0.92, 0.56))


def _chair(pen: _Pen, colour: Colour) -> None:
    pen.rect(0.2, 0.04, 0.32, 0.98, _WOOD)
    pen.rect(0.7, 0.5, 0.8, 0.98, _WOOD)
    pen.rect(0.2, 0.48, 0.82, 0.62, colour)
    pen.rect(0.24, 0.08, 0.4, 0.44, colour)


def _lamp(pen: _Pen, colour: Colour) -> None:
    pen.rect(0.46, 0.36, 0.54, 0.9, _METAL)
    pen.oval(0.5, 0.93, 0.24, 0.06, _DARK)
    pen.shape(colour, (0.34, 0.02), (0.66, 0.02), (0.86, 0.42), (0.14, 0.42))
    pen.rect(0.2, 0.38, 0.8, 0.44, (255, 246, 190))


def _plant(pen: _Pen, colour: Colour) -> None:
    leaf = (52, 128, 58)
    for x, y in ((0.28, 0.3), (0.72, 0.3), (0.5, 0.16), (0.36, 0.46), (0.64, 0.46)):
        pen.oval(x, y, 0.16, 0.16, leaf)
        pen.line(1.0, (36, 92, 44), (x, y), (0.5, 0.66))
    pen.shape(colour, (0.28, 0.62), (0.72, 0.62), (0.64, 0.98), (0.36, 0.98))


def _ball(pen: _Pen, colour: Colour) -> None:
    pen.oval(0.5, 0.58, 0.4, 0.4, colour)
    pen.oval(0.5, 0.58, 0.13, 0.4, (246, 246, 246))
    pen.rect(0.12, 0.54, 0.88, 0.62, (246, 246, 246))


def _boat(pen: _Pen, colour: Colour) -> None:
    pen.shape(colour, (0.02, 0.66), (0.98, 0.66), (0.8, 0.94), (0.2, 0.94))
    pen.rect(0.46, 0.04, 0.52, 0.66, _WOOD)
    pen.shape((246, 246, 246), (0.55, 0.08), (0.92, 0.58), (0.55, 0.58))
    pen.shape((220, 224, 230), (0.43, 0.16), (0.43, 0.58), (0.14, 0.58))


def _cake(pen: _Pen, colour: Colour) -> None:
    pen.rect(0.08, 0.62, 0.92, 0.96, _WOOD)
    pen.rect(0.2, 0.36, 0.8, 0.64, colour)
    pen.rect(0.08, 0.62, 0.92, 0.7, (252, 240, 226))
    pen.rect(0.2, 0.34, 0.8, 0.42, (252, 240, 226))
    for x in (0.32, 0.5, 0.68):
        pen.rect(x - 0.03, 0.14, x + 0.03, 0.36, (240, 110, 150))
        pen.oval(x, 0.1, 0.05, 0.08, (255, 190, 40))


_DRAWN: dict[str, Callable[[_Pen, Colour], None]] = {
    "car": _car,
    "bicycle": _bicycle,
    "dog": _dog,
    "cat": _cat,
    "chair": _chair,
    "lamp": _lamp,
    "plant": _plant,
    "ball": _ball,
    "boat": _boat,
    "cake": _cake,
}


def draw_thing(canvas: Canvas, thing: Thing) -> None:
    """The object of a scene in its rectangle."""
    _DRAWN[thing.kind](_Pen(canvas, thing), OBJECT_COLOURS[thing.color])

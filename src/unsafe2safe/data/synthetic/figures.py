"""What is private in a scene, drawn: persons, sign, plate, clock, calendar."""

from __future__ import annotations

from math import cos, pi, sin

from unsafe2safe.data.synthetic.attributes import (
    CLOTHING,
    HAIR,
    HEADWEAR,
    SKIN,
    Colour,
    Person,
    Rect,
    Spot,
    Timepiece,
)
from unsafe2safe.data.synthetic.canvas import Canvas

_INK: Colour = (20, 20, 28)
_PAPER: Colour = (250, 249, 244)
_BOARD: Colour = (22, 92, 62)
_PLATE: Colour = (248, 214, 70)
_FRAME: Colour = (16, 16, 20)
_LENS: Colour = (150, 205, 235)
_MOUTH: Colour = (150, 40, 50)


def draw_person(canvas: Canvas, person: Person, spot: Spot) -> None:
    """A person, hair behind the head first."""
    hair = HAIR[person.hair_color]
    _hair_behind(canvas, person, spot, hair)
    _body(canvas, person, spot)
    x, y, r = spot.x, spot.y, spot.radius
    canvas.ellipse(x, y, 0.98 * r, 1.14 * r, SKIN[person.skin])
    _hair_in_front(canvas, person, spot, hair)
    _face(canvas, person, spot)
    if not person.style_shows:
        _headwear(canvas, person, spot)
    if person.tag is not None:
        tag = spot.tag
        canvas.rect(tag, _INK)
        canvas.rect((tag.left + 0.5, tag.top + 0.5, tag.right - 0.5, tag.bottom - 0.5), _PAPER)
        middle = (tag.left + tag.right) / 2, (tag.top + tag.bottom) / 2
        canvas.letter(person.tag, *middle, (6.6, 5.4), _INK)


def _body(canvas: Canvas, person: Person, spot: Spot) -> None:
    x, y, r = spot.x, spot.y, spot.radius
    canvas.rect((x - 0.38 * r, y + 0.8 * r, x + 0.38 * r, y + 1.6 * r), SKIN[person.skin])
    body = (x - 1.6 * r, y + 1.32 * r, x + 1.6 * r, spot.bottom)
    canvas.rect(body, CLOTHING[person.clothing], corner=0.6 * r)
    canvas.ellipse(x, y + 1.3 * r, 0.5 * r, 0.3 * r, SKIN[person.skin])


def _hair_behind(canvas: Canvas, person: Person, spot: Spot, hair: Colour) -> None:
    x, y, r = spot.x, spot.y, spot.radius
    style = person.hair_style if person.style_shows else "short"
    if style == "long":
        box = (x - 1.42 * r, y - 1.3 * r, x + 1.42 * r, y + 2.1 * r)
        canvas.rect(box, hair, corner=1.1 * r)
    elif style == "curly":
        for step in range(9):
            angle = pi * (0.86 + 1.28 * step / 8)
            cx, cy = x + 1.12 * r * cos(angle), y - 0.3 * r + 1.12 * r * sin(angle)
            canvas.ellipse(cx, cy, 0.52 * r, 0.52 * r, hair)
    elif style == "bun":
        canvas.ellipse(x, y - 1.48 * r, 0.5 * r, 0.5 * r, hair)
        canvas.ellipse(x, y - 0.18 * r, 1.08 * r, 1.16 * r, hair)
    elif style == "spiky":
        points = [(x - 1.12 * r, y - 0.1 * r)]
        for spike in range(5):
            at = x + (spike - 2) * 0.5 * r
            points += [
                (at - 0.2 * r, y - 1.12 * r),
                (at, y - 1.96 * r),
                (at + 0.2 * r, y - 1.12 * r),
            ]
        points.append((x + 1.12 * r, y - 0.1 * r))
        canvas.polygon(points, hair)
    else:
        canvas.ellipse(x, y - 0.16 * r, 1.12 * r, 1.18 * r, hair)
        if not person.style_shows:
            for side in (-1, 1):  # what headwear leaves to see, wide enough to tell its colour
                canvas.ellipse(x + 1.06 * side * r, y + 0.24 * r, 0.44 * r, 0.72 * r, hair)


def _hair_in_front(canvas: Canvas, person: Person, spot: Spot, hair: Colour) -> None:
    x, y, r = spot.x, spot.y, spot.radius
    style = person.hair_style if person.style_shows else "short"
    if style == "long":
        canvas.chord(x, y - 0.05 * r, 1.1 * r, 1.24 * r, (200, 340), hair)
        canvas.rect((x - 1.38 * r, y - 0.4 * r, x - 0.82 * r, y + 2.0 * r), hair, corner=0.25 * r)
        canvas.rect((x + 0.82 * r, y - 0.4 * r, x + 1.38 * r, y + 2.0 * r), hair, corner=0.25 * r)
    elif style == "bun":
        canvas.chord(x, y - 0.1 * r, 1.04 * r, 1.14 * r, (212, 328), hair)
    elif style == "spiky":
        canvas.chord(x, y - 0.1 * r, 1.02 * r, 1.1 * r, (208, 332), hair)
    else:
        canvas.chord(x, y - 0.08 * r, 1.08 * r, 1.2 * r, (203, 337), hair)


def _face(canvas: Canvas, person: Person, spot: Spot) -> None:
    x, y, r = spot.x, spot.y, spot.radius
    for side in (-1, 1):
        ex, ey = x + 0.46 * side * r, y + 0.06 * r
        if person.glasses:
            canvas.ellipse(ex, ey, 0.47 * r, 0.43 * r, _FRAME)
            canvas.ellipse(ex, ey, 0.28 * r, 0.25 * r, _LENS)
        else:
            canvas.ellipse(ex, ey, 0.13 * r, 0.16 * r, _INK)
    canvas.rect((x - 0.3 * r, y + 0.58 * r, x + 0.3 * r, y + 0.74 * r), _MOUTH)


def _headwear(canvas: Canvas, person: Person, spot: Spot) -> None:
    x, y, r = spot.x, spot.y, spot.radius
    colour = HEADWEAR[person.headwear]
    assert colour is not None
    if person.headwear == "cap":
        canvas.chord(x, y - 0.42 * r, 1.16 * r, 1.16 * r, (180, 360), colour)
        canvas.rect((x - 1.2 * r, y - 0.58 * r, x + 1.66 * r, y - 0.3 * r), colour)
    else:
        canvas.chord(x, y - 0.36 * r, 1.14 * r, 1.4 * r, (180, 360), colour)
        band = (x - 1.18 * r, y - 0.7 * r, x + 1.18 * r, y - 0.3 * r)
        canvas.rect(band, _PAPER, corner=0.15 * r)


def draw_sign(canvas: Canvas, text: str, rect: Rect) -> None:
    """A green board with light letters."""
    canvas.rect(rect, _PAPER)
    canvas.rect((rect.left + 0.6, rect.top + 0.6, rect.right - 0.6, rect.bottom - 0.6), _BOARD)
    _write(canvas, text, rect, 8.0, _PAPER)


def draw_plate(canvas: Canvas, text: str, rect: Rect) -> None:
    """A yellow plate with dark letters."""
    canvas.rect(rect, _INK)
    canvas.rect((rect.left + 0.6, rect.top + 0.6, rect.right - 0.6, rect.bottom - 0.6), _PLATE)
    _write(canvas, text, rect, 7.6, _INK)


def letter_cells(rect: Rect, count: int) -> tuple[Rect, ...]:
    """The cells of a board's letters, from left to right."""
    width = (rect.right - rect.left - 2) / count
    return tuple(
        Rect(rect.left + 1 + i * width, rect.top, rect.left + 1 + (i + 1) * width, rect.bottom)
        for i in range(count)
    )


def _write(canvas: Canvas, text: str, rect: Rect, height: float, colour: Colour) -> None:
    for letter, cell in zip(text, letter_cells(rect, max(1, len(text))), strict=False):
        middle = (cell.left + cell.right) / 2, (cell.top + cell.bottom) / 2
        canvas.letter(letter, *middle, (cell.right - cell.left, height), colour)


def draw_timepiece(canvas: Canvas, timepiece: Timepiece, rect: Rect) -> None:
    """A round clock with its hour hand, or a calendar's page with its day."""
    x, y = (rect.left + rect.right) / 2, (rect.top + rect.bottom) / 2
    half = (rect.right - rect.left) / 2
    if timepiece.kind == "clock":
        canvas.ellipse(x, y, half, half, _INK)
        canvas.ellipse(x, y, 0.84 * half, 0.84 * half, _PAPER)
        angle = 2 * pi * timepiece.value / 12 - pi / 2
        tip = (x + 0.62 * half * cos(angle), y + 0.62 * half * sin(angle))
        canvas.line([(x, y), tip], 1.7, (170, 30, 40))
        canvas.line([(x, y), (x, y - 0.74 * half)], 0.9, _INK)
        canvas.ellipse(x, y, 0.9, 0.9, _INK)
        return
    canvas.rect(rect, _INK)
    canvas.rect((rect.left + 0.5, rect.top + 0.5, rect.right - 0.5, rect.bottom - 0.5), _PAPER)
    canvas.rect((rect.left + 0.5, rect.top + 0.5, rect.right - 0.5, rect.top + 3.6), (200, 40, 40))
    canvas.letter(f"{timepiece.value:02d}", x, y + 1.5, (1.7 * half, 0.86 * half), _INK)

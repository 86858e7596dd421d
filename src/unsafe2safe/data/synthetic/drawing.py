"""Scenes to pixels, and to exact masks and boxes of what is private in them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.data.synthetic.attributes import UNITS, Rect, Scene
from unsafe2safe.data.synthetic.canvas import SUPERSAMPLING, Canvas
from unsafe2safe.data.synthetic.figures import (
    draw_person,
    draw_plate,
    draw_sign,
    draw_timepiece,
)
from unsafe2safe.data.synthetic.objects import draw_thing
from unsafe2safe.data.synthetic.places import draw_place

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def private_names(scene: Scene) -> tuple[str, ...]:
    """Names of the private layers, sign, timepiece, person-0, ..., plate."""
    persons = (f"person-{index}" for index in range(len(scene.private.persons)))
    boards = [name for name in ("sign", "timepiece") if getattr(scene.private, name) is not None]
    plate = ["plate"] if scene.private.plate is not None else []
    return (*boards, *persons, *plate)


def render(scene: Scene, side: int = UNITS) -> Pixels:
    """(side, side, 3) uint8 RGB, anti-aliased.

    Raises:
        UsageError: ``side`` is no multiple of 64.
    """
    canvas = Canvas(side)
    _paint(canvas, scene)
    return np.asarray(canvas.image.reduce(SUPERSAMPLING))


def layers(scene: Scene, side: int = UNITS) -> Mapping[str, Mask]:
    """(side, side) bool by private layer: every pixel that the layer shows in, if only in part.

    Raises:
        UsageError: ``side`` is no multiple of 64.
    """
    canvas = Canvas(side, layers=True)
    _paint(canvas, scene)
    numbers = np.asarray(canvas.image).reshape(side, SUPERSAMPLING, side, SUPERSAMPLING)
    return {
        name: (numbers == number).any(axis=(1, 3))
        for number, name in enumerate(private_names(scene), start=1)
    }


def private_mask(scene: Scene, side: int = UNITS) -> Mask:
    """(side, side) bool: all private layers together."""
    return union(layers(scene, side), side)


def union(masks: Mapping[str, Mask], side: int) -> Mask:
    """(side, side) bool: where any of ``masks`` is set."""
    found = np.zeros((side, side), dtype=np.bool_)
    for mask in masks.values():
        found |= mask
    return found


def box_of(mask: Mask) -> tuple[int, int, int, int] | None:
    """Left, top, width, height of the smallest box around ``mask`` in pixels; None if empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def slots(scene: Scene) -> Mapping[str, Rect]:
    """In units, by private layer: the rectangle that holds it whatever is drawn there."""
    found: dict[str, Rect] = {}
    for name in private_names(scene):
        if name.startswith("person-"):
            found[name] = scene.public.spots[int(name.removeprefix("person-"))].slot
        else:
            found[name] = getattr(scene.public, name)
    return found


def slot_mask(scene: Scene, side: int = UNITS) -> Mask:
    """(side, side) bool: every pixel that a slot reaches into. Unlike :func:`private_mask` it tells
    nothing of what is drawn there."""
    found = np.zeros((side, side), dtype=np.bool_)
    scale = side / UNITS
    for rect in slots(scene).values():
        left, top = (int(np.floor(edge * scale)) for edge in rect[:2])
        right, bottom = (int(np.ceil(edge * scale)) for edge in rect[2:])
        found[top:bottom, left:right] = True
    return found


def _paint(canvas: Canvas, scene: Scene) -> None:
    public, private = scene.public, scene.private
    draw_place(canvas, public)
    numbers = {name: number for number, name in enumerate(private_names(scene), start=1)}
    for index, (person, spot) in enumerate(zip(private.persons, public.spots, strict=True)):
        canvas.layer = numbers[f"person-{index}"]
        draw_person(canvas, person, spot)
    canvas.layer = 0
    draw_thing(canvas, public.thing)
    if private.sign is not None and public.sign is not None:
        canvas.layer = numbers["sign"]
        draw_sign(canvas, private.sign, public.sign)
    if private.timepiece is not None and public.timepiece is not None:
        canvas.layer = numbers["timepiece"]
        draw_timepiece(canvas, private.timepiece, public.timepiece)
    if private.plate is not None and public.plate is not None:
        canvas.layer = numbers["plate"]
        draw_plate(canvas, private.plate, public.plate)

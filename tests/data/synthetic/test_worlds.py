"""Scenes are functions of their world, seed and index, and draw where their record says."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from unsafe2safe.core.errors import UsageError
from unsafe2safe.data.synthetic import WORLDS, Scene, draw_scene, layers, render, slots
from unsafe2safe.data.synthetic.attributes import Person, Rect, Thing, Timepiece
from unsafe2safe.data.synthetic.canvas import SUPERSAMPLING, Canvas
from unsafe2safe.data.synthetic.figures import (
    draw_person,
    draw_plate,
    draw_sign,
    draw_timepiece,
)
from unsafe2safe.data.synthetic.objects import draw_thing
from unsafe2safe.data.synthetic.worlds import object_of

_HASHES = """
import hashlib
from unsafe2safe.data.synthetic import WORLDS, draw_scene, render
for name in reversed(WORLDS):
    for index in reversed(range(40)):
        scene = draw_scene(WORLDS[name], 3, index)
        seen = repr(scene).encode() + render(scene).tobytes()
        print(name, index, hashlib.sha256(seen).hexdigest())
"""


def test_another_process_in_another_order_draws_the_same():
    ours = set()
    for name, world in WORLDS.items():
        for index in range(40):
            scene = draw_scene(world, 3, index)
            seen = repr(scene).encode() + render(scene).tobytes()
            ours.add(f"{name} {index} {hashlib.sha256(seen).hexdigest()}")
    # Python's sets go by another order there.
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    theirs = subprocess.run(
        [sys.executable, "-c", _HASHES],
        env={**os.environ, "PYTHONHASHSEED": other},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(theirs.stdout.splitlines()) == ours


def test_worlds_and_seeds_share_no_scene_and_labels_agree():
    seen = set()
    for world in WORLDS.values():
        for seed in (0, 1):
            for index in range(300):
                scene = draw_scene(world, seed, index)
                seen.add(scene.public)
                assert object_of(world, seed, index) == scene.public.thing.kind
    assert len(seen) == len(WORLDS) * 2 * 300


class _Extents:
    """Stands for Pillow's draw: notes the pixels that shapes reach, and draws nothing."""

    def __init__(self) -> None:
        self.reached: list[tuple[float, float]] = []

    def _note(self, points: Iterable[float | tuple[float, float]], rim: float = 0.0) -> None:
        flat = [part for point in points for part in ([point] if _number(point) else point)]
        for x, y in zip(flat[::2], flat[1::2], strict=True):
            self.reached += [(x - rim, y - rim), (x + rim, y + rim)]

    def rectangle(self, box, *args, **kwargs) -> None:
        self._note(box)

    rounded_rectangle = ellipse = chord = polygon = rectangle

    def line(self, points, fill, width, **kwargs) -> None:
        self._note(points, width / 2)


def _number(value: object) -> bool:
    return isinstance(value, int | float)


def _reach(draw, *args) -> Rect:
    """What a figure reaches, in units. Letters lie on boards, which are drawn."""
    canvas = Canvas(64, layers=True)
    extents = _Extents()
    canvas._draw = extents
    draw(canvas, *args)
    scale = canvas._scale
    assert scale == SUPERSAMPLING
    xs, ys = zip(*extents.reached, strict=True)
    return Rect(min(xs) / scale, min(ys) / scale, max(xs) / scale, max(ys) / scale)


def _figures(scene: Scene):
    public, private, held = scene.public, scene.private, slots(scene)
    yield _reach(draw_thing, public.thing), public.thing.rect
    for index, (person, spot) in enumerate(zip(private.persons, public.spots, strict=True)):
        yield _reach(draw_person, person, spot), held[f"person-{index}"]
    if private.sign is not None:
        yield _reach(draw_sign, private.sign, public.sign), held["sign"]
    if private.plate is not None:
        yield _reach(draw_plate, private.plate, public.plate), held["plate"]
    if private.timepiece:
        yield _reach(draw_timepiece, private.timepiece, public.timepiece), held["timepiece"]


def test_nothing_but_the_background_reaches_out_of_its_slot_or_of_the_frame():
    pixel = 1 / SUPERSAMPLING  # of what is drawn: coordinates are rounded
    for index in range(2000):
        world = list(WORLDS.values())[index % len(WORLDS)]
        scene = draw_scene(world, 12, index)
        for reach, slot in _figures(scene):
            assert slot.inside_frame()
            assert reach.left >= slot.left - pixel, index
            assert reach.top >= slot.top - pixel, index
            assert reach.right <= slot.right + pixel, index
            assert reach.bottom <= slot.bottom + pixel, index


@pytest.mark.parametrize("side", [0, -64, 63, 65, 96, 1088])
def test_a_side_that_is_no_multiple_of_64_up_to_1024_is_told(side):
    scene = draw_scene(WORLDS["base"], 0, 0)
    for draw in (render, layers):
        with pytest.raises(UsageError, match=f"multiple of 64 pixels up to 1024, not at {side}"):
            draw(scene, side)


_PERSON = SimpleNamespace(
    skin="pale", hair_color="red", hair_style="short", clothing="red", glasses=False,
    headwear="none",
)  # fmt: skip


@pytest.mark.parametrize(
    ("attribute", "value", "nearest"),
    [
        ("skin", "browm", "brown"),
        ("hair_color", "blond", "blonde"),
        ("hair_style", "spikey", "spiky"),
        ("clothing", "purpel", "purple"),
        ("headwear", "beany", "beanie"),
    ],
)
def test_a_wrong_value_is_told_with_the_nearest(attribute, value, nearest):
    with pytest.raises(UsageError, match=f"{value}.*did you mean '{nearest}'"):
        Person(**{**vars(_PERSON), attribute: value})


def test_wrong_objects_and_timepieces_are_told():
    rect = Rect(10, 10, 20, 20)
    with pytest.raises(UsageError, match="did you mean 'bicycle'"):
        Thing("bicicle", "red", rect, False)
    with pytest.raises(UsageError, match="did you mean 'gray'"):
        Thing("bicycle", "grey", rect, False)
    with pytest.raises(UsageError, match="did you mean 'calendar'"):
        Timepiece("calender", 3)

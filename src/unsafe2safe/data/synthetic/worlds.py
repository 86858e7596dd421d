"""The worlds that scenes are drawn from, and how a scene's record is drawn.

``base`` is what the shipped editor is trained on. ``phrasings`` says the same in other words and
lays scenes out otherwise; ``values`` has two more values each of hair colour and clothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from unsafe2safe.core.randomness import derive_key, generator
from unsafe2safe.data.synthetic.attributes import (
    CLOTHING,
    DAYS,
    HAIR,
    HEADWEAR,
    HOURS,
    LETTERS,
    OBJECT_COLOURS,
    OBJECTS,
    PLACES,
    PLATE_LETTERS,
    SIGN_LETTERS,
    SKIN,
    STYLES,
    UNITS,
    UNSEEN,
    Person,
    Private,
    Public,
    Rect,
    Scene,
    Spot,
    Thing,
    Timepiece,
)

_Rng = np.random.Generator

_BLANK = 0.15  # share of signs, plates and tags that are blank before any edit
_HEADWEAR = 0.15
_GLASSES = 0.4
_RADII = {1: (6.5, 8.5), 2: (5.8, 7.2), 3: (5.3, 5.9)}
_TRIES = 16


@dataclass(frozen=True)
class World:
    """What a world's scenes hold and how its texts are worded."""

    name: str
    hair: tuple[str, ...]
    clothing: tuple[str, ...]
    wording: Literal["base", "shifted"]
    layout: Literal["base", "swapped"]


_SEEN_HAIR, _SEEN_CLOTHING = tuple(HAIR)[:-UNSEEN], tuple(CLOTHING)[:-UNSEEN]

WORLDS: Mapping[str, World] = MappingProxyType(
    {
        "base": World("base", _SEEN_HAIR, _SEEN_CLOTHING, "base", "base"),
        "phrasings": World("phrasings", _SEEN_HAIR, _SEEN_CLOTHING, "shifted", "swapped"),
        "values": World("values", tuple(HAIR), tuple(CLOTHING), "base", "base"),
    }
)

# Upper and lower bound of the top edges of things in units, by layout.
_TOPS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "base": {"thing": (38, 50), "sign": (0.5, 18), "plate": (40, 52), "timepiece": (0.5, 20)},
    "swapped": {"thing": (0.5, 16), "sign": (36, 51), "plate": (0.5, 16), "timepiece": (34, 50)},
}
_LOWEST_HEAD = 33.0


def draw_scene(world: World, seed: int, index: int) -> Scene:
    """Scene ``index`` of ``world``; the same for the same arguments, whoever asks."""
    rng = generator(seed, f"{world.name}/{index}", stream="scene")
    public, tags = _draw_public(world, rng, object_of(world, seed, index))
    persons = tuple(
        Person(
            skin=pick(rng, tuple(SKIN)),
            hair_color=pick(rng, world.hair),
            hair_style=pick(rng, STYLES),
            clothing=pick(rng, world.clothing),
            glasses=bool(rng.random() < _GLASSES),
            headwear=pick(rng, tuple(HEADWEAR)[1:]) if rng.random() < _HEADWEAR else "none",
            tag=draw_letters(rng, 1) if tagged else None,
        )
        for tagged in tags
    )
    return Scene(
        public,
        Private(
            persons,
            sign=draw_letters(rng, SIGN_LETTERS) if public.sign else None,
            plate=draw_letters(rng, PLATE_LETTERS) if public.plate else None,
            timepiece=_draw_timepiece(rng) if public.timepiece else None,
        ),
    )


def object_of(world: World, seed: int, index: int) -> str:
    """The kind of object in scene ``index``, told without drawing the rest of its record."""
    return OBJECTS[derive_key(seed, f"{world.name}/{index}", 0, "object") % len(OBJECTS)]


def pick(rng: _Rng, values: tuple[str, ...], unlike: str | None = None) -> str:
    """One of ``values`` at random, never ``unlike``."""
    left = [value for value in values if value != unlike]
    return left[int(rng.integers(len(left)))]


def draw_letters(rng: _Rng, count: int, blank: float = _BLANK, unlike: str = "") -> str:
    """Letters at random, each another than the one of ``unlike`` at its place; or a blank."""
    if rng.random() < blank:
        return ""
    before = unlike.ljust(count)
    return "".join(pick(rng, tuple(LETTERS), unlike=before[place]) for place in range(count))


def _draw_timepiece(rng: _Rng) -> Timepiece:
    if rng.random() < 0.5:
        return Timepiece("clock", int(rng.integers(HOURS)))
    return Timepiece("calendar", int(rng.integers(1, DAYS + 1)))


def _draw_public(world: World, rng: _Rng, kind: str) -> tuple[Public, list[bool]]:
    while True:
        spots = _draw_spots(world, rng)
        # A lone person's tag may still hang below the frame.
        tags = [bool(rng.random() < 0.35) and spot.tag.bottom < UNITS - 1 for spot in spots]
        taken = [spot.core for spot in spots]
        taken += [spot.tag for spot, tagged in zip(spots, tags, strict=True) if tagged]
        tops = _TOPS[world.layout]
        size = rng.uniform(15, 20)
        thing = _place(rng, (size, size), tops["thing"], taken)
        if thing is None:
            continue
        taken.append(thing)
        extra: dict[str, Rect | None] = {}
        wanted = (("sign", (27.0, 12.5), 0.6), ("plate", (24.0, 11.6), 0.45))
        for name, extent, share in (*wanted, ("timepiece", (13.0, 13.0), 0.4)):
            extra[name] = _place(rng, extent, tops[name], taken) if rng.random() < share else None
            if (found := extra[name]) is not None:
                taken.append(found)
        colour = pick(rng, tuple(OBJECT_COLOURS))
        drawn = Thing(kind, colour, thing, bool(rng.random() < 0.5))
        place, clutter = pick(rng, PLACES), int(rng.integers(2**31))
        return Public(place, clutter, drawn, tuple(spots), **extra), tags


def _draw_spots(world: World, rng: _Rng) -> list[Spot]:
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12]))
    radii = rng.uniform(*_RADII[count], count)
    free = UNITS - 3.5 * radii.sum()
    gaps = np.diff(np.sort(rng.uniform(0, free, count)), prepend=0.0)
    low = world.layout == "swapped" or rng.random() < 0.6  # room above the heads
    spots, left = [], 0.0
    for radius, gap in zip(radii.tolist(), gaps.tolist(), strict=True):
        left += gap
        highest = 2.0 * radius + (14.0 if low else 0.3)
        y = rng.uniform(highest, max(highest, _LOWEST_HEAD))
        bottom = min(UNITS - 0.5, y + rng.uniform(4.2, 6.5) * radius)
        spots.append(Spot(left + 1.75 * radius, y, radius, max(bottom, y + 2.8 * radius)))
        left += 3.5 * radius
    return spots


def _place(
    rng: _Rng, extent: tuple[float, float], tops: tuple[float, float], taken: list[Rect]
) -> Rect | None:
    width, height = extent
    lowest = min(tops[1], UNITS - 0.5 - height)
    for _ in range(_TRIES):
        left, top = rng.uniform(0.25, UNITS - 0.25 - width), rng.uniform(tops[0], lowest)
        rect = Rect(left, top, left + width, top + height)
        if not any(rect.meets(other) for other in taken):
            return rect
    return None

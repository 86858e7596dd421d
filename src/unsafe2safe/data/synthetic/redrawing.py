"""The perfectly anonymized counterpart of a scene: other private values, all else untouched."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from unsafe2safe.core.errors import UsageError
from unsafe2safe.data.synthetic.attributes import (
    DAYS,
    HEADWEAR,
    HOURS,
    PLATE_LETTERS,
    SIGN_LETTERS,
    SKIN,
    STYLES,
    UNITS,
    Person,
    Private,
    Scene,
    Timepiece,
)
from unsafe2safe.data.synthetic.drawing import Mask, layers
from unsafe2safe.data.synthetic.worlds import World, draw_letters, pick

PERSON_ATTRIBUTES = ("skin", "hair_color", "hair_style", "clothing", "glasses", "headwear", "tag")
_NEW_HEADWEAR = 0.12  # of the bare heads that are to change get headwear
_NEW_BLANK = 0.5  # of the texts that are to change become blank


@dataclass(frozen=True)
class Change:
    """One private value that differs. ``layer`` is a private layer's name; ``attribute`` one of
    ``PERSON_ATTRIBUTES``, or the layer's own name."""

    layer: str
    attribute: str
    before: str | bool | int | None
    after: str | bool | int | None


@dataclass(frozen=True)
class Redrawn:
    """A scene, its counterpart and what differs between the two."""

    source: Scene
    scene: Scene
    changes: tuple[Change, ...]


def redraw(scene: Scene, new_private: Private) -> Redrawn:
    """``scene`` with ``new_private`` in the place of its private part.

    Raises:
        UsageError: the two hold other things: another number of persons, a sign on one only.
    """
    if [p.tag is None for p in scene.private.persons] != [
        p.tag is None for p in new_private.persons
    ]:
        raise UsageError("a redraw keeps the number of persons and who wears a name tag")
    before, after = scene.private.timepiece, new_private.timepiece
    if before and after and before.kind != after.kind:
        raise UsageError(f"a redraw keeps the kind of timepiece, {before.kind}")
    counterpart = replace(scene, private=new_private)
    return Redrawn(scene, counterpart, _changes(scene.private, new_private))


def _changes(before: Private, after: Private) -> tuple[Change, ...]:
    found = []
    for index, (old, new) in enumerate(zip(before.persons, after.persons, strict=True)):
        for name in PERSON_ATTRIBUTES:
            values = getattr(old, name), getattr(new, name)
            if values[0] != values[1]:
                found.append(Change(f"person-{index}", name, *values))
    for name in ("sign", "plate"):
        values = getattr(before, name), getattr(after, name)
        if values[0] != values[1]:
            found.append(Change(name, name, *values))
    if before.timepiece and after.timepiece and before.timepiece != after.timepiece:
        value = before.timepiece.value, after.timepiece.value
        found.append(Change("timepiece", "timepiece", *value))
    return tuple(found)


def change_mask(source: Scene, target: Scene, side: int = UNITS) -> Mask:
    """(side, side) bool: the private layers, of either scene, in which the two differ."""
    changed = {change.layer for change in redraw(source, target.private).changes}
    mask = np.zeros((side, side), dtype=np.bool_)
    if changed:
        for scene in (source, target):
            for name, layer in layers(scene, side).items():
                if name in changed:
                    mask |= layer
    return mask


def draw_private(scene: Scene, world: World, rng: np.random.Generator, share: float) -> Private:
    """A new private part: each value is drawn unlike the scene's with probability ``share``.

    Bare heads seldom get headwear, and half of the texts become blank. At least one value differs.

    Raises:
        UsageError: ``share`` is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise UsageError(f"the share of values to redraw is in (0, 1], not {share}")
    old = scene.private
    while True:
        new = Private(
            persons=tuple(_redraw_person(person, world, rng, share) for person in old.persons),
            sign=_redraw_text(old.sign, SIGN_LETTERS, rng, share),
            plate=_redraw_text(old.plate, PLATE_LETTERS, rng, share),
            timepiece=_redraw_timepiece(old.timepiece, rng, share),
        )
        if new != old:
            return new


def _redraw_person(person: Person, world: World, rng: np.random.Generator, share: float) -> Person:
    def drawn(values: tuple[str, ...], now: str, chance: float = share) -> str:
        return pick(rng, values, unlike=now) if rng.random() < chance else now

    bare = person.headwear == "none"
    return Person(
        skin=drawn(tuple(SKIN), person.skin),
        hair_color=drawn(world.hair, person.hair_color),
        hair_style=drawn(STYLES, person.hair_style),
        clothing=drawn(world.clothing, person.clothing),
        glasses=person.glasses != (rng.random() < share),
        headwear=drawn(tuple(HEADWEAR), person.headwear, share * _NEW_HEADWEAR if bare else share),
        tag=_redraw_text(person.tag, 1, rng, share),
    )


def _redraw_text(
    text: str | None, count: int, rng: np.random.Generator, share: float
) -> str | None:
    if text is None or rng.random() >= share:
        return text
    return draw_letters(rng, count, blank=_NEW_BLANK if text else 0.0, unlike=text)


def _redraw_timepiece(
    timepiece: Timepiece | None, rng: np.random.Generator, share: float
) -> Timepiece | None:
    if timepiece is None or rng.random() >= share:
        return timepiece
    if timepiece.kind == "clock":
        value = (timepiece.value + int(rng.integers(1, HOURS))) % HOURS
    else:
        value = (timepiece.value - 1 + int(rng.integers(1, DAYS))) % DAYS + 1
    return Timepiece(timepiece.kind, value)

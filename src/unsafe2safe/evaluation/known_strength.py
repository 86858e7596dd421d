"""Anonymizers of known strength on drawn scenes, for figures to be held against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unsafe2safe.data.synthetic import Redrawn, Scene
from unsafe2safe.data.synthetic.attributes import Timepiece


def partly_undone(redrawn: Redrawn, share: float, rng: np.random.Generator) -> Scene:
    """The counterpart with each of its changes undone with probability ``share``: what a weak
    anonymizer would leave.

    Given equal generators, what is undone at one share is undone at every greater one.
    """
    persons = list(redrawn.scene.private.persons)
    others: dict[str, str | Timepiece | None] = {}
    for change in redrawn.changes:
        if rng.random() >= share:
            continue
        if change.layer.startswith("person-"):
            index = int(change.layer.removeprefix("person-"))
            old = getattr(redrawn.source.private.persons[index], change.attribute)
            persons[index] = replace(persons[index], **{change.attribute: old})
        else:
            others[change.layer] = getattr(redrawn.source.private, change.layer)
    private = replace(redrawn.scene.private, persons=tuple(persons), **others)  # type: ignore[arg-type]
    return replace(redrawn.scene, private=private)

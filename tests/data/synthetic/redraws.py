"""Scenes of all worlds with redraws of all or part of what is private."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from unsafe2safe.core.randomness import generator
from unsafe2safe.data.synthetic import (
    WORLDS,
    Redrawn,
    Scene,
    World,
    draw_private,
    draw_scene,
    redraw,
)

RECORDS = 2000
SHARES = (1.0, 0.5, 0.2)


def redraws(
    count: int = RECORDS, shares: tuple[float, ...] = SHARES
) -> Iterator[tuple[World, Scene, Redrawn, np.random.Generator]]:
    """World, scene, redraw, and a generator for texts; worlds and shares in turn."""
    for index in range(count):
        world, redrawn = _redraw(index, shares)
        yield world, redrawn.source, redrawn, generator(11, str(index), stream="texts")


@cache
def _redraw(index: int, shares: tuple[float, ...]) -> tuple[World, Redrawn]:
    world = list(WORLDS.values())[index % len(WORLDS)]
    scene = draw_scene(world, 11, index)
    rng = generator(11, str(index), stream="redraw")
    share = shares[index // len(WORLDS) % len(shares)]
    return world, redraw(scene, draw_private(scene, world, rng, share))

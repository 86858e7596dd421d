"""Scenes of all worlds with redraws of all or part of what is private."""

from __future__ import annotations

from collections.abc import Iterator

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
    worlds = list(WORLDS.values())
    for index in range(count):
        world = worlds[index % len(worlds)]
        scene = draw_scene(world, 11, index)
        rng = generator(11, str(index), stream="test")
        share = shares[index // len(worlds) % len(shares)]
        yield world, scene, redraw(scene, draw_private(scene, world, rng, share)), rng

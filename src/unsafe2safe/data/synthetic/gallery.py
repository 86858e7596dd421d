"""A sheet of scenes beside their counterparts: ``python -m unsafe2safe.data.synthetic.gallery F``.

Two rows for each world; each scene stands left of its full redraw.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from unsafe2safe.data.synthetic.drawing import Pixels, render
from unsafe2safe.data.synthetic.source import counterpart
from unsafe2safe.data.synthetic.worlds import WORLDS, World, draw_scene

_GAP = 4  # pixels of white around a pair


def sheet(columns: int = 6, rows_of_each: int = 2, side: int = 128, seed: int = 0) -> Pixels:
    """(H, W, 3) uint8: ``rows_of_each`` rows of ``columns`` pairs for every world."""
    rows: list[Pixels] = []
    for world in WORLDS.values():
        pairs = [_pair(world, index, side, seed) for index in range(columns * rows_of_each)]
        starts = range(0, len(pairs), columns)
        rows += [np.concatenate(pairs[at : at + columns], axis=1) for at in starts]
    return np.concatenate(rows)


def _pair(world: World, index: int, side: int, seed: int) -> Pixels:
    scene = draw_scene(world, seed, index)
    redrawn = counterpart(scene, world, seed, f"{index:08d}.png")
    both = np.concatenate([render(scene, side), render(redrawn.scene, side)], axis=1)
    return np.pad(both, ((_GAP, _GAP), (_GAP, _GAP), (0, 0)), constant_values=255)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m unsafe2safe.data.synthetic.gallery FILE.png")
    Image.fromarray(sheet()).quantize(255).save(Path(sys.argv[1]), optimize=True)

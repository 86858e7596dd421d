"""Seconds per edited image of the shipped tiny editor: ``python benchmarks/editing.py``.

20 steps at batch 16, all cores. Exits 1 where the bound is missed.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.data.synthetic import WORLDS, draw_scene, render
from unsafe2safe.editors.tiny import TinyEditor

BATCH = 16
BOUND = 0.5  # seconds an image


def main() -> int:
    settings = dict(load("train").editor) | {"batch_size": BATCH, "steps": 20}  # type: ignore[attr-defined]
    editor = build(settings, "editor", TinyEditor)
    images = [render(draw_scene(WORLDS["base"], 0, index)) for index in range(BATCH)]
    texts, seeds = ["give the person long red hair ."] * BATCH, list(range(BATCH))
    editor.run(editor.pipeline, images[:2], texts[:2], seeds[:2])
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        editor.run(editor.pipeline, images, texts, seeds)
        seconds.append((time.perf_counter() - begin) / BATCH)
    print(f"{np.median(seconds):.3f} s an image at batch {BATCH} (bound {BOUND})")
    return 0 if np.median(seconds) <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())

"""Scenes per second, and seconds to open a million: ``python benchmarks/synthetic.py``.

One core, processor time. Exits 1 where a bound is missed.
"""

from __future__ import annotations

import sys
import time

from unsafe2safe.data.synthetic import WORLDS, draw_scene, layers, render
from unsafe2safe.data.synthetic.source import SyntheticSource

SCENES = 1000
BOUND = 300.0  # scenes per second at 64 pixels, record and picture
RECORDS = 1_000_000
OPENING_BOUND = 10.0  # seconds


def main() -> int:
    world = WORLDS["base"]
    begin = time.process_time()
    scenes = [draw_scene(world, 0, index) for index in range(SCENES)]
    drawn = time.process_time()
    for scene in scenes:
        render(scene)
    rendered = time.process_time()
    for scene in scenes:
        layers(scene)
    masked = time.process_time()
    SyntheticSource(name="synthetic", size=RECORDS).records()
    opening = time.process_time() - masked
    rate = SCENES / (rendered - begin)
    print(
        f"ms each: record {(drawn - begin) / SCENES * 1e3:.2f}, picture "
        f"{(rendered - drawn) / SCENES * 1e3:.2f}, masks {(masked - rendered) / SCENES * 1e3:.2f}"
        f"; {rate:.0f} scenes per second (bound {BOUND:.0f})"
    )
    print(f"{RECORDS} records open in {opening:.1f} s (bound {OPENING_BOUND:.0f})")
    return 0 if rate >= BOUND and opening <= OPENING_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())

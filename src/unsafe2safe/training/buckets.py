"""Aspect-ratio buckets: sizes of about the same area, and which of them fits a picture."""

from __future__ import annotations

import math
from functools import cache

GREATEST_RATIO = 2.0  # of the longer side to the shorter; what is longer still is pressed to it


@cache
def bucket_sizes(resolution: int, step: int) -> tuple[tuple[int, int], ...]:
    """Heights and widths, multiples of ``step``, whose area is about ``resolution`` squared."""
    found = {(resolution, resolution)}
    for short in range(step, resolution, step):
        long = max(step, round(resolution**2 / short / step) * step)
        if long / short <= GREATEST_RATIO:
            found |= {(short, long), (long, short)}
    return tuple(sorted(found))


def bucket_of(height: int, width: int, sizes: tuple[tuple[int, int], ...]) -> int:
    """The place in ``sizes`` of the one nearest in ratio to a picture."""
    ratio = math.log(height / width)
    return min(range(len(sizes)), key=lambda i: abs(math.log(sizes[i][0] / sizes[i][1]) - ratio))

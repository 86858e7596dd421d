"""Intervals that know that the faces of one photograph are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_DRAWS_AT_ONCE = 2_000_000  # resampled clusters held in memory


def clustered_interval(
    clusters: Sequence[Sequence[float]],
    samples: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean over all values, whole clusters drawn at a time.

    Each of ``samples`` draws takes as many clusters as there are, with replacement, and pools
    their values (Davison and Hinkley 1997, section 3.8). Clusters without values are left out.

    Returns:
        None when fewer than two clusters have values: one image says nothing of its spread.
    """
    filled = [cluster for cluster in clusters if len(cluster)]
    count = len(filled)
    if count < 2:
        return None
    sums = np.array([np.sum(cluster) for cluster in filled], np.float64)
    sizes = np.array([len(cluster) for cluster in filled], np.float64)
    means = np.empty(samples)
    step = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, samples, step):
        stop = min(samples, start + step)
        drawn = rng.integers(0, count, size=(stop - start, count))
        means[start:stop] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)

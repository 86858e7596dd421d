"""Intervals that know that the faces of one photograph are not independent, and paired tests.

Nothing here keeps a generator: each function draws from the one that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_DRAWS_AT_ONCE = 500_000  # resampled clusters held in memory
_TOLERANCE = 1e-9  # of the greatest difference: sums in another order are still the same sum

Floats = NDArray[np.float64]


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


def resampled_times(count: int, samples: int, rng: np.random.Generator) -> NDArray[np.uint16]:
    """(samples, count) how often each of ``count`` is drawn in bootstrap draws of as many."""
    times = np.empty((samples, count), np.uint16)
    even = np.full(count, 1.0 / count)
    step = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, samples, step):
        times[start : start + step] = rng.multinomial(count, even, min(step, samples - start))
    return times


def exact_interval(
    clusters: Sequence[Sequence[float]], level: float = 0.95
) -> tuple[float, float] | None:
    """Clopper and Pearson's interval where each value is 0, or each is 1; else None.

    Resampling equal values gives no spread, though 0 of 40 does not prove 0. The clusters are
    counted, not the values: forty faces of one photograph are one observation.

    Returns:
        None when values differ, are not 0 or 1, or come from fewer than two clusters.
    """
    filled = [cluster for cluster in clusters if len(cluster)]
    values = {float(value) for cluster in filled for value in cluster}
    if len(filled) < 2 or values not in ({0.0}, {1.0}):
        return None
    from scipy.stats import binomtest

    successes = len(filled) if values == {1.0} else 0
    found = binomtest(successes, len(filled)).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def share_interval(
    clusters: Sequence[Sequence[float]], samples: int, rng: np.random.Generator
) -> tuple[tuple[float, float] | None, dict[str, float]]:
    """The 95 % interval of a share of zeros and ones, and the details that belong to it.

    The clustered bootstrap, or :func:`exact_interval` where all values are equal, which
    ``exact_interval`` in the details tells.
    """
    exact = exact_interval(clusters)
    if exact is not None:
        return exact, {"exact_interval": 1.0}
    return clustered_interval(clusters, samples, rng), {}


def sign_flip_test(differences: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Two-sided p of each column's mean being 0, for paired differences (N, C).

    Under the null hypothesis either of a pair's two values may as well be the other's, so that
    each difference may change its sign (Fisher 1935; Good 2005, section 3.2). NaN marks a pair
    that a column lacks. Where a column has at most ``draws`` ways to flip its signs, all of them
    are counted; else ``draws`` random ones and the one observed (Phipson and Smyth 2010). All
    columns share the random signs.

    Returns:
        (C,) in (0, 1]; 1 where nothing differs.
    """
    filled = np.nan_to_num(differences, nan=0.0)
    observed = np.abs(filled.sum(axis=0))
    slack = _TOLERANCE * np.abs(filled).sum(axis=0)
    p = np.ones(filled.shape[1])
    many = []
    for column, values in enumerate(filled.T):
        moved = values[values != 0.0]
        if not len(moved):
            continue
        if 2.0 ** len(moved) > draws:
            many.append(column)
            continue
        flips = 1 - 2 * (np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1)
        p[column] = np.mean(np.abs(flips @ moved) >= observed[column] - slack[column])
    if many:
        as_far = np.zeros(len(many))
        step = max(1, _DRAWS_AT_ONCE // len(filled))
        for start in range(0, draws, step):
            shape = (min(draws, start + step) - start, len(filled))
            signs = 1.0 - 2.0 * rng.integers(0, 2, size=shape)
            as_far += (np.abs(signs @ filled[:, many]) >= observed[many] - slack[many]).sum(axis=0)
        p[many] = (as_far + 1) / (draws + 1)
    return p


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of ``p`` over all of them (Holm 1979)."""
    corrected = [0.0] * len(p)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        least = max(least, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = least
    return corrected


def seeds_interval(
    seeds: Sequence[Sequence[Sequence[float]]],
    samples: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Interval of the mean over several seeds: each draw takes seeds and, the same for all of
    them, images, both with replacement.

    ``seeds[s][i]`` are the values of image i under seed s; some may be empty. With one seed it is
    :func:`clustered_interval` over the images.

    Returns:
        None when fewer than two images have values.
    """
    if not seeds:
        return None
    filled = [image for image in zip(*seeds, strict=True) if any(len(values) for values in image)]
    if len(filled) < 2:
        return None
    sums = np.array([[np.sum(values) for values in image] for image in filled])  # (N, S)
    sizes = np.array([[len(values) for values in image] for image in filled], np.float64)
    count, number = sums.shape
    means = []
    for _ in range(samples):
        images = np.bincount(rng.integers(0, count, count), minlength=count)
        chosen = np.bincount(rng.integers(0, number, number), minlength=number)
        size = images @ sizes @ chosen
        if size:
            means.append(float(images @ sums @ chosen / size))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)

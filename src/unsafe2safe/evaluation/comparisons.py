"""Whether two rows really differ: paired tests over the images that both have.

Runs, folders and editors are compared with each other and with the reference ``blur``, by every
metric that gives a value to each image. Tests are corrected together (Holm), so that a long table
does not find a difference by its length alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.core.randomness import generator
from unsafe2safe.evaluation.results import Comparison
from unsafe2safe.metrics.base import ItemScore, Metric, SetMetric
from unsafe2safe.metrics.statistics import clustered_interval, holm, sign_flip_test

_DRAWS = 9_999  # of signs: the least p is 1e-4, which survives the correction over many metrics
_COMPARED_WITH = ("blur",)  # of the references


class Named(Protocol):
    """What a row is called, and whether it is a reference."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...


class Scored(Protocol):
    """The scores of one image in one row, by metric."""

    @property
    def scores(self) -> Mapping[str, ItemScore]: ...


Items = Sequence[Mapping[str, Scored]]


def compare(
    items: Items,
    rows: Sequence[Named],
    metrics: Mapping[str, Metric],
    *,
    samples: int,
    seed: int,
) -> tuple[Comparison, ...]:
    """All paired tests of ``rows`` over ``items``, metric by metric; ``samples`` bootstrap draws.

    The difference is the mean over images of the difference of each image's mean value. Metrics
    of the whole set have no values of images and are left out, as are pairs of rows without two
    images in common.
    """
    pairs = _pairs(rows)
    names = [name for name, metric in metrics.items() if not isinstance(metric, SetMetric)]
    keys = [(name, *pair) for name in names for pair in pairs]
    if not keys or not items:
        return ()
    means = {
        (name, row.name): np.array([_mean(item[row.name].scores[name]) for item in items])
        for name in names
        for row in rows
    }
    differences = np.stack([means[name, one] - means[name, other] for name, one, other in keys], 1)
    enough = (~np.isnan(differences)).sum(axis=0) >= 2
    differences = differences[:, enough]
    keys = [key for key, kept in zip(keys, enough, strict=True) if kept]
    p = sign_flip_test(differences, _DRAWS, generator(seed, "", 0, "sign flips"))
    found = [
        _comparison(key, column, chance, samples, seed)
        for key, column, chance in zip(keys, differences.T, p.tolist(), strict=True)
    ]
    corrected = holm(p.tolist())
    return tuple(replace(one, p_holm=value) for one, value in zip(found, corrected, strict=True))


def _pairs(rows: Sequence[Named]) -> list[tuple[str, str]]:
    own = [row.name for row in rows if row.kind != "reference"]
    others = [row.name for row in rows if row.kind == "reference" and row.name in _COMPARED_WITH]
    return [*combinations(own, 2), *((name, other) for name in own for other in others)]


def _mean(score: ItemScore) -> float:
    return float(np.mean(score.values)) if score.values else float("nan")


def _comparison(
    key: tuple[str, str, str], column: NDArray[np.float64], p: float, samples: int, seed: int
) -> Comparison:
    metric, row, other = key
    values = column[~np.isnan(column)]
    rng = generator(seed, "", 0, f"difference {metric}")
    return Comparison(
        metric=metric,
        row=row,
        other=other,
        n=len(values),
        difference=float(values.mean()),
        interval=clustered_interval([[value] for value in values.tolist()], samples, rng),
        p=p,
        p_holm=p,
    )

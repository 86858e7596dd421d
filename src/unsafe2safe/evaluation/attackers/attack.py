"""What attackers have in common: what they report beside their rate, and recognition at rank 1."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from unsafe2safe.core.config.components import component
from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.attackers.crops import (
    EMBEDDING,
    Crops,
    crop_arrays,
    identities,
    images_of,
    joined,
)
from unsafe2safe.metrics.base import Arrays, PairSample, SetMetric
from unsafe2safe.metrics.statistics import share_interval
from unsafe2safe.vision.arrays import FloatArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_HALF_WIDTH = 0.05  # of an interval; above it a rate says too little
_BOUND = 0.95  # of the permutations
_TIE = 1e-9


@component
class Attacker(SetMetric):
    """Base of attackers: the rate of success, beside what chance would give."""

    permutations: int = Field(
        default=1000, ge=200, description="Permutations of labels behind the floor of chance."
    )
    most_identities: int = Field(
        default=2000, ge=2, description="Identities that are attacked at most, drawn by the seed."
    )

    group = "privacy"
    direction = "down"

    def chosen(
        self, found: Sequence[Arrays], each: Sequence[int], rng: np.random.Generator
    ) -> Sequence[Arrays]:
        """Of ``found``, with ``each`` so many identities, as many pairs as hold at most
        ``most_identities``."""
        counts = np.array(each)
        if counts.sum() <= self.most_identities:
            return found
        order = rng.permutation(len(found))
        kept = order[np.cumsum(counts[order]) <= self.most_identities]
        return [found[index] for index in sorted(kept)]


def attacked(
    hits: Floats,
    images: Integers,
    by_chance: Floats,
    samples: int,
    rng: np.random.Generator,
    further: dict[str, float] | None = None,
) -> MetricResult:
    """The rate of an attack.

    ``hits`` (N,) in [0, 1] of identities, ``images`` (N,) tells which of them are of one image,
    ``by_chance`` are the rates under permuted labels. The details hold ``chance``, their mean,
    ``chance_high``, their 95th percentile, ``half_width`` of the interval and ``measurable``:
    0 where that is over 0.05.
    """
    clusters = [hits[images == image].tolist() for image in np.unique(images)]
    interval, details = share_interval(clusters, samples, rng)
    half_width = (interval[1] - interval[0]) / 2 if interval else float("inf")
    details |= {
        "identities": float(len(hits)),
        "chance": float(by_chance.mean()),
        "chance_high": float(np.quantile(by_chance, _BOUND)),
        "measurable": float(half_width <= MOST_HALF_WIDTH),
    }
    if interval:
        details["half_width"] = half_width
    return MetricResult(
        float(hits.mean()), len(hits), interval=interval, details=details | (further or {})
    )


def too_few(count: int) -> MetricResult:
    """Of a set on which nothing can be trained."""
    details = {"identities": float(count), "measurable": 0.0}
    return MetricResult(None, 0, n_not_applicable=count, details=details)


def folds(images: Integers, number: int) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """(N,) bool masks of training and test identities, those of one image on one side."""
    part = images % number
    for fold in range(number):
        yield part != fold, part == fold


def rank_one(similarity: Floats) -> tuple[Floats, Floats]:
    """Of (N, N) similarities of probes (rows) to the gallery (columns): (N, N) credits, 1 for the
    nearest, shared where several are as near, and (N,) those that the true ones, the diagonal, get.
    """
    best = similarity.max(axis=1, keepdims=True)
    nearest = similarity >= best - _TIE * np.maximum(np.abs(best), 1.0)
    credit = nearest / nearest.sum(axis=1, keepdims=True)
    return credit, np.diag(credit).copy()


def permuted_rates(credit: Floats, number: int, rng: np.random.Generator) -> Floats:
    """(number,) rates at rank 1 where the gallery's labels are permuted."""
    count = len(credit)
    rows = np.arange(count)
    return np.array([credit[rows, rng.permutation(count)].mean() for _ in range(number)])


def cosine(probes: Floats | FloatArray, gallery: Floats | FloatArray) -> Floats:
    """(N, M) cosines, both centred on the gallery's mean; a probe without a direction is like
    all of them."""
    middle = gallery.mean(axis=0, dtype=np.float64)
    unit = [(side - middle) for side in (probes, gallery)]
    unit = [side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9) for side in unit]
    found: Floats = unit[0] @ unit[1].T
    return found


@component
class Recognition(Attacker):
    """Base of attackers that look for the person of an edited crop in a gallery of originals.

    Each person (of photographs: each face) of each original is an identity of its own.
    """

    crop: int = Field(default=32, ge=16, le=256, description="Side of crops in pixels.")

    unit = "face"

    def expected(self, sample: PairSample) -> int:
        return identities(sample)

    def arrays(self, samples: Sequence[PairSample]) -> list[Arrays]:
        return [crop_arrays(sample, self.crop, embedded=True) for sample in samples]

    @override
    def conclude(
        self, found: Sequence[Arrays], samples: int, rng: np.random.Generator
    ) -> MetricResult:
        name = f"original.crops_{self.crop}"
        found = self.chosen(found, [len(arrays[name]) for arrays in found], rng)
        images = images_of(found, name)
        if len(images) < 2:
            return too_few(len(images))
        similarity, further = self.compared(Sides.of(found, self.crop), images)
        if similarity is None:
            return too_few(len(images))
        credit, hits = rank_one(similarity)
        by_chance = permuted_rates(credit, self.permutations, rng)
        return attacked(hits, images, by_chance, samples, rng, further)

    @abstractmethod
    def compared(self, sides: Sides, images: Integers) -> tuple[Floats | None, dict[str, float]]:
        """(N, N) similarities of edited crops (rows) to original ones (columns), and details.

        None where there are too few identities for this attacker.
        """


class Sides:
    """Crops of all identities and their features: ``original`` and ``edited``, (N, S, S, 3) uint8
    and (N, 1280)."""

    def __init__(
        self, crops: tuple[Crops, Crops], features: tuple[FloatArray, FloatArray] | None
    ) -> None:
        self.original, self.edited = crops
        if features is not None:
            self.original_features, self.edited_features = features

    @classmethod
    def of(cls, found: Sequence[Arrays], side: int) -> Sides:
        names = [f"{whose}.crops_{side}" for whose in ("original", "edited")]
        crops = joined(found, names[0]), joined(found, names[1])
        features = tuple(joined(found, f"{name}.{EMBEDDING}") for name in names)
        return cls(crops, (features[0], features[1]))


def coarse(crops: Crops) -> Floats:
    """(N, D) pixels of crops at a fourth of their size, in [-1, 1]."""
    count, side = crops.shape[0], crops.shape[1]
    part = side // 4
    cut = crops[:, : part * 4, : part * 4].astype(np.float64) / 127.5 - 1
    found: Floats = cut.reshape(count, part, 4, part, 4, 3).mean(axis=(2, 4)).reshape(count, -1)
    return found

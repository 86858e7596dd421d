"""How the labels of people are spread over groups, and what is left of the original ones.

An even spread is diversity, not privacy: an edit that turns each group into another one, always
the same, scores as high as any and can be undone. Mutual information tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unsafe2safe.core.config.components import build, component
from unsafe2safe.core.records import MetricResult
from unsafe2safe.metrics.base import Arrays, PairSample, SetMetric
from unsafe2safe.metrics.labels import Labeller
from unsafe2safe.metrics.statistics import resampled_times

Counts = NDArray[np.float64]
_PERMUTATIONS = 500


def entropies(counts: Counts) -> Counts:
    """Shannon entropies in nats of counts (..., K); 0 where there are none."""
    totals = np.maximum(counts.sum(axis=-1, keepdims=True), 1e-300)
    shares = counts / totals
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    found: Counts = -(shares * logs).sum(axis=-1)
    return found


def information_kept(tables: Counts) -> Counts:
    """Of tables (..., K, K) of labels before (rows) and after: I(before; after) / H(before).

    The uncertainty coefficient (Theil 1970): 1 where the label before can be told from the one
    after, 0 where nothing can. NaN where all people had one label before.
    """
    before = entropies(tables.sum(axis=-1))
    after = entropies(tables.sum(axis=-2))
    joint = entropies(tables.reshape(*tables.shape[:-2], -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        kept: Counts = np.where(before > 1e-12, (before + after - joint) / before, np.nan)
    return kept


def _resampled(per_image: Counts, samples: int, rng: np.random.Generator) -> Counts:
    """(samples, ...) sums of counts (N, ...) over images drawn with replacement."""
    times = resampled_times(len(per_image), samples, rng)
    flat = per_image.reshape(len(per_image), -1)
    summed: Counts = np.array([drawn @ flat for drawn in times])
    return summed.reshape(samples, *per_image.shape[1:])


def _interval(value: float, resampled: Counts) -> tuple[float, float] | None:
    """The percentile interval within [0, 1], moved so that its draws are around ``value``.

    Entropies of resampled labels are too low, and information too high, by as much again as those
    of the sample itself.
    """
    usable = resampled[np.isfinite(resampled)]
    if len(usable) < 2:
        return None
    low, high = np.quantile(usable, [0.025, 0.975]) + (value - usable.mean())
    return max(0.0, float(low)), min(1.0, float(high))


@component
class DemographicMetric(SetMetric):
    """Base of figures on labels of people."""

    labels: dict[str, Any] = Field(
        description="What labels people: a component of unsafe2safe.metrics.labels."
    )

    group = "privacy"
    unit = "face"

    @cached_property
    def labeller(self) -> Labeller:
        return build(self.labels, "labels", Labeller)  # type: ignore[type-abstract]

    @property
    def heading(self) -> str:
        return f"{self.title}: {self.labeller.name.partition('.')[0]}"

    def unavailable(self) -> str:
        return self.labeller.unavailable()

    def expected(self, sample: PairSample) -> int:
        return self.labeller.people(sample)


@component
class GroupEntropyPaper(DemographicMetric):
    """RaceEntropy as the paper defines it."""

    title = "Entropy over groups, paper's form"
    direction = "up"
    definition = (
        "Shannon entropy of the predicted labels of all people found in the edited images, over "
        "the logarithm of the number of groups (for race ln 5). It measures diversity, not "
        "privacy: a fixed exchange of groups scores high and can be undone. Without people found "
        "it does not apply."
    )

    def arrays(self, samples: Sequence[PairSample]) -> list[Arrays]:
        name = f"edited.labels_found.{self.labeller.name}"
        return [{name: self.labeller.found(sample)} for sample in samples]

    def conclude(
        self, found: Sequence[Arrays], samples: int, rng: np.random.Generator
    ) -> MetricResult:
        groups = self.labeller.groups
        name = f"edited.labels_found.{self.labeller.name}"
        per_image = np.array(
            [np.bincount(arrays[name], minlength=len(groups)) for arrays in found], np.float64
        )
        shown = per_image[per_image.sum(axis=1) > 0]
        empty = len(per_image) - len(shown)
        if not len(shown):
            return MetricResult(None, 0, n_not_applicable=empty)
        counts = shown.sum(axis=0)
        most = np.log(len(groups))
        value = float(entropies(counts) / most)
        interval = None
        if len(shown) > 1:
            interval = _interval(value, entropies(_resampled(shown, samples, rng)) / most)
        return MetricResult(
            value=value,
            n=int(counts.sum()),
            n_not_applicable=empty,
            interval=interval,
            details={
                f"share of {group}": float(share)
                for group, share in zip(groups, counts / counts.sum(), strict=True)
            },
        )


@component
class GroupInformation(DemographicMetric):
    """What the labels after the edit still tell of those before."""

    title = "Information kept on groups"
    direction = "down"
    definition = (
        "Mutual information between the label of each person of the original and the label of "
        "what stands in their place after the edit, over the entropy before: 1 where the one can "
        "be told from the other (by a fixed exchange of groups too), 0 where it cannot. Chance is "
        "the mean over permutations of the labels after; below its 95 % bound nothing is shown to "
        "be left. Does not apply where all people had one label."
    )

    def arrays(self, samples: Sequence[PairSample]) -> list[Arrays]:
        labeller = self.labeller
        return [
            {
                f"original.labels.{labeller.name}": labeller.before(sample),
                f"edited.labels_in_place.{labeller.name}": labeller.in_place(sample),
            }
            for sample in samples
        ]

    def conclude(
        self, found: Sequence[Arrays], samples: int, rng: np.random.Generator
    ) -> MetricResult:
        size = len(self.labeller.groups)
        before = [arrays[f"original.labels.{self.labeller.name}"] for arrays in found]
        after = [arrays[f"edited.labels_in_place.{self.labeller.name}"] for arrays in found]
        per_image = np.array(
            [_table(first, second, size) for first, second in zip(before, after, strict=True)]
        )
        total = per_image.sum(axis=0)
        count = int(total.sum())
        value = float(information_kept(total))
        if not np.isfinite(value):
            return MetricResult(None, 0, n_not_applicable=count)
        first, second = np.concatenate(before), np.concatenate(after)
        permuted = information_kept(
            np.array([_table(first, rng.permutation(second), size) for _ in range(_PERMUTATIONS)])
        )
        interval = None
        if len(found) > 1:
            interval = _interval(value, information_kept(_resampled(per_image, samples, rng)))
        return MetricResult(
            value=value,
            n=count,
            interval=interval,
            details={
                "chance": float(permuted.mean()),
                "chance_high": float(np.quantile(permuted, 0.95)),
                "entropy_before": float(entropies(total.sum(axis=1))),
                "entropy_after": float(entropies(total.sum(axis=0))),
            },
        )


def _table(before: NDArray[np.int64], after: NDArray[np.int64], size: int) -> Counts:
    """(size, size) how often each pair of labels stands together."""
    pairs = np.bincount(before * size + after, minlength=size * size)
    return pairs.reshape(size, size).astype(np.float64)

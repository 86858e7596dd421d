"""What a metric is: it gives each image some values, and says why where it gives none.

A metric is a component: one class here and one entry in ``configs/metrics``. It sees pairs of an
original and an edited image with their lazily computed features, so that a detector looks at each
image once however many metrics and rows ask for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.core.config.components import component
from unsafe2safe.core.records import MetricResult
from unsafe2safe.data.synthetic import Redrawn, Scene
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.metrics.statistics import clustered_interval, share_interval

if TYPE_CHECKING:
    from unsafe2safe.vision.attribute_reader import Reading

Direction = Literal["up", "down", "none"]
Group = Literal["quality", "cheating", "privacy", "utility"]


@dataclass(frozen=True, eq=False)
class SceneTruth:
    """What is known of a picture: its scene with the counterpart it was to become, and the
    originals of the whole set, among which it might be recognised."""

    redrawn: Redrawn
    gallery: Sequence[Scene]


@dataclass(frozen=True)
class Captions:
    """What Stage 1 wrote of the original, and the class that the data set gives it.

    They are kept in memory only; ``private`` is "" where nobody wrote it or may read it.
    """

    public: str = ""
    private: str = ""
    label: str | None = None


@dataclass(frozen=True, eq=False)
class PairSample:
    """An original, its edited image (None: missing) and what was sensitive in it.

    ``mask`` is (H, W) bool in the original's geometry, true where something sensitive is. The
    edited image has the original's size: it was resized where ``resized`` says so. ``truth`` is
    there where the data set knows what its pictures show. ``edited_file`` is the file that the
    edited image was read from, where it has one.
    """

    name: str
    original: ImageFeatures
    edited: ImageFeatures | None
    mask: NDArray[np.bool_]
    resized: bool = False
    truth: SceneTruth | None = None
    captions: Captions = Captions()
    edited_file: Path | None = None

    @property
    def after(self) -> ImageFeatures:
        """The edited image's features; only for pairs that have one."""
        if self.edited is None:
            raise ValueError(f"{self.name} has no edited image")
        return self.edited

    @cached_property
    def faces_in_place(self) -> NDArray[np.float32]:
        """(N, 128) embeddings of the edited image at the places of the original's N faces."""
        return self.after.embed_at(self.original.faces)

    @cached_property
    def reading(self) -> Reading:
        """What the attribute reader finds in the edited image; only for scenes."""
        if self.truth is None:
            raise ValueError(f"{self.name} is no scene whose record is known")
        from unsafe2safe.vision.attribute_reader import the_reader

        return the_reader().read(self.after.pixels[None], [self.truth.redrawn.source])[0]


Arrays = Mapping[str, NDArray[Any]]
_NO_ARRAYS: Arrays = {}  # one for all: there are as many scores as images, rows and metrics


@dataclass(frozen=True, slots=True)
class ItemScore:
    """What one metric found on one pair: values (one per unit), and counts of where it has none.

    ``arrays`` are what a metric of the whole set needs of this pair; see :class:`SetMetric`.
    """

    values: tuple[float, ...] = ()
    missing: int = 0
    not_applicable: int = 0
    arrays: Mapping[str, Any] = field(default_factory=lambda: _NO_ARRAYS, compare=False)


@component
class Metric(ABC):
    """Base of all metrics.

    The image is the cluster of the interval; ``unit`` is what is counted: a metric over faces has
    as many values for an image as its original has faces. An image to which the metric does not
    apply counts once in ``n_not_applicable``, as does each unit that a definition leaves out.
    """

    title: ClassVar[str]
    group: ClassVar[Group]
    direction: ClassVar[Direction]  # which way is better
    definition: ClassVar[str]  # told in the report
    unit: ClassVar[Literal["image", "face", "text", "value", "answer"]] = "image"
    model: ClassVar[str] = ""
    bounded: ClassVar[bool] = True  # in [0, 1], but for similarities that may fall below 0
    binary: ClassVar[bool] = False  # each value is 0 or 1, their mean a share
    of_identity: ClassVar[float | None] = None  # what the original itself must give, if told

    @property
    def heading(self) -> str:
        """What people read; tells metrics of one class apart."""
        return self.title

    def unavailable(self) -> str:
        """Why nothing can be measured at all (weights that are missing, say); "" where it can."""
        return ""

    @abstractmethod
    def expected(self, sample: PairSample) -> int:
        """How many values are due, told from the original and its mask; 0: does not apply."""

    @abstractmethod
    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        """The values of pairs that are complete and to which the metric applies.

        Fewer than expected where the definition itself leaves units out.
        """

    def measure(self, samples: Sequence[PairSample]) -> list[ItemScore]:
        """One score per pair, in order."""
        due = [self.expected(sample) for sample in samples]
        complete = [
            sample for sample, count in zip(samples, due, strict=True) if count and sample.edited
        ]
        found = iter(self.values(complete) if complete else [])
        scores = []
        for sample, count in zip(samples, due, strict=True):
            if not count:
                scores.append(ItemScore(not_applicable=1))
            elif sample.edited is None:
                scores.append(ItemScore(missing=count))
            else:
                values = tuple(float(value) for value in next(found))
                scores.append(ItemScore(values, not_applicable=count - len(values)))
        return scores

    def aggregate(
        self, scores: Sequence[ItemScore], samples: int, rng: np.random.Generator
    ) -> MetricResult:
        """The mean over all values, with an interval from ``samples`` bootstrap draws of images.

        A share of which all are 0, or all 1, has an exact interval; its details say so. A metric
        of the whole set (a distance of distributions, an entropy) overrides this.
        """
        clusters = [score.values for score in scores if score.values]
        values = [value for cluster in clusters for value in cluster]
        if self.binary:
            interval, details = share_interval(clusters, samples, rng)
        else:
            interval, details = clustered_interval(clusters, samples, rng), {}
        return MetricResult(
            value=float(np.mean(values)) if values else None,
            n=len(values),
            n_missing=sum(score.missing for score in scores),
            n_not_applicable=sum(score.not_applicable for score in scores),
            interval=interval,
            details=details,
        )


@component
class SetMetric(Metric):
    """Base of figures of a whole set: a distance of distributions, an attacker that is trained.

    Of each pair it takes arrays, and from all of them together it concludes. The arrays may hold
    embeddings and pixels of originals: they are written under ``paths.private`` only.
    """

    @abstractmethod
    def arrays(self, samples: Sequence[PairSample]) -> list[Arrays]:
        """What is needed of each complete pair to which the metric applies.

        Names that begin with ``original.`` must depend on the original alone: they are kept once
        for all rows. Metrics that give an array the same name share it, so that a name has to
        tell what it holds, the model included: ``edited.efficientnet_lite0``.
        """

    @abstractmethod
    def conclude(
        self, found: Sequence[Arrays], samples: int, rng: np.random.Generator
    ) -> MetricResult:
        """The figure of the pairs that have arrays, in order; missing ones are counted elsewhere.

        ``samples`` is how many bootstrap draws the interval takes; ``rng`` their generator.
        """

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        """None: no pair has a value of its own."""
        return [() for _ in samples]

    def measure(self, samples: Sequence[PairSample]) -> list[ItemScore]:
        due = [self.expected(sample) for sample in samples]
        complete = [s for s, count in zip(samples, due, strict=True) if count and s.edited]
        found = iter(self.arrays(complete) if complete else [])
        scores = []
        for sample, count in zip(samples, due, strict=True):
            if not count:
                scores.append(ItemScore(not_applicable=1))
            elif sample.edited is None:
                scores.append(ItemScore(missing=count))
            else:
                scores.append(ItemScore(arrays=next(found)))
        return scores

    def aggregate(
        self, scores: Sequence[ItemScore], samples: int, rng: np.random.Generator
    ) -> MetricResult:
        applied = [score.arrays for score in scores if not (score.missing or score.not_applicable)]
        result = self.conclude(applied, samples, rng) if applied else MetricResult(None, 0)
        return replace(
            result,
            n_missing=result.n_missing + sum(score.missing for score in scores),
            n_not_applicable=result.n_not_applicable
            + sum(score.not_applicable for score in scores),
        )

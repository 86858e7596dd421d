"""Whether the faces of the originals are found again in a gallery of all of them.

Every face of the originals is an identity of its own, and the gallery holds each one's embedding.
What an attacker compares with it (the probe) is what the edited image shows for that face: the
place where it was, and the face found in the edited image that the geometry assigns to it, one to
one, the nearest first. Of the two distances to a face of the gallery the lesser counts, for the
right face as for all others: a choice by the truth would find people by luck. A probe exists for
each original face, so that a vanished face counts as one that is not found, and is not left out.

The gallery knows each face from one photograph: if one person is in several, only the face of the
same image counts as found.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import digamma

from unsafe2safe.core.config.components import component
from unsafe2safe.core.records import Box, MetricResult
from unsafe2safe.metrics.base import Arrays, PairSample, SetMetric
from unsafe2safe.metrics.statistics import clustered_interval

LEAST_IDENTITIES = 200  # with fewer, or a wider interval, a rate is not measured but guessed
MOST_HALF_WIDTH = 0.05
FALSE_ACCEPTS = 1e-3
_PERMUTATIONS = 500
_ROWS = 64  # probes compared with the gallery at a time
_EQUAL = 1e-9  # of squared distances

Matrix = NDArray[np.float64]

GALLERY = "original.faces.dlib"
IN_PLACE = "edited.faces_in_place.dlib"
FOUND = "edited.faces_assigned.dlib"


def assigned_faces(before: Sequence[Box], after: Sequence[Box]) -> list[int | None]:
    """For each box before, the index of the box after that is its own: one to one, least summed
    distance of centres; None where there are fewer."""
    found: list[int | None] = [None] * len(before)
    if before and after:
        centres = [
            np.array([(box.x + box.width / 2, box.y + box.height / 2) for box in boxes])
            for boxes in (before, after)
        ]
        apart = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=2)
        for row, column in zip(*linear_sum_assignment(apart), strict=True):
            found[row] = int(column)
    return found


def probes(sample: PairSample) -> Arrays:
    """Embeddings (N, 128) of an original's N faces, of what stands in their places after the
    edit, and of the faces assigned to them: NaN where there is none."""
    before, after = sample.original, sample.after
    assigned = np.full_like(before.embeddings, np.nan, dtype=np.float32)
    chosen = assigned_faces([face.box for face in before.faces], [face.box for face in after.faces])
    for row, index in enumerate(chosen):
        if index is not None:
            assigned[row] = after.embeddings[index]
    return {GALLERY: before.embeddings, IN_PLACE: sample.faces_in_place, FOUND: assigned}


class Gallery:
    """Squared distances of all probes to all faces of the gallery, some rows at a time."""

    def __init__(self, found: Sequence[Arrays]) -> None:
        self.sizes = [len(arrays[GALLERY]) for arrays in found]
        self._gallery, in_place, assigned = (
            np.concatenate([arrays[name] for arrays in found]).astype(np.float64)
            for name in (GALLERY, IN_PLACE, FOUND)
        )
        self._probes = (in_place, assigned)
        self.count = len(self._gallery)

    def rows(self) -> Iterator[tuple[NDArray[np.int64], Matrix, Matrix]]:
        """Yields (indices, (R, N) squared distances, (R, 1) those to the right faces)."""
        norms = (self._gallery**2).sum(axis=1)
        for start in range(0, self.count, _ROWS):
            indices = np.arange(start, min(start + _ROWS, self.count))
            each = [
                (probe[indices] ** 2).sum(axis=1)[:, None]
                + norms
                - 2.0 * probe[indices] @ self._gallery.T
                for probe in self._probes
            ]
            distances: Matrix = np.maximum(np.fmin(*each), 0.0)
            yield indices, distances, distances[np.arange(len(indices)), indices][:, None]

    def by_image(self, values: Matrix) -> list[list[float]]:
        """Values of all probes, (N,), cut into those of each image."""
        return [part.tolist() for part in np.split(values, np.cumsum(self.sizes)[:-1])]


def ranks(distances: Matrix, right: Matrix) -> tuple[Matrix, Matrix]:
    """(R,) how many of (R, N) distances are less than the right ones (R, 1), and how many others
    are equal to them."""
    less = (distances < right - _EQUAL).sum(axis=1).astype(np.float64)
    equal = (np.abs(distances - right) <= _EQUAL).sum(axis=1) - 1.0
    return less, equal


@component
class Reidentification(SetMetric):
    """Base of what is found again in the gallery."""

    group = "privacy"
    direction = "down"
    unit = "face"
    model = "dlib ResNet face embedding (face_identity.onnx), faces found by CenterFace"

    def expected(self, sample: PairSample) -> int:
        return len(sample.original.faces)

    def arrays(self, samples: Sequence[PairSample]) -> list[Arrays]:
        return [probes(sample) for sample in samples]

    def conclude(
        self, found: Sequence[Arrays], samples: int, rng: np.random.Generator
    ) -> MetricResult:
        gallery = Gallery(found)
        if gallery.count < 2:  # a face alone is found whatever the probe shows
            return MetricResult(None, 0, n_not_applicable=gallery.count)
        values, chance, details = self.compare(gallery, rng)
        return self._result(gallery, values, chance, details, samples, rng)

    @abstractmethod
    def compare(
        self, gallery: Gallery, rng: np.random.Generator
    ) -> tuple[Matrix, Matrix | float, dict[str, float]]:
        """(N,) one value per probe; the means under permuted identities, or what is known of
        them; and what else belongs to the value."""

    def _result(
        self,
        gallery: Gallery,
        values: Matrix,
        chance: Matrix | float,
        details: dict[str, float],
        samples: int,
        rng: np.random.Generator,
    ) -> MetricResult:
        """The mean of ``values``, one per probe, with what tells whether it says anything."""
        interval = clustered_interval(gallery.by_image(values), samples, rng)
        half_width = (interval[1] - interval[0]) / 2.0 if interval else float("inf")
        measurable = gallery.count >= LEAST_IDENTITIES and half_width <= MOST_HALF_WIDTH
        told = {
            **details,
            "chance": float(np.mean(chance)),
            "chance_high": float(np.quantile(chance, 0.95)),
            "identities": float(gallery.count),
            "measurable": float(measurable),
        }
        if interval:
            told["half_width"] = half_width
        return MetricResult(float(values.mean()), gallery.count, interval=interval, details=told)


_COMMON = (
    " The probe is what the edited image shows in the face's place or the face found nearest to "
    "it; the gallery is every original face measured, each an identity. Chance is measured by "
    "permuting identities. Under 200 identities, or with an interval wider than 5 points to "
    "either side, it is not measurable."
)


@component
class ReidentificationRank1(Reidentification):
    """How often the nearest face of the gallery is the right one."""

    title = "Re-identified at rank 1 in a gallery"
    definition = (
        "Share of the original faces whose probe is nearest to the right face of the gallery; "
        "equal distances share the rank." + _COMMON
    )

    def compare(
        self, gallery: Gallery, rng: np.random.Generator
    ) -> tuple[Matrix, Matrix | float, dict[str, float]]:
        values = np.zeros(gallery.count)
        nearest = np.zeros(gallery.count, np.int64)
        for indices, distances, right in gallery.rows():
            less, equal = ranks(distances, right)
            values[indices] = np.where(less == 0, 1.0 / (1.0 + equal), 0.0)
            nearest[indices] = distances.argmin(axis=1)
        chance = np.array(
            [(rng.permutation(gallery.count) == nearest).mean() for _ in range(_PERMUTATIONS)]
        )
        return values, chance, {}


@component
class ReidentificationMap(Reidentification):
    """How far up the gallery the right face stands."""

    title = "Re-identification, mean average precision"
    definition = (
        "Mean over the original faces of 1 / the rank of the right face of the gallery: the mean "
        "average precision where each probe has one right answer." + _COMMON
    )

    def compare(
        self, gallery: Gallery, rng: np.random.Generator
    ) -> tuple[Matrix, Matrix | float, dict[str, float]]:
        count = gallery.count
        values = np.zeros(count)
        for indices, distances, right in gallery.rows():
            less, equal = ranks(distances, right)
            # mean of 1 / rank over the ranks that equal distances share
            values[indices] = (digamma(less + equal + 2.0) - digamma(less + 1.0)) / (equal + 1.0)
        # the rank of an identity drawn at random is any, each as likely
        chance = [(1.0 / rng.integers(1, count + 1, count)).mean() for _ in range(_PERMUTATIONS)]
        return values, np.array(chance), {}


@component
class ReidentificationTar(Reidentification):
    """How many are verified where one stranger in a thousand is."""

    title = "Verified at a false accept rate of 0.001"
    definition = (
        "Share of the original faces whose probe is nearer to the right face of the gallery than "
        "the distance below which one comparison in a thousand with other faces lies (TAR at FAR "
        "0.001). Chance is that rate itself." + _COMMON
    )

    def compare(
        self,
        gallery: Gallery,
        rng: np.random.Generator,  # noqa: ARG002
    ) -> tuple[Matrix, Matrix | float, dict[str, float]]:
        count = gallery.count
        accepted = int(FALSE_ACCEPTS * count * (count - 1))
        nearest_strangers = np.full(0, np.inf)
        genuine = np.zeros(count)
        for indices, distances, right in gallery.rows():
            genuine[indices] = right[:, 0]
            distances[np.arange(len(indices)), indices] = np.inf
            pooled = np.concatenate([nearest_strangers, distances.ravel()])
            nearest_strangers = np.partition(pooled, accepted)[: accepted + 1]
        threshold = float(nearest_strangers.max())
        values = (genuine < threshold - _EQUAL).astype(np.float64)
        chance = accepted / (count * (count - 1))
        return values, chance, {"distance": threshold**0.5}

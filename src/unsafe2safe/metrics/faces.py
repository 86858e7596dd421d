"""Whether the people of the original can still be recognised.

The embedded identity model is dlib's ResNet, trained so that two pictures of one person lie within
an L2 distance of 0.6. Its embeddings share a large common part, so that the cosine of two strangers
is still high; the distance is what it was calibrated for. Similarity is therefore
``max(0, 1 - distance / 1.2)``: 1 for equal embeddings, one half at the threshold of recognition,
0 from twice the threshold on. The paper's form uses the same scale, so that both can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat
from scipy.optimize import linear_sum_assignment

from unsafe2safe.core.config.components import component
from unsafe2safe.metrics.base import Metric, PairSample
from unsafe2safe.vision.matching import match_boxes

SAME_PERSON = 0.6  # L2 distance below which dlib's model calls two faces one person
_MODEL = "dlib ResNet face embedding (face_identity.onnx), faces found by CenterFace"


def similarity(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """L2 distances of embeddings as similarities in [0, 1]; see the module's text."""
    scaled: NDArray[np.float64] = np.clip(1.0 - distances / (2.0 * SAME_PERSON), 0.0, 1.0)
    return scaled


def distance_matrix(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, M) L2 distances between (N, D) and (M, D) embeddings."""
    difference = first[:, None, :].astype(np.float64) - second[None, :, :].astype(np.float64)
    distances: NDArray[np.float64] = np.sqrt((difference**2).sum(axis=2))
    return distances


def best_similarities(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(N,) for each of ``first`` its best similarity among ``second``; M must be at least 1."""
    best: NDArray[np.float64] = similarity(distance_matrix(first, second)).max(axis=1)
    return best


def remaining_distances(sample: PairSample) -> NDArray[np.float64]:
    """(N,) distance of each original face from what is left of it in the edited image.

    The lesser of two: what stands at the face's own place, found by a detector or not, and the
    edited face that a one-to-one assignment of least total distance gives it, wherever it stands.
    """
    before = sample.original.embeddings.astype(np.float64)
    in_place = np.linalg.norm(before - sample.faces_in_place.astype(np.float64), axis=1)
    found = distance_matrix(sample.original.embeddings, sample.after.embeddings)
    least: NDArray[np.float64] = in_place
    rows, columns = linear_sum_assignment(found)
    least[rows] = np.minimum(least[rows], found[rows, columns])
    return least


@component
class FaceMetric(Metric):
    """Base of metrics with one value per face of the original."""

    group = "privacy"
    unit = "face"
    model = _MODEL

    def expected(self, sample: PairSample) -> int:
        return len(sample.original.faces)


@component
class FaceSimPaper(FaceMetric):
    """FaceSim as the paper defines it, traps included (FACTS: a face not found is left out)."""

    title = "FaceSim, paper's form"
    direction = "down"
    of_identity = 1.0
    definition = (
        "Mean over the original's faces of the best similarity among the faces found in the edited "
        "image. Where none is found the original's faces are left out (counted as not applicable), "
        "so perfect removal earns nothing and a failed detector hides leaks. The identity model is "
        "dlib's, not ArcFace: figures cannot be compared with published ones."
    )

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            tuple(best_similarities(sample.original.embeddings, sample.after.embeddings))
            if sample.after.faces
            else ()
            for sample in samples
        ]


@component
class FaceSim(FaceMetric):
    """FaceSim with its traps closed: each original face has a value."""

    title = "FaceSim"
    direction = "down"
    of_identity = 1.0
    definition = (
        "Mean over the original's faces of their similarity to what is left of them: the greater "
        "of the similarity at the face's own place in the edited image, whether a detector finds a "
        "face there or not, and that of the edited face assigned to it one to one. Similarity is "
        "max(0, 1 - L2 distance / 1.2): 1 identical, 0.5 the threshold of recognition."
    )

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [tuple(similarity(remaining_distances(sample))) for sample in samples]


@component
class FaceLeakRate(FaceMetric):
    """Share of the original's faces that are still recognised.

    ``distance``: L2 distance below which a face counts as recognised.
    """

    distance: PositiveFloat = Field(
        default=SAME_PERSON, description="Embeddings nearer than this (L2) are one person."
    )

    title = "Faces recognised"
    direction = "down"
    binary = True
    of_identity = 1.0
    definition = (
        "Share of the original's faces whose distance from what is left of them (as in FaceSim) is "
        "below the threshold at which the identity model calls two faces one person (0.6)."
    )

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            tuple((remaining_distances(sample) < self.distance).astype(np.float64))
            for sample in samples
        ]


@component
class FacesVanished(FaceMetric):
    """Share of the original's faces with no face in their place.

    ``least_iou``: overlap from which a face of the edited image stands in an original's place.
    """

    least_iou: PositiveFloat = Field(
        default=0.3, description="Overlap from which a face found after the edit is the same one."
    )

    title = "Faces vanished"
    direction = "none"
    binary = True
    of_identity = 0.0
    definition = (
        "Share of the original's faces in whose place the detector finds no face in the edited "
        "image (one-to-one matching of boxes, IoU of at least 0.3). Neither good nor bad by "
        "itself: it says how many faces the paper's FaceSim may leave out."
    )

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [self._vanished(sample) for sample in samples]

    def _vanished(self, sample: PairSample) -> tuple[float, ...]:
        before = [face.box for face in sample.original.faces]
        after = [face.box for face in sample.after.faces]
        kept = {first for first, _ in match_boxes(before, after, self.least_iou)}
        return tuple(float(index not in kept) for index in range(len(before)))

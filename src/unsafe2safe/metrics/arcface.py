"""FaceSim by an ArcFace model: the paper's family, which the embedded model is not of."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.metrics.base import Metric, PairSample
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.arcface import ArcFace, arcface
from unsafe2safe.vision.arrays import FloatArray
from unsafe2safe.vision.faces import Face

Cosines = NDArray[np.float32]
_found: WeakKeyDictionary[PairSample, dict[str, tuple[Cosines, Cosines]]] = WeakKeyDictionary()


@component
class ArcFaceMetric(Metric):
    """Base of similarities of faces by ArcFace."""

    weights: str | None = Field(
        default=None,
        description="ONNX file of an ArcFace model that takes aligned RGB faces in [-1, 1], such "
        "as insightface's w600k_r50.onnx.",
    )

    group = "privacy"
    direction = "down"
    unit = "face"
    model = "ArcFace (ONNX file of the user), faces found by CenterFace"

    @property
    def _network(self) -> ArcFace:
        if self.weights is None:
            raise UsageError("no ArcFace model is set (weights)")
        return arcface(self.weights)

    def unavailable(self) -> str:
        try:
            self._network.load()
        except UsageError as error:
            return str(error)
        return ""

    def expected(self, sample: PairSample) -> int:
        return len(sample.original.faces)

    def _cosines(self, sample: PairSample) -> tuple[Cosines, Cosines]:
        """(N,) of each original face with its place in the edited image, and (N, M) with the faces
        found there."""
        network = self._network
        kept = _found.setdefault(sample, {})
        if network.version not in kept:
            before = self._own(sample.original)
            in_place = network.embed(sample.after.pixels, sample.original.faces)
            kept[network.version] = (
                np.asarray((before * in_place).sum(axis=1), np.float32),
                np.asarray(before @ self._own(sample.after).T, np.float32)
                if sample.after.faces
                else np.zeros((len(before), 0), np.float32),
            )
        return kept[network.version]

    def _own(self, image: ImageFeatures) -> FloatArray:
        """(N, D) embeddings of an image's own faces, which are remembered with it."""
        faces: Sequence[Face] = image.faces
        version = f"{self._network.version} of {image.perception.version('faces')}"
        kept = image.recall(version)
        if kept is None:
            kept = {"e": self._network.embed(image.pixels, faces)}
            image.remember(version, kept)
        embeddings: FloatArray = kept["e"]
        return embeddings


@component
class FaceSimArcFacePaper(ArcFaceMetric):
    """FaceSim as the paper defines it, traps included."""

    title = "FaceSim by ArcFace, paper's form"
    definition = (
        "Mean over the original's faces of the best ArcFace cosine among the faces found in the "
        "edited image. Where none is found the original's faces are left out (counted as not "
        "applicable), so perfect removal earns nothing and a failed detector hides leaks."
    )

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            tuple(self._cosines(sample)[1].max(axis=1).tolist()) if sample.after.faces else ()
            for sample in samples
        ]


@component
class FaceSimArcFace(ArcFaceMetric):
    """FaceSim by ArcFace with its traps closed."""

    title = "FaceSim by ArcFace"
    definition = (
        "Mean over the original's faces of their ArcFace cosine with what is left of them: the "
        "greater of that at the face's own place in the edited image, whether a face is found "
        "there or not, and that of the edited face assigned to it one to one."
    )

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [self._remaining(sample) for sample in samples]

    def _remaining(self, sample: PairSample) -> tuple[float, ...]:
        in_place, found = self._cosines(sample)
        best = in_place.copy()
        rows, columns = linear_sum_assignment(found, maximize=True)
        best[rows] = np.maximum(best[rows], found[rows, columns])
        return tuple(best.tolist())

"""Who a face is: dlib's 128 numbers, and the distance between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from unsafe2safe.core.records import Box
from unsafe2safe.vision.arrays import FloatArray, RgbImage, resized
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.models import session

_CHIP = 150
_BATCH = 32
_REDUCED = (32, 24, 20, 16, 12)  # pixels of an aligned face at which people still tell who it is
# Where the five landmarks of an aligned face lie in a chip of 112 pixels for ArcFace, and in ours.
ARCFACE_TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
_TEMPLATE = ARCFACE_TEMPLATE * 1.491 + np.array([-9.36, -29.8])


class FaceIdentity:
    """Embeds faces; the same person is about < 0.5 apart (L2), other people > 0.6."""

    # Landmarks of an upright face as fractions of CenterFace's box.
    nominal_landmarks = np.array(
        [[0.284, 0.360], [0.716, 0.360], [0.500, 0.554], [0.320, 0.725], [0.680, 0.725]]
    )

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads

    @cached_property
    def _session(self) -> Any:
        return session("face_identity", self.threads)

    def embed(self, image: RgbImage, faces: Sequence[Face]) -> FloatArray:
        """Embeddings (N, 128) of ``faces`` of ``image`` (H, W, 3) uint8 RGB."""
        return self._embed([chip(image, face.landmarks) for face in faces])

    def embed_reduced(self, image: RgbImage, faces: Sequence[Face]) -> FloatArray:
        """Embeddings (M, 128) of ``faces`` as they look once details are lost, at several sizes.

        A blurred face is nowhere near the sharp one of the same person, which people recognize in
        it all the same; it is near that one blurred. Of sharp faces, none gets nearer by it.
        """
        chips = [chip(image, face.landmarks) for face in faces]
        return self._embed([_reduced(each, side) for each in chips for side in _REDUCED])

    def embed_boxes(self, image: RgbImage, boxes: Sequence[Box]) -> FloatArray:
        """Embeddings (N, 128) of what is in ``boxes``, taken for upright faces.

        For places where a detector finds no face, or no longer: landmarks are assumed where
        they are on the mean face.
        """
        return self._embed(
            [
                chip(image, self.nominal_landmarks * (box.width, box.height) + (box.x, box.y))
                for box in boxes
            ]
        )

    def _embed(self, chips: list[RgbImage]) -> FloatArray:
        parts = [np.zeros((0, 128), np.float32)]
        for start in range(0, len(chips), _BATCH):
            batch = np.stack(chips[start : start + _BATCH]).transpose(0, 3, 1, 2)
            parts.append(self._session.run(["e"], {"x": batch.astype(np.float32)})[0])
        return np.concatenate(parts)

    @staticmethod
    def distance(a: FloatArray, b: FloatArray) -> FloatArray:
        """L2 distances (N, M) between embeddings (N, 128) and (M, 128)."""
        return np.asarray(cdist(a, b), np.float32)


def chip(
    image: RgbImage,
    landmarks: npt.NDArray[np.floating],
    template: npt.NDArray[np.float64] = _TEMPLATE,
    side: int = _CHIP,
) -> RgbImage:
    """The aligned face (side, side, 3) whose five ``landmarks`` (5, 2) lie in ``image``.

    ``template`` (5, 2) says where they are to lie, in pixels.
    """
    # Landmarks are measured from the frame's edge, pixels by their centres: hence the halves.
    points = np.asarray(landmarks, np.float64)
    transform = _similarity(points - 0.5, template)
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if scale < 1:  # bilinear sampling of a face larger than its chip would alias
        height, width = image.shape[:2]
        sides = max(1, round(height * scale)), max(1, round(width * scale))
        image = resized(image, *sides)
        unit = np.array([sides[1] / width, sides[0] / height])
        transform = _similarity(points * unit - 0.5, template)
    warped: RgbImage = cv2.warpAffine(
        image, transform, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return warped


def _reduced(aligned: RgbImage, side: int) -> RgbImage:
    """A chip brought down to ``side`` pixels and back."""
    small = cv2.resize(aligned, (side, side), interpolation=cv2.INTER_AREA)
    enlarged: RgbImage = cv2.resize(small, (_CHIP, _CHIP), interpolation=cv2.INTER_CUBIC)
    return enlarged


def _similarity(
    points: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The 2 x 3 rotation, scale and shift that brings ``points`` nearest to ``targets``.

    Least squares in complex numbers: target = a point + b.
    """
    p, t = (q[:, 0] + 1j * q[:, 1] for q in (points, targets))
    centred = p - p.mean()
    spread = max(float(np.sum(np.abs(centred) ** 2)), 1e-9)
    a = complex(np.sum((t - t.mean()) * centred.conj()) / spread)
    b = complex(t.mean() - a * p.mean())
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])

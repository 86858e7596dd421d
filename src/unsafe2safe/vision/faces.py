"""Faces and their landmarks (CenterFace)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from unsafe2safe.core.records import Box
from unsafe2safe.vision.arrays import FloatArray, RgbImage, resized
from unsafe2safe.vision.masks import Window
from unsafe2safe.vision.models import session
from unsafe2safe.vision.regions import clipped, suppress

_STRIDE = 4  # pixels per cell of the output maps
_MULTIPLE = 32  # what the network's sides must be divisible by
_MOST_PIXELS = 2048 * 2048  # of one inference: about 1 GB of activations
_MOST_IOU = 0.3
_ENOUGH = 128  # pixels of a face's shorter side: larger ones are found no better
_MIRRORED = [1, 0, 2, 4, 3]  # landmarks of a mirrored face: eyes and mouth corners change places


@dataclass(frozen=True, eq=False)
class Face:
    """A face: its box, the detector's score in [0, 1] and five landmarks.

    ``landmarks`` is (5, 2) float32, x and y in pixels: the eyes, the nose, the corners of the
    mouth, those on the image's left first.
    """

    box: Box
    score: float
    landmarks: FloatArray


@dataclass(frozen=True)
class _View:
    """One image at one size, mirrored or not."""

    index: int
    height: int
    width: int
    mirrored: bool

    @property
    def padded(self) -> tuple[int, int]:
        return tuple(-(-side // _MULTIPLE) * _MULTIPLE for side in (self.height, self.width))  # type: ignore[return-value]


class FaceDetector:
    """Finds faces at one or several sizes of the image.

    Args:
        threshold: least score of a face.
        long_side: long side in pixels to which images are brought at scale 1, larger ones and
            smaller ones alike; None keeps their own size.
        threads: threads of the model; 0 leaves it to the library.
        scales: sizes looked at, relative to ``long_side``. What is found at several is merged.
        flip: look at the mirror image too.

    A view never exceeds about four million pixels; a greater one is reduced to that.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        long_side: int | None = 640,
        threads: int = 0,
        scales: tuple[float, ...] = (1.0,),
        flip: bool = False,
    ) -> None:
        self.threshold = threshold
        self.long_side = long_side
        self.threads = threads
        self.scales = scales
        self.flip = flip

    @classmethod
    def strict(cls, threshold: float, threads: int = 0) -> FaceDetector:
        """For verification: half, own and double size of the image, each mirrored too."""
        return cls(threshold, None, threads, scales=(0.5, 1.0, 2.0), flip=True)

    @cached_property
    def _session(self) -> Any:
        return session("centerface", self.threads)

    def detect(self, images: Sequence[RgbImage]) -> list[list[Face]]:
        """Faces of each image (H, W, 3) uint8 RGB, best score first, boxes within the frame."""
        return self._detect(images, [self._ratio(image) for image in images])

    def detect_in(
        self, image: RgbImage, windows: Sequence[Window], sides: Sequence[float] = ()
    ) -> list[Face]:
        """Faces in parts of an image, each seen at the size at which it is in the whole one.

        ``sides`` is for each window the shorter side of the least face that may be in it, in
        pixels, 0 where that is unknown: of large faces as much is seen at less expense. A face that
        reaches into a window only may be missed. Boxes are of the whole image.
        """
        parts = [image[window.rows, window.columns] for window in windows]
        ratio = self._ratio(image)
        ratios = [min(ratio, _ENOUGH / side) if side else ratio for side in sides]
        found = self._detect(parts, ratios or [ratio] * len(parts))
        faces = [
            Face(
                face.box.moved(window.left, window.top),
                face.score,
                face.landmarks + np.array([window.left, window.top], np.float32),
            )
            for window, seen in zip(windows, found, strict=True)
            for face in seen
        ]
        return _merged(faces)

    def _ratio(self, image: RgbImage) -> float:
        """How much an image is enlarged at scale 1."""
        return self.long_side / max(image.shape[:2]) if self.long_side else 1.0

    def _detect(self, images: Sequence[RgbImage], ratios: Sequence[float]) -> list[list[Face]]:
        groups: dict[tuple[int, int], list[_View]] = defaultdict(list)
        for index, (image, ratio) in enumerate(zip(images, ratios, strict=True)):
            for view in self._views(index, image, ratio):
                groups[view.padded].append(view)
        found: list[list[Face]] = [[] for _ in images]
        for size, views in groups.items():
            step = max(1, _MOST_PIXELS // (size[0] * size[1]))
            for start in range(0, len(views), step):
                for view, faces in self._run(images, size, views[start : start + step]):
                    found[view.index].extend(faces)
        return [_merged(faces) for faces in found]

    def _views(self, index: int, image: RgbImage, base: float) -> list[_View]:
        height, width = image.shape[:2]
        greatest = (_MOST_PIXELS / (height * width)) ** 0.5
        views: dict[_View, None] = {}  # ordered set: bounded scales may coincide
        for scale in self.scales:
            ratio = min(base * scale, greatest)
            sides = max(1, round(height * ratio)), max(1, round(width * ratio))
            for mirrored in (False, True) if self.flip else (False,):
                views[_View(index, *sides, mirrored)] = None
        return list(views)

    def _run(
        self, images: Sequence[RgbImage], size: tuple[int, int], views: Sequence[_View]
    ) -> list[tuple[_View, list[Face]]]:
        batch = np.zeros((len(views), 3, *size), np.float32)
        for row, view in enumerate(views):
            pixels = resized(images[view.index], view.height, view.width)
            if view.mirrored:
                pixels = pixels[:, ::-1]
            batch[row, :, : view.height, : view.width] = pixels.transpose(2, 0, 1)
        maps = self._session.run(["537", "538", "539", "540"], {"input.1": batch})
        return [
            (view, self._decode(view, images[view.index], [m[row] for m in maps]))
            for row, view in enumerate(views)
        ]

    def _decode(
        self,
        view: _View,
        image: RgbImage,
        maps: Sequence[FloatArray],
    ) -> list[Face]:
        heat, log_size, offset, points = maps
        height, width = image.shape[:2]
        unit = np.array([width / view.width, height / view.height], np.float32)
        rows, columns = np.nonzero(heat[0] >= self.threshold)
        scores = heat[0, rows, columns]
        sizes = np.exp(log_size[::-1, rows, columns].T) * _STRIDE  # width, height
        cells = np.stack([columns, rows], axis=1).astype(np.float32)
        corners = (cells + offset[::-1, rows, columns].T + 0.5) * _STRIDE - sizes / 2
        parts = points[:, rows, columns].T.reshape(-1, 5, 2)[..., ::-1]  # of the box, x and y
        landmarks = (corners[:, None] + parts * sizes[:, None]) * unit
        corners, sizes = corners * unit, sizes * unit
        if view.mirrored:
            corners[:, 0] = width - corners[:, 0] - sizes[:, 0]
            landmarks[..., 0] = width - landmarks[..., 0]
            landmarks = landmarks[:, _MIRRORED]
        found = zip(np.hstack([corners, sizes]).tolist(), scores.tolist(), landmarks, strict=True)
        faces = [Face(clipped(Box(*box), width, height), *rest) for box, *rest in found]
        return _merged([face for face in faces if face.box.area > 0])


def _merged(faces: list[Face]) -> list[Face]:
    kept = suppress([face.box for face in faces], [face.score for face in faces], _MOST_IOU)
    return [faces[index] for index in kept]

"""``detector=dlib_hog``: dlib's frontal face detector, where dlib is installed."""

from __future__ import annotations

import importlib.util
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Box, Category
from unsafe2safe.vision.arrays import RgbImage
from unsafe2safe.vision.detectors import Detection, Detector
from unsafe2safe.vision.regions import clipped

_MOST_PIXELS = 4096 * 4096  # of the enlarged image; about 1 s each 4 million


@component
class DlibHog(Detector):
    """Histograms of oriented gradients (King 2009): upright, frontal faces.

    It shares neither training data nor method with the embedded network.
    """

    threshold: float = Field(
        default=0.0, description="Least score of a face, on dlib's own scale; lower finds more."
    )
    upsample: int = Field(
        default=1, ge=0, le=3, description="How often the image is doubled first: 80 px faces, 40."
    )

    def __post_init__(self) -> None:
        if importlib.util.find_spec("dlib") is None:
            raise UsageError(f"detector={self.name} needs dlib: pip install dlib-bin")

    @cached_property
    def _hog(self) -> Any:
        import dlib

        return dlib.get_frontal_face_detector()

    def detect(self, image: RgbImage) -> list[Detection]:
        height, width = image.shape[:2]
        doublings = self.upsample
        while doublings and (height << doublings) * (width << doublings) > _MOST_PIXELS:
            doublings -= 1
        boxes, scores, _ = self._hog.run(np.ascontiguousarray(image), doublings, self.threshold)
        found = []
        for box, score in zip(boxes, scores, strict=True):
            shape = Box(box.left(), box.top(), box.width(), box.height())
            inside = clipped(shape, width, height)
            if inside.area > 0:
                found.append(Detection(inside, Category.FACE, float(score)))
        return found

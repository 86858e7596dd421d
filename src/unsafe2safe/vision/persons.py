"""The outline of one person (MediaPipe Selfie segmentation)."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from unsafe2safe.core.records import Box
from unsafe2safe.vision.arrays import Mask, RgbImage, resized
from unsafe2safe.vision.models import session
from unsafe2safe.vision.regions import grow

_SIDE = 256
_MARGIN = 0.1


class PersonSegmenter:
    """Segments the person in a box."""

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads

    @cached_property
    def _session(self) -> Any:
        return session("person_mask", self.threads)

    def segment(self, image: RgbImage, box: Box) -> Mask:
        """Alpha (H, W) in [0, 1] of the person in ``box``; 0 outside the box grown by a tenth."""
        height, width = image.shape[:2]
        mask = np.zeros((height, width), np.float32)
        zone = grow(box, _MARGIN, width, height)
        if zone.area == 0:
            return mask
        rows = slice(math.floor(zone.y), math.ceil(zone.bottom))
        columns = slice(math.floor(zone.x), math.ceil(zone.right))
        crop = image[rows, columns]
        pixels = resized(crop, _SIDE, _SIDE).astype(np.float32)[None] / 255
        alpha = self._session.run(["activation_10"], {"input_1": pixels})[0][0, :, :, 0]
        mask[rows, columns] = np.clip(resized(alpha, *crop.shape[:2]), 0.0, 1.0)
        return mask

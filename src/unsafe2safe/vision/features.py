"""Image features and ImageNet classes (EfficientNet-Lite0)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from unsafe2safe.vision.arrays import FloatArray, RgbImage, resized
from unsafe2safe.vision.models import session

_SIDE = 224
_BATCH = 16


class ImageFeatures:
    """Features and logits of whole frames, brought to 224 x 224 without cropping.

    A centre crop would not see what happens near the border of an anonymized image.
    """

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads

    @cached_property
    def _session(self) -> Any:
        return session("efficientnet_lite0", self.threads)

    def features(self, images: Sequence[RgbImage]) -> FloatArray:
        """(N, 1280) of images (H, W, 3) uint8 RGB of any sizes."""
        return self._run(images, "features", 1280)

    def logits(self, images: Sequence[RgbImage]) -> FloatArray:
        """(N, 1000) over ImageNet's classes."""
        return self._run(images, "logits", 1000)

    def _run(self, images: Sequence[RgbImage], output: str, size: int) -> FloatArray:
        parts = [np.zeros((0, size), np.float32)]
        for start in range(0, len(images), _BATCH):
            pixels = [resized(image, _SIDE, _SIDE) for image in images[start : start + _BATCH]]
            batch = (np.stack(pixels).astype(np.float32) - 127) / 128
            parts.append(self._session.run([output], {"images": batch.transpose(0, 3, 1, 2)})[0])
        return np.concatenate(parts)

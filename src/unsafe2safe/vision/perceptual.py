"""Shift-tolerant LPIPS (ST-LPIPS, AlexNet): a perceptual distance that is *not* LPIPS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from unsafe2safe.vision.arrays import FloatArray, RgbImage, bounded, resized
from unsafe2safe.vision.models import session

_BATCH = 4
_LEAST_SIDE = 64  # below, the network's pooling leaves nothing


class ShiftTolerantLpips:
    """Distance between two images that forgives small shifts.

    Images longer than ``long_side`` pixels are area-downscaled first.
    """

    def __init__(self, threads: int = 0, long_side: int = 256) -> None:
        self.threads = threads
        self.long_side = long_side

    @cached_property
    def _session(self) -> Any:
        return session("stlpips_alex", self.threads)

    def distance(self, images: Sequence[RgbImage], others: Sequence[RgbImage]) -> FloatArray:
        """(N,) distances of the pairs; the two of a pair have one size, (H, W, 3) uint8 RGB.

        Raises:
            ValueError: the lists differ in length or a pair differs in size.
        """
        if len(images) != len(others):
            raise ValueError(f"{len(images)} images against {len(others)}")
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        pairs: list[tuple[FloatArray, FloatArray]] = []
        for index, (image, other) in enumerate(zip(images, others, strict=True)):
            if image.shape != other.shape:
                raise ValueError(f"pair {index} differs in size: {image.shape}, {other.shape}")
            pairs.append((self._prepared(image), self._prepared(other)))
            groups[pairs[-1][0].shape].append(index)
        distances = np.zeros(len(images), np.float32)
        for members in groups.values():
            for start in range(0, len(members), _BATCH):
                chunk = members[start : start + _BATCH]
                inputs = {
                    "image": np.stack([pairs[index][0] for index in chunk]),
                    "other": np.stack([pairs[index][1] for index in chunk]),
                }
                distances[chunk] = self._session.run(["distance"], inputs)[0]
        return distances

    def _prepared(self, image: RgbImage) -> FloatArray:
        """(3, H, W) in [-1, 1]."""
        image = bounded(image, self.long_side)
        height, width = (max(side, _LEAST_SIDE) for side in image.shape[:2])
        pixels = resized(image, height, width).astype(np.float32)
        return pixels.transpose(2, 0, 1) / 127.5 - 1

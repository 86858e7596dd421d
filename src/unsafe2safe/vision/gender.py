"""Gender as a classifier guesses it from a face; used only where ``vision.gender=true``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from unsafe2safe.core.records import Box
from unsafe2safe.vision.arrays import FloatArray, RgbImage, resized
from unsafe2safe.vision.models import session
from unsafe2safe.vision.regions import clipped

_SIDE = 32
_MEAN = np.array([122.782, 117.001, 104.298], np.float32)


class GenderClassifier:
    """A two-class guess about a face. It says nothing of how a person sees themself."""

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads

    @cached_property
    def _session(self) -> Any:
        return session("gender", self.threads)

    def probabilities(self, image: RgbImage, boxes: Sequence[Box]) -> FloatArray:
        """(N, 2) probabilities [female, male] of the faces in ``boxes``.

        The boxes are taken as they are: CenterFace's reach from the hair to the chin, which is
        what the model's own detector had to be padded to.

        Raises:
            ValueError: a box lies outside the image.
        """
        if not boxes:
            return np.zeros((0, 2), np.float32)
        height, width = image.shape[:2]
        faces = []
        for box in boxes:
            zone = clipped(box, width, height)
            if zone.area == 0:
                raise ValueError(f"{box} lies outside an image of {width} x {height} pixels")
            crop = image[
                math.floor(zone.y) : math.ceil(zone.bottom),
                math.floor(zone.x) : math.ceil(zone.right),
            ]
            faces.append(resized(crop, _SIDE, _SIDE))
        batch = (np.stack(faces).astype(np.float32) - _MEAN) / 256
        result: FloatArray = self._session.run(
            ["probabilities"], {"images": batch.transpose(0, 3, 1, 2)}
        )[0]
        return result

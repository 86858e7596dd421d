"""How much sharpness an edit cost."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import cv2
from pydantic import Field, PositiveInt
from skimage.measure import blur_effect

from unsafe2safe.core.config.components import component
from unsafe2safe.metrics.base import Metric, PairSample
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.arrays import RgbImage, bounded

_SMALLEST = 12  # pixels: skimage blurs with a filter of 11
_kept: WeakKeyDictionary[ImageFeatures, dict[int, float]] = WeakKeyDictionary()


def blurriness(image: RgbImage, long_side: int) -> float:
    """Blur of an RGB image by skimage's ``blur_effect`` (Crete et al. 2007): 0 sharp, 1 blurred.

    Longer images are reduced to ``long_side`` pixels first. Where nothing changes from pixel to
    pixel there is nothing sharp: 1.
    """
    grey = cv2.cvtColor(bounded(image, long_side), cv2.COLOR_RGB2GRAY)
    if grey.min() == grey.max():
        return 1.0
    return float(blur_effect(grey))


@component
class SharpnessChange(Metric):
    """Sharpness of the edited image minus the original's."""

    long_side: PositiveInt = Field(
        default=512, description="Longer images are reduced to this side before, pixels."
    )

    bounded = False
    title = "Change of sharpness"
    group = "quality"
    direction = "none"
    definition = (
        "Perceptual blur of the original minus that of the edited image (skimage's blur_effect, "
        "Crete et al. 2007, at 512 pixels at most): 0 no change, below 0 blurred by the edit, "
        "above 0 sharpened, as artefacts do. Does not apply to images under 12 pixels."
    )

    def expected(self, sample: PairSample) -> int:
        return int(min(sample.original.size) >= _SMALLEST)

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            (self._blurriness(sample.original) - self._blurriness(sample.after),)
            for sample in samples
        ]

    def _blurriness(self, image: ImageFeatures) -> float:
        """Kept with the image: an original's serves every row."""
        kept = _kept.setdefault(image, {})
        if self.long_side not in kept:
            kept[self.long_side] = blurriness(image.pixels, self.long_side)
        return kept[self.long_side]

"""How much of the picture was kept, pixel against pixel, inside and outside what is sensitive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from skimage.metrics import structural_similarity

from unsafe2safe.core.config.components import component
from unsafe2safe.metrics.base import Metric, PairSample
from unsafe2safe.vision.arrays import RgbImage

WINDOW = 7  # skimage's default
_BORDER = (WINDOW - 1) // 2  # windows that would leave the image are not averaged, as in skimage
GREATEST_PSNR = 100.0  # decibels; stands for the infinite PSNR of equal images
_MOST_AT_ONCE = 2**22  # windows of one map


def ssim_map(first: RgbImage, second: RgbImage) -> NDArray[np.float64]:
    """(H - 6, W - 6) SSIM of 7 x 7 windows, averaged over RGB; both (H, W, 3) uint8, H, W >= 7.

    Its mean is ``skimage.metrics.structural_similarity(..., channel_axis=2, data_range=255)``
    (Wang et al. 2004).
    """
    _, full = structural_similarity(
        first, second, win_size=WINDOW, channel_axis=2, data_range=255, full=True
    )
    inner: NDArray[np.float64] = full[_BORDER:-_BORDER, _BORDER:-_BORDER].mean(axis=2)
    return inner


def mean_ssim(first: RgbImage, second: RgbImage, where: NDArray[np.bool_]) -> float:
    """Mean of :func:`ssim_map` over the windows ``where`` (H - 6, W - 6), of which there are some.

    Large images are measured in bands of rows: the map alone takes some hundred bytes a pixel.
    """
    height, width = where.shape
    rows = max(1, _MOST_AT_ONCE // width)
    total, count = 0.0, 0
    for top in range(0, height, rows):
        chosen = where[top : top + rows]
        if chosen.any():
            band = slice(top, top + len(chosen) + WINDOW - 1)
            values = ssim_map(first[band], second[band])[chosen]
            total, count = total + float(values.sum()), count + len(values)
    return total / count


def psnr(first: RgbImage, second: RgbImage, where: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in decibels over the pixels ``where``, at most 100."""
    difference = first.astype(np.float64) - second.astype(np.float64)
    squared = difference**2 if where is None else difference[where] ** 2
    error = float(squared.mean())
    if error == 0.0:
        return GREATEST_PSNR
    return min(GREATEST_PSNR, 10.0 * float(np.log10(255.0**2 / error)))


def windows(mask: NDArray[np.bool_], part: str) -> NDArray[np.bool_]:
    """(H - 6, W - 6): the windows of :func:`ssim_map` that count for ``part`` of the image.

    ``inside`` takes those centred in the mask, ``outside`` those that do not touch it, so that a
    change inside the mask cannot lower what is measured outside.
    """
    if min(mask.shape) < WINDOW:
        return np.zeros((0, 0), np.bool_)
    if part == "whole":
        chosen = np.ones_like(mask)
    elif part == "inside":
        chosen = mask
    else:
        chosen = ~maximum_filter(mask, size=WINDOW, mode="constant", cval=False)
    return chosen[_BORDER:-_BORDER, _BORDER:-_BORDER]


@component
class SsimOfPart(Metric):
    """Base of structural similarity over one part of the image."""

    part: ClassVar[Literal["whole", "inside", "outside"]]

    def expected(self, sample: PairSample) -> int:
        return int(windows(sample.mask, self.part).any())

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            (
                float(
                    ssim_map(sample.original.pixels, sample.after.pixels)[
                        windows(sample.mask, self.part)
                    ].mean()
                ),
            )
            for sample in samples
        ]


@component
class Ssim(SsimOfPart):
    """Structural similarity of the whole image."""

    part = "whole"

    title = "SSIM, whole image"
    group = "cheating"
    direction = "none"
    definition = (
        "skimage's structural similarity on RGB (7 x 7 windows), the edited image brought to the "
        "original's size. High both for faithful and for copied pictures: read it inside and "
        "outside the masks. Does not apply to images under 7 pixels."
    )


@component
class SsimInside(SsimOfPart):
    """Structural similarity where something sensitive was: copying shows here."""

    part = "inside"
    title = "SSIM inside the masks"
    group = "cheating"
    direction = "down"
    definition = (
        "SSIM over windows centred where something sensitive is. Near 1, the edit copied what it "
        "should have changed. Does not apply to images without anything sensitive."
    )


@component
class SsimOutside(SsimOfPart):
    """Structural similarity of what should have been left alone."""

    part = "outside"
    title = "SSIM outside the masks"
    group = "quality"
    direction = "up"
    definition = "SSIM over windows that touch nothing sensitive: what the edit should have kept."


@component
class PsnrOutside(Metric):
    """Peak signal-to-noise ratio of what should have been left alone."""

    bounded = False
    title = "PSNR outside the masks (dB)"
    group = "quality"
    direction = "up"
    definition = (
        "Peak signal-to-noise ratio over pixels outside the masks, in decibels, per image; 100 "
        "stands for equal pixels."
    )

    def expected(self, sample: PairSample) -> int:
        return int(not sample.mask.all())

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            (psnr(sample.original.pixels, sample.after.pixels, ~sample.mask),) for sample in samples
        ]

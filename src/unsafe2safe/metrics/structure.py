"""How much of the picture was kept, pixel against pixel, inside and outside what is sensitive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from numpy.typing import NDArray

from unsafe2safe.core.config.components import component
from unsafe2safe.metrics.base import Metric, PairSample
from unsafe2safe.vision.arrays import RgbImage

WINDOW = 7  # skimage's default
_BORDER = (WINDOW - 1) // 2  # windows that would leave the image are not averaged, as in skimage
_C1, _C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2  # of Wang et al.
GREATEST_PSNR = 100.0  # decibels; stands for the infinite PSNR of equal images
_MOST_AT_ONCE = 2**16  # windows of one map, some 400 bytes each: near the processor's cache


def ssim_map(first: RgbImage, second: RgbImage) -> NDArray[np.float64]:
    """(H - 6, W - 6) SSIM of 7 x 7 windows, averaged over RGB; both (H, W, 3) uint8, H, W >= 7.

    Its mean is ``skimage.metrics.structural_similarity(..., channel_axis=2, data_range=255)``
    (Wang et al. 2004), at a third of its time: sums over windows instead of means, which are exact
    as the pixels are whole numbers.
    """
    x, y = first.astype(np.float64), second.astype(np.float64)
    sum_x, sum_y = _window_sums(x), _window_sums(y)
    product = _window_sums(x * y)
    squares = _window_sums(x * x + y * y)
    size = float(WINDOW * WINDOW)
    both, each = sum_x * sum_y, sum_x * sum_x + sum_y * sum_y
    covariance = (product - both / size) / (size - 1.0)  # of the sample, as skimage takes it
    variances = (squares - each / size) / (size - 1.0)
    means = (2.0 * both / size**2 + _C1) / (each / size**2 + _C1)
    red, green, blue = np.moveaxis(means * (2.0 * covariance + _C2) / (variances + _C2), 2, 0)
    inner: NDArray[np.float64] = (red + green + blue) / 3.0  # mean() takes as long as all else
    return inner


def _window_sums(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = cv2.boxFilter(pixels, cv2.CV_64F, (WINDOW, WINDOW), normalize=False)
    inner: NDArray[np.float64] = sums[_BORDER:-_BORDER, _BORDER:-_BORDER]
    return inner


def mean_ssim(first: RgbImage, second: RgbImage, where: NDArray[np.bool_]) -> float:
    """Mean of :func:`ssim_map` over the windows ``where`` (H - 6, W - 6), of which there are some.

    Large images are measured in bands of rows: the map takes some 400 bytes a pixel.
    """
    return mean_ssims(first, second, {"": where})[""]


def mean_ssims(
    first: RgbImage, second: RgbImage, parts: Mapping[str, NDArray[np.bool_]]
) -> dict[str, float]:
    """:func:`mean_ssim` of several parts by name, in one pass; parts without windows are left
    out."""
    totals = dict.fromkeys(parts, 0.0)
    counts = dict.fromkeys(parts, 0)
    height, width = next(iter(parts.values())).shape
    rows = max(1, _MOST_AT_ONCE // max(width, 1))
    for top in range(0, height, rows):
        chosen = {name: where[top : top + rows] for name, where in parts.items()}
        if not any(where.any() for where in chosen.values()):
            continue
        band = slice(top, min(top + rows, height) + WINDOW - 1)
        similarity = ssim_map(first[band], second[band])
        for name, where in chosen.items():
            values = similarity[where]
            totals[name] += float(values.sum())
            counts[name] += len(values)
    return {name: totals[name] / counts[name] for name in parts if counts[name]}


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
        reach = np.ones((WINDOW, WINDOW), np.uint8)
        chosen = cv2.dilate(mask.astype(np.uint8), reach) == 0
    return chosen[_BORDER:-_BORDER, _BORDER:-_BORDER]


@component
class SsimOfPart(Metric):
    """Base of structural similarity over one part of the image."""

    part: ClassVar[Literal["whole", "inside", "outside"]]

    def expected(self, sample: PairSample) -> int:
        return int(windows(sample.mask, self.part).any())

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [(_ssims(sample)[self.part],) for sample in samples]


_ssims_of: WeakKeyDictionary[PairSample, dict[str, float]] = WeakKeyDictionary()


def _ssims(sample: PairSample) -> dict[str, float]:
    """SSIM of all parts of a pair, kept as long as the pair is: three metrics ask for it."""
    if sample not in _ssims_of:
        parts = {part: windows(sample.mask, part) for part in ("whole", "inside", "outside")}
        found = mean_ssims(sample.original.pixels, sample.after.pixels, parts)
        _ssims_of[sample] = found
    return _ssims_of[sample]


@component
class Ssim(SsimOfPart):
    """Structural similarity of the whole image."""

    part = "whole"

    title = "SSIM, whole image"
    group = "cheating"
    direction = "none"
    of_identity = 1.0
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
    of_identity = 1.0
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
    of_identity = 1.0
    definition = "SSIM over windows that touch nothing sensitive: what the edit should have kept."


@component
class PsnrOfPart(Metric):
    """Base of the peak signal-to-noise ratio over one part of the image."""

    part: ClassVar[Literal["whole", "inside", "outside"]]
    bounded = False

    def expected(self, sample: PairSample) -> int:
        if self.part == "whole":
            return 1
        return int(self._where(sample).any())

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            (
                psnr(
                    sample.original.pixels,
                    sample.after.pixels,
                    None if self.part == "whole" else self._where(sample),
                ),
            )
            for sample in samples
        ]

    def _where(self, sample: PairSample) -> NDArray[np.bool_]:
        return sample.mask if self.part == "inside" else ~sample.mask


@component
class Psnr(PsnrOfPart):
    """Peak signal-to-noise ratio of the whole image."""

    part = "whole"
    title = "PSNR, whole image (dB)"
    group = "cheating"
    direction = "none"
    definition = (
        "Peak signal-to-noise ratio over all pixels, in decibels, per image; 100 stands for equal "
        "images. High both for faithful and for copied pictures: read it inside and outside the "
        "masks."
    )


@component
class PsnrInside(PsnrOfPart):
    """Peak signal-to-noise ratio where something sensitive was: copying shows here."""

    part = "inside"
    title = "PSNR inside the masks (dB)"
    group = "cheating"
    direction = "down"
    definition = (
        "Peak signal-to-noise ratio over pixels inside the masks, in decibels, per image; 100 "
        "stands for equal pixels, that is, for a copy. Does not apply to images without anything "
        "sensitive."
    )


@component
class PsnrOutside(PsnrOfPart):
    """Peak signal-to-noise ratio of what should have been left alone."""

    part = "outside"
    title = "PSNR outside the masks (dB)"
    group = "quality"
    direction = "up"
    of_identity = GREATEST_PSNR
    definition = (
        "Peak signal-to-noise ratio over pixels outside the masks, in decibels, per image; 100 "
        "stands for equal pixels."
    )

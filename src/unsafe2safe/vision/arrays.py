"""Array types of this room and the one way in which it resizes."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

RgbImage: TypeAlias = npt.NDArray[np.uint8]  # (H, W, 3), RGB
FloatArray: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.float32]  # (H, W) in [0, 1]

_Scalar = TypeVar("_Scalar", bound=np.generic)


def resized(image: npt.NDArray[_Scalar], height: int, width: int) -> npt.NDArray[_Scalar]:
    """``image`` (H, W[, C]) at ``height`` x ``width``: area average down, bilinear up.

    Plain bilinear aliases when it shrinks, which costs the detectors small faces and letters.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = height < image.shape[0] or width < image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), image.dtype)


def bounded(image: RgbImage, long_side: int) -> RgbImage:
    """``image`` area-downscaled so that neither side exceeds ``long_side``; never enlarged."""
    height, width = image.shape[:2]
    ratio = long_side / max(height, width)
    if ratio >= 1:
        return image
    return resized(image, max(1, round(height * ratio)), max(1, round(width * ratio)))


def blended(image: RgbImage, changed: RgbImage, weight: Mask) -> RgbImage:
    """``weight`` (H, W) parts of ``changed`` (H, W, 3) and the rest of ``image`` (H, W, 3).

    Where the weight is 0 or 1 it is the one or the other exactly.
    """
    return np.asarray(cv2.blendLinear(changed, image, weight, 1.0 - weight), np.uint8)

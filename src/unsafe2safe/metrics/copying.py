"""Copying of the source, block by block: what an edit should do outside the masks and not inside.

A block of 8 x 8 pixels counts as copied where the edited block tells most of what the original one
shows: at least three quarters of the variance of its luminance, at its place and with its
brightness (a coefficient of determination). Relative to the block's own contrast, this takes no
notice of a JPEG's noise, while a smooth patch in the place of a texture is no copy. Blocks without
contrast say nothing either way and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.metrics.base import Metric, PairSample
from unsafe2safe.vision.arrays import RgbImage

BLOCK = 8  # pixels, JPEG's own


def _blocks(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H, W) to (H // 8, W // 8, 64); what is left over at the right and below is cut."""
    rows, columns = (side // BLOCK for side in plane.shape)
    cut = plane[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    blocks: NDArray[np.float64] = cut.transpose(0, 2, 1, 3).reshape(rows, columns, BLOCK**2)
    return blocks


def _luminance(image: RgbImage) -> NDArray[np.float64]:
    grey: NDArray[np.float64] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    return grey


def telling_blocks(
    original: RgbImage, where: NDArray[np.bool_], least_contrast: float
) -> NDArray[np.bool_]:
    """(H // 8, W // 8): blocks wholly in ``where`` (H, W) with enough contrast.

    ``least_contrast`` is the standard deviation of the luminance, in grey levels.
    """
    whole = _blocks(where.astype(np.float64)).min(axis=2, initial=1.0) > 0
    contrast = _blocks(_luminance(original)).std(axis=2)
    found: NDArray[np.bool_] = whole & (contrast >= least_contrast)
    return found


def copied_blocks(original: RgbImage, edited: RgbImage, least_told: float) -> NDArray[np.bool_]:
    """(H // 8, W // 8): blocks of which the edited image tells ``least_told`` of the variance."""
    before, after = _blocks(_luminance(original)), _blocks(_luminance(edited))
    error = ((before - after) ** 2).mean(axis=2)
    copied: NDArray[np.bool_] = error <= (1.0 - least_told) * before.var(axis=2)
    return copied


@component
class CopyRate(Metric):
    """Base of the share of blocks of one part of the image that were copied."""

    least_contrast: float = Field(
        default=4.0,
        gt=0,
        description="Standard deviation (of 255) under which a block says nothing of copying.",
    )
    least_told: float = Field(
        default=0.75, gt=0, le=1, description="Share of a block's variance from which it is a copy."
    )

    part: ClassVar[Literal["inside", "outside"]]

    def expected(self, sample: PairSample) -> int:
        return int(self._telling(sample).any())

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            (
                float(
                    copied_blocks(sample.original.pixels, sample.after.pixels, self.least_told)[
                        self._telling(sample)
                    ].mean()
                ),
            )
            for sample in samples
        ]

    def _telling(self, sample: PairSample) -> NDArray[np.bool_]:
        where = sample.mask if self.part == "inside" else ~sample.mask
        return telling_blocks(sample.original.pixels, where, self.least_contrast)


_HOW = (
    "Share of blocks of 8 x 8 pixels {where} of which the edited image keeps at least three "
    "quarters of the variance in luminance, at their place. Blocks with little contrast are left "
    "out, and images without other ones {which} do not count. "
)


@component
class CopyRateInside(CopyRate):
    """Copying of what should have been changed."""

    part = "inside"
    title = "Copied inside the masks"
    group = "cheating"
    direction = "down"
    definition = _HOW.format(where="inside the masks", which="there") + "1 is a plain copy."


@component
class CopyRateOutside(CopyRate):
    """Copying of what should have been left alone."""

    part = "outside"
    title = "Copied outside the masks"
    group = "quality"
    direction = "up"
    definition = _HOW.format(where="that touch no mask", which="there") + "1 is what is wanted."

"""Bringing pictures to the canvas of an editor and back: scaled, padded by reflection, restored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from unsafe2safe.core.records import Box, Region
from unsafe2safe.editors.base import Canvas, Mask, Pixels
from unsafe2safe.editors.concealed_frames import hidden_in

_Array = TypeVar("_Array", Pixels, Mask)


@dataclass(frozen=True)
class Fit:
    """How a picture of ``size`` (height, width) is brought to an editor's canvas.

    It is scaled to ``scaled``, its aspect kept, and then padded by reflection at the bottom and on
    the right to ``padded``. What is edited there comes back at ``size`` exactly.
    """

    size: tuple[int, int]
    scaled: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def to(cls, canvas: Canvas, height: int, width: int) -> Fit:
        """The fit of a picture of ``height`` x ``width``; it is never stretched."""
        scaled = (height, width)
        if canvas.side is not None:
            side = max(canvas.side // canvas.multiple, 1) * canvas.multiple
            ratio = side / max(height, width)
            scaled = (_scaled(height, ratio, side), _scaled(width, ratio, side))
        if canvas.square and canvas.side is not None:
            padded = (canvas.side, canvas.side)
        else:
            padded = (
                -(-scaled[0] // canvas.multiple) * canvas.multiple,
                -(-scaled[1] // canvas.multiple) * canvas.multiple,
            )
        return cls((height, width), scaled, padded)

    def image(self, pixels: Pixels) -> Pixels:
        """(H, W, 3) of ``size`` to ``padded``."""
        return self._pad(_resized(pixels, *self.scaled))

    def mask(self, mask: Mask) -> Mask:
        """(H, W) of ``size`` to ``padded``, 1 wherever a pixel more than 0 plays a part."""
        if self.scaled == self.size:
            return self._pad(mask)
        return self._pad(hidden_in(mask, *self.scaled))

    def region(self, region: Region) -> Region:
        """A region of the picture where it lies on the canvas."""
        down, across = (s / own for s, own in zip(self.scaled, self.size, strict=True))
        x, y, width, height = region.box
        box = Box(x * across, y * down, width * across, height * down)
        return Region(region.image_id, box, region.category, region.score, region.source)

    def restored(self, edited: Pixels) -> Pixels:
        """What was edited, of ``padded``, back at ``size``."""
        return _resized(edited[: self.scaled[0], : self.scaled[1]], *self.size)

    def _pad(self, array: _Array) -> _Array:
        bottom, right = (to - of for to, of in zip(self.padded, self.scaled, strict=True))
        if bottom == right == 0:
            return array
        pads = [(0, bottom), (0, right), (0, 0)][: array.ndim]
        return np.pad(array, pads, mode="reflect")


def _scaled(side: int, ratio: float, most: int) -> int:
    return min(max(round(side * ratio), 1), most)


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), dtype=np.uint8)

"""What of the source image an editor is conditioned on: all, or all but its sensitive regions.

One function serves training and editing, on 8-bit squares of the editor's resolution, so that a
trained editor meets what it was trained on.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.editors.base import Mask, Pixels
from unsafe2safe.vision.redaction import blur

SourceView: TypeAlias = Literal["full", "blur", "blank"]
Hidden: TypeAlias = NDArray[np.bool_]

# Mid-grey, 0 in the model's range: a hole that says it is one. The mean of the surroundings would
# look like a flat part of the picture, and the editor is not told where the holes are.
_GREY = 128
# Cells across the square whose means are all that a blur keeps, and which are smoothed again.
_BLUR_CELLS = 8
_LANCZOS_SUPPORT = 3.0  # of the filter that brings images to the square


def hidden_in_square(mask: Mask, resolution: int) -> Hidden:
    """(H, W) mask to (R, R): every pixel of the square into which a masked pixel (> 0) enters.

    The Lanczos filter of ``square`` reaches three pixels (of the square, or of the image where
    that is smaller) to each side, so that a mask merely resized would let the rim of a region
    through. An image that has the square's size already is not filtered.
    """
    masked = np.asarray(mask) > 0
    across_rows = _reached(masked, resolution)
    return _reached(across_rows.T, resolution).T


def _reached(masked: Hidden, resolution: int) -> Hidden:
    """Along the first axis, (H, W) to (R, W)."""
    size = masked.shape[0]
    if size == resolution:
        return masked
    scale = size / resolution
    support = _LANCZOS_SUPPORT * max(scale, 1.0)
    centres = (np.arange(resolution) + 0.5) * scale
    first = np.clip(np.floor(centres - support), 0, size).astype(int)
    after = np.clip(np.ceil(centres + support), 0, size).astype(int)
    counts = np.zeros((size + 1, masked.shape[1]), np.int64)
    np.cumsum(masked, axis=0, out=counts[1:])
    reached: Hidden = counts[after] > counts[first]
    return reached


def concealed(pixels: Pixels, hidden: Hidden, source: SourceView) -> Pixels:
    """A square (R, R, 3) uint8 with what is ``hidden`` (R, R) blurred or blanked.

    ``blank`` leaves nothing of it but its outline: where boxes are masked, not silhouettes, that
    tells nothing. ``blur`` leaves the means over cells of an eighth of the square's side, in which
    no detector finds a face and no letter is left, but colours are: on synthetic scenes with
    persons' boxes masked, a small network reads clothing from them in 98 of 100 cases, skin and
    hair colour in about 54, hair style in 40; from ``blank`` nothing above chance.
    """
    if source == "full":
        return pixels
    if source == "blank":
        blanked: Pixels = np.where(hidden[..., None], np.uint8(_GREY), pixels)
        return blanked
    side = pixels.shape[0]
    return blur(np.ascontiguousarray(pixels), hidden.astype(np.float32), side / _BLUR_CELLS)

"""Which pixels of a resized frame a masked pixel enters, for frames of any shape."""

from __future__ import annotations

import numpy as np

from unsafe2safe.editors.base import Mask
from unsafe2safe.editors.concealment import hidden_in_square


def hidden_in(mask: Mask, height: int, width: int) -> Mask:
    """(H, W) mask to (height, width) of 0 and 1; as ``hidden_in_square``, for any size."""
    if height == width:
        return hidden_in_square(mask, height).astype(np.float32)
    # one side at a time: in strips as wide as the other side, the other side stays as it is
    rows = _rows_hidden(mask, height)
    return np.ascontiguousarray(_rows_hidden(rows.T, width).T)


def _rows_hidden(mask: Mask, height: int) -> Mask:
    count = mask.shape[1]
    padded = np.pad(mask, ((0, 0), (0, -count % height)))
    strips = np.split(padded, padded.shape[1] // height, axis=1)
    found = np.concatenate([hidden_in_square(strip, height) for strip in strips], axis=1)
    return found[:, :count].astype(np.float32)

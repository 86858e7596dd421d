"""Which pixels of a resized frame a masked pixel enters, for frames of any shape."""

from __future__ import annotations

import numpy as np

from unsafe2safe.editors.base import Mask
from unsafe2safe.editors.concealment import Hidden, _reached


def hidden_at(mask: Mask, height: int, width: int) -> Hidden:
    """(H, W) mask to (height, width): every pixel of the resized image into which a masked pixel
    (> 0) enters; as :func:`hidden_in_square`, which says why it is more than the mask resized."""
    across_rows = _reached(np.asarray(mask) > 0, height)
    return _reached(across_rows.T, width).T

"""Conditioning dropout, so that one model learns the branches that guidance combines."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dropped:
    """Which samples lose which condition: (B,) booleans."""

    text: Tensor
    image: Tensor


def drop_conditions(uniform: Tensor, text: float, image: float, both: float) -> Dropped:
    """One uniform draw per sample decides (Brooks et al. 2023, section 3.2.1).

    In the order of the published code: [0, text) loses the text alone, the next ``both`` loses
    text and image, the next ``image`` the image alone; the rest keeps both. ``uniform`` is (B,)
    in [0, 1).
    """
    lost_text = uniform < text + both
    lost_image = (uniform >= text) & (uniform < text + both + image)
    return Dropped(lost_text, lost_image)

"""Mirrored and cropped views of a pair, the same for source, target and mask."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from unsafe2safe.core.randomness import generator
from unsafe2safe.core.records import Category, Pair
from unsafe2safe.editors.base import Mask

# What a mirror turns into its opposite.
_SIDES = re.compile(
    r"\b(?:left|right)(?:most|wards?|handed|side)?\b|\b(?:anti|counter)?-?clockwise\b",
    re.IGNORECASE,
)
_WRITTEN = (Category.TEXT, Category.PLATE)


class View(NamedTuple):
    """How a visit shows a pair: mirrored or not, and the number of its crop."""

    flip: bool = False
    crop: int = 0


class Window(NamedTuple):
    """The pixels that a crop keeps."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Views:
    """How views are drawn; each from the pair's id and its visit.

    ``flip`` of the visits are mirrored. A crop keeps a share of both sides between ``crop`` and 1;
    there are ``crops`` of each pair, or with None another at each visit.
    """

    seed: int = 0
    flip: float = 0.0
    crop: float = 1.0
    crops: int | None = None

    @property
    def countable(self) -> bool:
        """Whether each pair has a known number of views."""
        return self.crop == 1 or self.crops is not None

    def of_visit(self, pair: Pair, visit: int) -> View:
        """The view of one visit."""
        flip = False
        if self.flip and can_be_mirrored(pair):
            flip = bool(generator(self.seed, pair.image_id, visit, "flip").random() < self.flip)
        if self.crop == 1:
            return View(flip)
        if self.crops is None:
            return View(flip, visit)
        drawn = generator(self.seed, pair.image_id, visit, "crop").integers(self.crops)
        return View(flip, int(drawn))

    def of_pair(self, pair: Pair) -> list[View]:
        """All views that visits can have; they must be :attr:`countable`."""
        sides = [False, True] if 0 < self.flip < 1 else [self.flip == 1]
        if not can_be_mirrored(pair):
            sides = [False]
        crops = range(1 if self.crop == 1 else self.crops or 0)
        return [View(side, crop) for side in sides for crop in crops]

    def window(self, pair: Pair, number: int, hidden: Mask) -> Window:
        """What crop ``number`` keeps of a picture whose mask is ``hidden`` (H, W).

        Everything under the mask stays in sight, or the pair would show no edit; where that leaves
        no room to crop, it is the whole picture.
        """
        height, width = hidden.shape
        whole = Window(0, 0, height, width)
        if self.crop == 1:
            return whole
        random = generator(self.seed, pair.image_id, number, "crop window")
        share, *places = random.uniform((self.crop, 0.0, 0.0), 1.0)
        kept = [max(1, round(float(share) * size)) for size in (height, width)]
        starts = []
        for axis, (size, length) in enumerate(zip((height, width), kept, strict=True)):
            inside = np.flatnonzero(hidden.any(axis=1 - axis))
            first, last = 0, size - length
            if inside.size:
                first = max(first, int(inside[-1]) + 1 - length)
                last = min(last, int(inside[0]))
            if last < first:
                return whole
            starts.append(first + int(places[axis] * (last - first + 1)))
        return Window(starts[0], starts[1], kept[0], kept[1])


def can_be_mirrored(pair: Pair) -> bool:
    """Whether the mirrored picture is one that its texts describe: they name no side, and no
    writing was found in it, which a mirror makes unreadable."""
    texts = (pair.public_caption, pair.edit_instruction, pair.combined_caption or "")
    return not any(_SIDES.search(text) for text in texts) and not any(
        region.category in _WRITTEN for region in pair.regions
    )

"""How different the picture looks, inside and outside what is sensitive.

The embedded network is ST-LPIPS (shift-tolerant LPIPS, Ghildyal and Liu 2022), not LPIPS: its
figures cannot be compared with published LPIPS figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from unsafe2safe.core.config.components import component
from unsafe2safe.metrics.base import Metric, PairSample
from unsafe2safe.vision.arrays import RgbImage


def composite(sample: PairSample, part: str) -> RgbImage:
    """The original (H, W, 3) with ``part`` of it (``inside`` or ``outside``) as edited.

    Its distance from the original is owed to that part alone; it is averaged over the whole frame.
    """
    taken = sample.mask if part == "inside" else ~sample.mask
    joined: RgbImage = np.where(taken[..., None], sample.after.pixels, sample.original.pixels)
    return joined


@component
class StLpips(Metric):
    """Base of ST-LPIPS of one part of the image."""

    part: ClassVar[Literal["inside", "outside"]]
    model = "ST-LPIPS, AlexNet (stlpips_alex.onnx), at 256 pixels"

    def expected(self, sample: PairSample) -> int:
        part = sample.mask if self.part == "inside" else ~sample.mask
        return int(part.any())

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        changed = [(sample.original.pixels, composite(sample, self.part)) for sample in samples]
        distances = [0.0] * len(samples)  # of equal images, as the network would say at some cost
        open_pairs = [i for i, (first, other) in enumerate(changed) if (first != other).any()]
        if open_pairs:
            network = samples[0].original.perception.perceptual
            found = network.distance(
                [changed[i][0] for i in open_pairs], [changed[i][1] for i in open_pairs]
            )
            for index, distance in zip(open_pairs, found, strict=True):
                distances[index] = float(distance)
        return [(distance,) for distance in distances]


@component
class StLpipsInside(StLpips):
    """Perceptual change where something sensitive was."""

    part = "inside"
    title = "ST-LPIPS inside the masks"
    group = "cheating"
    direction = "up"
    definition = (
        "Distance between the original and the original with its sensitive parts replaced by the "
        "edited ones, at 256 pixels. Near 0, the edit changed nothing where it should have. Does "
        "not apply to images without anything sensitive."
    )


@component
class StLpipsOutside(StLpips):
    """Perceptual change of what should have been left alone."""

    part = "outside"
    title = "ST-LPIPS outside the masks"
    group = "quality"
    direction = "down"
    definition = (
        "Distance between the original and the original with all but its sensitive parts replaced "
        "by the edited ones, at 256 pixels: how much of the rest the edit changed."
    )

"""How different the picture looks, inside and outside what is sensitive.

The embedded network is ST-LPIPS (shift-tolerant LPIPS, Ghildyal and Liu 2022), not LPIPS: its
figures cannot be compared with published LPIPS figures. LPIPS itself needs VGG-16's weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.metrics.base import Metric, PairSample
from unsafe2safe.vision.arrays import FloatArray, RgbImage
from unsafe2safe.vision.lpips import VggLpips, vgg_lpips
from unsafe2safe.vision.perception import Perception


def composite(sample: PairSample, part: str) -> RgbImage:
    """The original (H, W, 3) with ``part`` of it (``inside`` or ``outside``) as edited.

    Its distance from the original is owed to that part alone; it is averaged over the whole frame.
    """
    taken = sample.mask if part == "inside" else ~sample.mask
    joined: RgbImage = np.where(taken[..., None], sample.after.pixels, sample.original.pixels)
    return joined


@component
class DistanceOfPart(Metric):
    """Base of the perceptual distance that one part of the image is owed."""

    part: ClassVar[Literal["whole", "inside", "outside"]]

    @abstractmethod
    def distances(
        self, perception: Perception, images: Sequence[RgbImage], others: Sequence[RgbImage]
    ) -> FloatArray:
        """(N,) distances of pairs of images."""

    def expected(self, sample: PairSample) -> int:
        if self.part == "whole":
            return 1
        part = sample.mask if self.part == "inside" else ~sample.mask
        return int(part.any())

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        changed = [(sample.original.pixels, self._changed(sample)) for sample in samples]
        distances = [0.0] * len(samples)  # of equal images, as the network would say at some cost
        open_pairs = [i for i, (first, other) in enumerate(changed) if (first != other).any()]
        if open_pairs:
            found = self.distances(
                samples[0].original.perception,
                [changed[i][0] for i in open_pairs],
                [changed[i][1] for i in open_pairs],
            )
            for index, distance in zip(open_pairs, found, strict=True):
                distances[index] = float(distance)
        return [(distance,) for distance in distances]

    def _changed(self, sample: PairSample) -> RgbImage:
        return sample.after.pixels if self.part == "whole" else composite(sample, self.part)


@component
class StLpips(DistanceOfPart):
    """Base of ST-LPIPS of one part of the image."""

    model = "ST-LPIPS, AlexNet (stlpips_alex.onnx), at 256 pixels"

    def distances(
        self, perception: Perception, images: Sequence[RgbImage], others: Sequence[RgbImage]
    ) -> FloatArray:
        return perception.perceptual.distance(images, others)


@component
class StLpipsInside(StLpips):
    """Perceptual change where something sensitive was."""

    part = "inside"
    title = "ST-LPIPS inside the masks"
    group = "cheating"
    direction = "up"
    of_identity = 0.0
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
    of_identity = 0.0
    definition = (
        "Distance between the original and the original with all but its sensitive parts replaced "
        "by the edited ones, at 256 pixels: how much of the rest the edit changed."
    )


@component
class LpipsOfPart(DistanceOfPart):
    """Base of LPIPS of one part of the image."""

    weights: str | None = Field(
        default=None,
        description="File with torchvision's VGG-16 (vgg16-397923af.pth); null: the one among the "
        "checkpoints in torch's hub folder.",
    )
    device: str = Field(default="cpu", description="Torch device: cpu, cuda, cuda:1.")
    long_side: PositiveInt = Field(
        default=512, description="Longer images are reduced to this side before, pixels."
    )

    model = "LPIPS, VGG-16 (torchmetrics)"

    @property
    def _network(self) -> VggLpips:
        return vgg_lpips(self.weights, self.device)

    def unavailable(self) -> str:
        try:
            self._network.load()
        except UsageError as error:
            return str(error)
        return ""

    def distances(
        self,
        perception: Perception,  # noqa: ARG002
        images: Sequence[RgbImage],
        others: Sequence[RgbImage],
    ) -> FloatArray:
        return self._network.distance(images, others, self.long_side)


@component
class Lpips(LpipsOfPart):
    """LPIPS of the whole image, as published."""

    part = "whole"
    title = "LPIPS, whole image"
    group = "cheating"
    direction = "none"
    definition = (
        "LPIPS (VGG-16) between the original and the edited image. Low both for faithful and for "
        "copied pictures: read it inside and outside the masks."
    )


@component
class LpipsInside(LpipsOfPart):
    """Perceptual change where something sensitive was."""

    part = "inside"
    title = "LPIPS inside the masks"
    group = "cheating"
    direction = "up"
    definition = (
        "LPIPS (VGG-16) between the original and the original with its sensitive parts replaced "
        "by the edited ones. Near 0, the edit changed nothing where it should have. Does not apply "
        "to images without anything sensitive."
    )


@component
class LpipsOutside(LpipsOfPart):
    """Perceptual change of what should have been left alone."""

    part = "outside"
    title = "LPIPS outside the masks"
    group = "quality"
    direction = "down"
    definition = (
        "LPIPS (VGG-16) between the original and the original with all but its sensitive parts "
        "replaced by the edited ones: how much of the rest the edit changed."
    )

"""How far the edited images, as a set, are from the originals: KID and FID on given features.

Both compare distributions, not pairs. The published figures are defined on Inception-v3; on other
features they carry the features' name, and cannot be compared with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import MetricResult
from unsafe2safe.metrics.base import Arrays, PairSample, SetMetric
from unsafe2safe.metrics.embeddings import embedded
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.arrays import FloatArray
from unsafe2safe.vision.inception import InceptionFeatures, inception_features

Matrix = NDArray[np.float64]
BIASED_BELOW = 5000  # images from which FID is customarily told
_ROWS = 512  # of a Gram matrix at a time
_GROUPS = 10  # of the jackknife


def _kernel(first: Matrix, second: Matrix) -> Matrix:
    """(x·y / D + 1)^3, KID's polynomial kernel, of (N, D) and (M, D): (N, M)."""
    products: Matrix = (first @ second.T / first.shape[1] + 1.0) ** 3
    return products


def kernel_distance(
    real: Matrix, made: Matrix, weights: Matrix | None = None
) -> tuple[float, Matrix]:
    """KID of (N, D) features of originals and of as many edited images, N at least 2.

    The unbiased estimate over all images at once (Binkowski et al. 2018, equation 4), which
    torchmetrics' mean over random subsets estimates. It takes the two sets for independent, which
    an image and its own edit are not: equal sets come out below 0, the more so the fewer they are.

    Args:
        real: features of the originals.
        made: those of their edited images, in the same order.
        weights: (B, N) how often each pair was drawn in B resamplings of pairs.

    Returns:
        The value as published, and (B + 1,) values without the comparisons of an image with its
        own edit, unbiased for pairs too: of the resamplings, in which no image is compared with
        its copies either, and last of the pairs as they are. Equal sets give 0.
    """
    count = len(real)
    drawn = np.ones((1, count)) if weights is None else np.vstack([weights, np.ones((1, count))])
    within, across = 0.0, 0.0
    resampled = np.zeros(len(drawn))
    for start in range(0, count, _ROWS):
        rows = slice(start, start + _ROWS)
        block = _kernel(real[rows], made)
        across += float(block.sum())
        same = np.arange(len(block)), np.arange(start, start + len(block))
        apart = _kernel(real[rows], real) + _kernel(made[rows], made)
        within += float(apart.sum() - apart[same].sum())
        apart -= 2.0 * block
        apart[same] = 0.0
        resampled += ((drawn[:, rows] @ apart) * drawn).sum(axis=1)
    value = within / (count * (count - 1)) - 2.0 * across / count**2
    return value, resampled / (drawn.sum(axis=1) ** 2 - (drawn**2).sum(axis=1))


def frechet_distance(real: Matrix, made: Matrix) -> float:
    """FID of (N, D) and (M, D) features, N and M at least 2 (Heusel et al. 2017).

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``. The trace of the root is the sum of the
    singular values of ``X Y^T`` for factors ``S1 = X^T X`` and ``S2 = Y^T Y``: no root of a matrix
    is taken, and few images make it fast.
    """
    gap = real.mean(axis=0) - made.mean(axis=0)
    factors = []
    spread = 0.0
    for features in (real, made):
        centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
        spread += float((centred**2).sum())
        if centred.shape[0] > centred.shape[1]:
            centred = np.asarray(np.linalg.qr(centred, mode="r"))
        factors.append(centred)
    root = float(np.linalg.svdvals(factors[0] @ factors[1].T).sum())
    return float(gap @ gap) + spread - 2.0 * root


@component
class FeatureDistance(SetMetric):
    """Base of distances between the originals' and the edited images' features."""

    group = "quality"
    direction = "down"
    bounded = False
    features: ClassVar[str]  # names the arrays, with the model in it

    def expected(self, sample: PairSample) -> int:  # noqa: ARG002
        return 1

    def of_images(self, images: Sequence[ImageFeatures]) -> FloatArray:
        """(N, D) features of images."""
        return np.stack([image.efficientnet for image in images])

    def arrays(self, samples: Sequence[PairSample]) -> list[Arrays]:
        found = self.of_images([s.original for s in samples] + [s.after for s in samples])
        return [
            {f"original.{self.features}": before, f"edited.{self.features}": after}
            for before, after in zip(found[: len(samples)], found[len(samples) :], strict=True)
        ]

    def _matrices(self, found: Sequence[Arrays]) -> tuple[Matrix, Matrix]:
        before, after = (
            np.stack([arrays[f"{side}.{self.features}"] for arrays in found]).astype(np.float64)
            for side in ("original", "edited")
        )
        return before, after


@component
class Kid(FeatureDistance):
    """Base of kernel distances; see :func:`kernel_distance`.

    ``most``: images beyond which as many are drawn at random: the cost grows with their square.
    """

    most: PositiveInt = Field(
        default=5000, description="Of more images so many are taken, drawn at random."
    )

    as_published: ClassVar[bool]  # comparisons of images with their own edits counted in

    def conclude(
        self, found: Sequence[Arrays], samples: int, rng: np.random.Generator
    ) -> MetricResult:
        if len(found) > self.most:
            chosen = np.sort(rng.choice(len(found), self.most, replace=False))
            found = [found[index] for index in chosen]
        count = len(found)
        if count < 2:
            return MetricResult(None, 0, n_not_applicable=count)
        weights = rng.multinomial(count, np.full(count, 1.0 / count), size=samples)
        several = weights[(weights > 0).sum(axis=1) > 1].astype(np.float64)
        published, resampled = kernel_distance(*self._matrices(found), several)
        apart = float(resampled[-1])
        value = published if self.as_published else apart
        interval = None
        if len(several):
            low, high = np.quantile(resampled[:-1], [0.025, 0.975]) + (value - apart)
            interval = float(low), float(high)
        return MetricResult(
            value,
            count,
            interval=interval,
            details={"as_published": published, "without_own_pairs": apart},
        )


@component
class Fid(FeatureDistance):
    """Base of Fréchet distances; see :func:`frechet_distance`."""

    def conclude(
        self,
        found: Sequence[Arrays],
        samples: int,  # noqa: ARG002 - resampling with replacement would bias it further
        rng: np.random.Generator,
    ) -> MetricResult:
        count = len(found)
        if count < 2:
            return MetricResult(None, 0, n_not_applicable=count)
        before, after = self._matrices(found)
        value = frechet_distance(before, after)
        details = {"images_wanted": float(BIASED_BELOW), "biased": float(count < BIASED_BELOW)}
        if count < 2 * _GROUPS:
            return MetricResult(value, count, details=details)
        group = rng.permutation(count) % _GROUPS
        left = np.array(
            [frechet_distance(before[group != g], after[group != g]) for g in range(_GROUPS)]
        )
        error = float(np.sqrt((_GROUPS - 1) / _GROUPS * ((left - left.mean()) ** 2).sum()))
        return MetricResult(
            value, count, interval=(value - 1.96 * error, value + 1.96 * error), details=details
        )


_KID = (
    "Squared maximum mean discrepancy with the polynomial kernel of degree 3 between features of "
    "the originals and of the edited images: the unbiased estimate over all images, with an "
    "interval from resampled pairs. "
)
_PUBLISHED = (
    "As published it takes the sets for independent, so that few images and light edits come out "
    "below 0."
)
_APART = (
    "Without the comparisons of images with their own edits, which are no independent samples: "
    "equal sets give 0."
)
_FID = (
    "Fréchet distance between Gaussians fitted to features of the originals and of the edited "
    "images. It is biased upwards on small sets: below 5,000 images read KID. Its interval is a "
    "jackknife over ten groups of pairs."
)
_STAND_IN = " On EfficientNet-Lite0's features: not comparable with published figures."


@component
class KidEfficientNet(Kid):
    """KID's formula on the embedded features."""

    features = "efficientnet_lite0"
    title = "Kernel distance, EfficientNet-Lite0"
    definition = _KID + _APART + _STAND_IN
    as_published = False
    model = "EfficientNet-Lite0 (efficientnet_lite0.onnx), at 224 pixels"


@component
class FidEfficientNet(Fid):
    """FID's formula on the embedded features."""

    features = "efficientnet_lite0"
    title = "Fréchet distance, EfficientNet-Lite0"
    definition = _FID + _STAND_IN
    model = "EfficientNet-Lite0 (efficientnet_lite0.onnx), at 224 pixels"


@component
class _OnInception(FeatureDistance):
    """Features of Inception-v3, from a file of weights."""

    weights: str | None = Field(
        default=None,
        description="torch-fidelity's file of Inception-v3 "
        "(weights-inception-2015-12-05-6726825d.pth); null: the one among the checkpoints in "
        "torch's hub folder.",
    )
    device: str = Field(default="cpu", description="Torch device: cpu, cuda, cuda:1.")

    features = "inception_v3"
    model = "Inception-v3 (torch-fidelity, 2048 features)"

    @property
    def _network(self) -> InceptionFeatures:
        return inception_features(self.weights, self.device)

    def unavailable(self) -> str:
        try:
            self._network.load()
        except UsageError as error:
            return str(error)
        return ""

    def of_images(self, images: Sequence[ImageFeatures]) -> FloatArray:
        return embedded(images, self._network.version, self._network.features)


@component
class KidInception(_OnInception, Kid):
    """KID as published."""

    title = "KID"
    definition = _KID + _PUBLISHED
    as_published = True


@component
class FidInception(_OnInception, Fid):
    """FID as published."""

    title = "FID"
    definition = _FID

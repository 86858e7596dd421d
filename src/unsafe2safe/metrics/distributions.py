"""How far the edited images, as a set, are from the originals: KID and FID on given features.

Both compare distributions, not pairs. The published figures are defined on Inception-v3; on other
features they carry the features' name, and cannot be compared with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from scipy.linalg import blas, lapack, svdvals

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import MetricResult
from unsafe2safe.metrics.base import Arrays, PairSample, SetMetric
from unsafe2safe.metrics.embeddings import embedded
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.metrics.statistics import resampled_times
from unsafe2safe.vision.arrays import FloatArray
from unsafe2safe.vision.inception import InceptionFeatures, inception_features

Matrix = NDArray[np.float64]
BIASED_BELOW = 5000  # images from which FID is customarily told
_ROWS = 256  # images whose features are in memory at a time
_GROUPS = 10  # of the jackknife


class Rows(Protocol):
    """(N, D) features, of which some rows at a time are asked for: a matrix is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Matrix: ...


class _Stored:
    """Features of images that are read from where they are kept whenever they are asked for."""

    def __init__(self, found: Sequence[Arrays], name: str) -> None:
        self._found, self._name = found, name

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, rows: slice, /) -> Matrix:
        stacked = np.stack([arrays[self._name] for arrays in self._found[rows]])
        return stacked.astype(np.float64)


def _cut(count: int) -> list[slice]:
    return [slice(start, min(count, start + _ROWS)) for start in range(0, count, _ROWS)]


def _kernel(first: Matrix, second: Matrix) -> Matrix:
    """(x·y / D + 1)^3, KID's polynomial kernel, of (N, D) and (M, D): (N, M)."""
    products: Matrix = (first @ second.T / first.shape[1] + 1.0) ** 3
    return products


def kernel_distance(
    real: Rows, made: Rows, weights: NDArray[np.uint16] | None = None
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
    times = np.zeros((0, count), np.uint16) if weights is None else weights
    within, across, paired = 0.0, 0.0, 0.0
    resampled, drawn, squared = (np.zeros(len(times)) for _ in range(3))
    for rows in _cut(count):
        first = real[rows], made[rows]
        by_row = times[:, rows].astype(np.float64)
        drawn += by_row.sum(axis=1)
        squared += (by_row**2).sum(axis=1)
        for columns in _cut(count):
            second = first if columns == rows else (real[columns], made[columns])
            block = _kernel(first[0], second[1])
            across += float(block.sum())
            apart = _kernel(first[0], second[0]) + _kernel(first[1], second[1])
            if columns == rows:
                np.fill_diagonal(apart, 0.0)
            within += float(apart.sum())
            apart -= 2.0 * block
            if columns == rows:
                np.fill_diagonal(apart, 0.0)
            paired += float(apart.sum())
            resampled += ((by_row @ apart) * times[:, columns]).sum(axis=1)
    pairs = count * (count - 1)
    value = within / pairs - 2.0 * across / count**2
    return value, np.append(resampled / (drawn**2 - squared), paired / pairs)


@dataclass
class _Fitted:
    """A Gaussian: its mean (D,), the trace of its covariance S, and a factor of S.

    The factor F is (N, D), ``S = F^T F``, or with ``order`` a lower triangle (D, D):
    ``S[order][:, order] = F F^T``.
    """

    mean: Matrix
    spread: float
    factor: Matrix
    order: NDArray[np.int32] | None = None


def _fitted(features: Rows) -> _Fitted:
    """The Gaussian of features (N, D).

    The factor is the rows about their mean where they are fewer than the features, and else a
    Cholesky factor, pivoted since features may depend on each other.
    """
    count = len(features)
    near = features[slice(0, min(count, _ROWS))].mean(axis=0)  # small numbers keep their digits
    size = len(near)
    if count <= size:
        rows = features[slice(0, count)]
        mean = rows.mean(axis=0)
        rows = (rows - mean) / np.sqrt(count - 1)
        return _Fitted(mean, float((rows**2).sum()), rows)
    total = np.zeros(size)
    scatter = np.zeros((size, size), order="F")  # the lower half of it, here and below
    for some in _cut(count):
        moved = features[some] - near
        total += moved.sum(axis=0)
        scatter = blas.dsyrk(1.0, moved.T, beta=1.0, c=scatter, lower=1, overwrite_c=1)
    beside = total[:, None]
    scatter = blas.dsyrk(-1.0 / count, beside, beta=1.0, c=scatter, lower=1, overwrite_c=1)
    scatter /= count - 1
    spread = float(np.trace(scatter))
    factor, order, rank, _ = lapack.dpstrf(scatter, lower=1, overwrite_a=1)
    factor[:, rank:] = 0.0
    return _Fitted(near + total / count, spread, factor, order - 1)


def _product(first: _Fitted, second: _Fitted) -> Matrix:
    """A matrix with the singular values of ``(S1 S2)^(1/2)``; may overwrite second's factor."""
    if first.order is not None and second.order is not None:
        for column in second.factor.T:  # no second matrix for what is put in order
            column[second.order] = column.copy()
            column[:] = column[first.order]
        found: Matrix = blas.dtrmm(
            1.0, first.factor, second.factor, lower=1, trans_a=1, overwrite_b=1
        )
        return found
    return _rows(first) @ _rows(second).T


def _rows(fitted: _Fitted) -> Matrix:
    if fitted.order is None:
        return fitted.factor
    rows = np.empty_like(fitted.factor.T)
    rows[:, fitted.order] = fitted.factor.T
    return rows


def frechet_distance(real: Rows, made: Rows) -> float:
    """FID of (N, D) and (M, D) features, N and M at least 2 (Heusel et al. 2017).

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``. The trace of the root is the sum of the
    singular values of ``X Y^T`` for factors ``S1 = X^T X`` and ``S2 = Y^T Y``: no root of a matrix
    is taken, and few images make it fast. Of many images no more than two matrices (D, D) are in
    memory.
    """
    first, second = _fitted(real), _fitted(made)
    gap = first.mean - second.mean
    values = svdvals(_product(first, second), overwrite_a=True, check_finite=False)
    return float(gap @ gap) + first.spread + second.spread - 2.0 * float(values.sum())


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

    def _sides(self, found: Sequence[Arrays]) -> tuple[Rows, Rows]:
        before, after = (f"{side}.{self.features}" for side in ("original", "edited"))
        return _Stored(found, before), _Stored(found, after)


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
        times = resampled_times(count, samples, rng)
        several = times[times.max(axis=1) < count]  # of one image alone there is nothing to compare
        published, resampled = kernel_distance(*self._sides(found), several)
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
        value = frechet_distance(*self._sides(found))
        details = {"images_wanted": float(BIASED_BELOW), "biased": float(count < BIASED_BELOW)}
        if count < 2 * _GROUPS:
            return MetricResult(value, count, details=details)
        group = rng.permutation(count) % _GROUPS
        rest = [[found[i] for i in np.flatnonzero(group != g).tolist()] for g in range(_GROUPS)]
        left = np.array([frechet_distance(*self._sides(some)) for some in rest])
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

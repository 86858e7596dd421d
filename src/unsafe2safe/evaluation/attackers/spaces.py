"""Spaces of crops that attackers learn in, and what they learn there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.evaluation.attackers.attack import Floats, coarse
from unsafe2safe.evaluation.attackers.crops import Crops
from unsafe2safe.vision.arrays import FloatArray

_ALPHAS = np.logspace(-1, 4, 11)
_LEAST_ERROR = 1e-3  # of unit variance, so that what is told perfectly does not decide alone


class Space:
    """Whitened principal components of features and of coarse pixels, of the crops in ``train``."""

    def __init__(
        self, crops: Crops, features: FloatArray, train: NDArray[np.bool_], components: int
    ) -> None:
        from sklearn.decomposition import PCA

        parts = [features[train].astype(np.float64), coarse(crops[train])]
        number = [min(components, len(part) - 1, part.shape[1]) for part in parts]
        with np.errstate(invalid="ignore"):  # shares of a variance of 0, which nobody reads
            self._parts = [
                PCA(count, whiten=True, svd_solver="full").fit(part)
                for count, part in zip(number, parts, strict=True)
            ]
        # what does not vary has no scale of its own: rounding must not be blown up to one
        self._kept = [
            pca.explained_variance_ > 1e-6 * max(float(part.var(axis=0).sum()), 1e-6)
            for pca, part in zip(self._parts, parts, strict=True)
        ]

    def of(self, crops: Crops, features: FloatArray) -> Floats:
        """(N, D) of crops and their features."""
        sides = (features.astype(np.float64), coarse(crops))
        found = [
            pca.transform(side)[:, kept]
            for pca, side, kept in zip(self._parts, sides, self._kept, strict=True)
        ]
        joined: Floats = np.concatenate(found, axis=1)
        return joined


def ridge(seen: Floats, wanted: Floats) -> tuple[Any, Floats]:
    """Ridge regression of ``wanted`` (N, D) from ``seen`` (N, C), the penalty of each of D chosen
    by leaving one out, and the (D,) mean squared errors of what was left out."""
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(_ALPHAS, alpha_per_target=True, store_cv_results=True)
    model.fit(seen, wanted)
    errors = model.cv_results_.mean(axis=0).min(axis=1)
    return model, np.maximum(errors, _LEAST_ERROR)


def likelihood(told: Floats, gallery: Floats, errors: Floats) -> Floats:
    """(N, M) log-likelihoods, up to a constant, of the gallery (M, D) given what is ``told``
    (N, D) with the variances ``errors`` (D,)."""
    scale = 1 / np.sqrt(errors)
    one, other = told * scale, gallery * scale
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None]
    found: Floats = -(squares - 2 * one @ other.T)
    return found

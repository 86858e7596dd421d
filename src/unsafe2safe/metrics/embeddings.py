"""Embeddings of whole images, computed once for all metrics that ask for them.

What was computed of an image is kept as long as its features are: an original's serves every row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.arrays import FloatArray, RgbImage

_kept: WeakKeyDictionary[ImageFeatures, dict[str, NDArray[Any]]] = WeakKeyDictionary()


def embedded(
    images: Sequence[ImageFeatures],
    model: str,
    embed: Callable[[list[RgbImage]], FloatArray],
) -> FloatArray:
    """(N, D) embeddings of ``images`` by ``model``, which ``embed`` runs on a batch of pixels.

    Two calls with the same name of a model must mean the same model.
    """
    wanted: dict[ImageFeatures, None] = {
        image: None for image in images if model not in _kept.get(image, {})
    }
    if wanted:
        found = embed([image.pixels for image in wanted])
        for image, embedding in zip(wanted, found, strict=True):
            _kept.setdefault(image, {})[model] = embedding
    stacked: FloatArray = np.stack([_kept[image][model] for image in images])
    return stacked

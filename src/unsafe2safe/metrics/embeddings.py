"""Embeddings of whole images by a user's own models, computed once for all that ask for them.

What was computed of an image is kept with it, so that an original's serves every row, and in the
memory of features, where there is one, for the next run.
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
    version: str,
    embed: Callable[[list[RgbImage]], FloatArray],
) -> FloatArray:
    """(N, D) embeddings of ``images``, which ``embed`` computes for a batch of pixels.

    ``version`` tells the model by the content of its weights.
    """
    wanted: dict[ImageFeatures, None] = {}
    for image in images:
        kept = _kept.setdefault(image, {})
        if version in kept:
            continue
        found = image.recall(version)
        if found is None:
            wanted[image] = None
        else:
            kept[version] = found["embedding"]
    if wanted:
        computed = embed([image.pixels for image in wanted])
        for image, embedding in zip(wanted, computed, strict=True):
            _kept[image][version] = embedding
            image.remember(version, {"embedding": embedding})
    stacked: FloatArray = np.stack([_kept[image][version] for image in images])
    return stacked

"""Embeddings of whole images by a user's own models, computed once for all that ask for them.

What was computed of an image is kept with it, so that an original's serves every row, and in the
memory of features, where there is one, for the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.arrays import FloatArray, RgbImage


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
        if version in image.derived:
            continue
        found = image.recall(version)
        if found is None:
            wanted[image] = None
        else:
            image.derived[version] = found["embedding"]
    if wanted:
        computed = embed([image.pixels for image in wanted])
        for image, embedding in zip(wanted, computed, strict=True):
            image.derived[version] = embedding
            image.remember(version, {"embedding": embedding})
    stacked: FloatArray = np.stack([image.derived[version] for image in images])
    return stacked

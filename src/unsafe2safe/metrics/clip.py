"""What CLIP says of the edited picture: does it show what its public caption tells?

One CLIP serves all metrics and rows of a process. Its weights are never fetched by a measurement:
they are taken from a folder or from the hub's local cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.pretrained import without_place
from unsafe2safe.metrics.base import Metric, PairSample
from unsafe2safe.metrics.embeddings import embedded
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.arrays import FloatArray
from unsafe2safe.vision.clip import ClipEmbedder, Dtype, clip_embedder

_NO_DIFFERENCE = 1e-6  # of two embeddings of length 1


@component
class ClipMetric(Metric):
    """Base of metrics on CLIP's embeddings."""

    model: str = Field(  # type: ignore[misc]  # names the model of these metrics, for the report
        default="openai/clip-vit-large-patch14",
        description="CLIP, as a hub id that is in the local cache, or a folder that "
        "`save_pretrained` wrote.",
    )
    revision: str = Field(default="", description="Commit or tag of the hub; empty: the newest.")
    device: str = Field(default="cpu", description="Torch device: cpu, cuda, cuda:1.")
    dtype: Dtype = Field(default="float32", description="Type of the weights.")

    group = "quality"
    direction = "up"

    @property
    def _clip(self) -> ClipEmbedder:
        return clip_embedder(self.model, self.revision, self.device, self.dtype)

    def unavailable(self) -> str:
        try:
            self._clip.load()
        except UsageError as error:
            return without_place(str(error), self.model)
        return ""

    def _images(self, images: Sequence[ImageFeatures]) -> FloatArray:
        return embedded(images, self._clip.version, self._clip.images)

    def _texts(self, texts: Sequence[str]) -> FloatArray:
        return np.stack([_text_embedding(self._clip, text) for text in texts])


@lru_cache(maxsize=256)  # the rows of a few images ask for the same texts
def _text_embedding(clip: ClipEmbedder, text: str) -> FloatArray:
    embedding: FloatArray = clip.texts([text])[0]
    return embedding


@component
class ClipSimilarity(ClipMetric):
    """Cosine of the edited image with its public caption."""

    title = "CLIP similarity to the public caption"
    definition = (
        "Cosine of CLIP's embeddings of the edited image and of the public caption that Stage 1 "
        "wrote of the original. Does not apply to images without a public caption."
    )

    def expected(self, sample: PairSample) -> int:
        return int(bool(sample.captions.public))

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        seen = self._images([sample.after for sample in samples])
        read = self._texts([sample.captions.public for sample in samples])
        return [(float(cosine),) for cosine in (seen * read).sum(axis=1)]


@component
class DirectionalClip(ClipMetric):
    """Whether the image changed in the direction in which its captions differ."""

    title = "Directional CLIP similarity"
    definition = (
        "Cosine of two differences of CLIP's embeddings: edited image minus original, and public "
        "caption minus private caption. Does not apply where one of the captions is missing or "
        "cannot be read, where both are equal, or where the image did not change."
    )

    def expected(self, sample: PairSample) -> int:
        captions = sample.captions
        return int(
            bool(captions.private and captions.public)
            and captions.private.strip() != captions.public.strip()
        )

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        seen = self._images([sample.after for sample in samples])
        seen = seen - self._images([sample.original for sample in samples])
        read = self._texts([sample.captions.public for sample in samples])
        read = read - self._texts([sample.captions.private for sample in samples])
        found: list[tuple[float, ...]] = []
        for image, text in zip(seen, read, strict=True):
            lengths = float(np.linalg.norm(image)), float(np.linalg.norm(text))
            there = min(lengths) > _NO_DIFFERENCE
            found.append((float(image @ text) / (lengths[0] * lengths[1]),) if there else ())
        return found

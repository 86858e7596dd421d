"""Features of one image, each computed when first asked for and then kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from unsafe2safe.vision.arrays import FloatArray, RgbImage
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.perception import Perception
from unsafe2safe.vision.text import TextLine


class ImageFeatures:
    """An image and what perception sees in it.

    ``pixels`` is (H, W, 3) uint8 RGB. Texts and embeddings live in memory only and are never
    written: those of originals are private.
    """

    def __init__(self, pixels: RgbImage, perception: Perception) -> None:
        self.pixels = pixels
        self.perception = perception

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @cached_property
    def faces(self) -> list[Face]:
        return self.perception.faces.detect([self.pixels])[0]

    @cached_property
    def embeddings(self) -> FloatArray:
        """(N, 128) identity embeddings of :attr:`faces`, compared by L2 distance."""
        return self.embed_at(self.faces)

    @cached_property
    def lines(self) -> list[TextLine]:
        return self.perception.text.read(self.pixels)

    def embed_at(self, faces: Sequence[Face]) -> FloatArray:
        """(N, 128) embeddings at the places of ``faces``, whatever this image shows there."""
        if not faces:
            return np.zeros((0, 128), np.float32)
        return self.perception.identity.embed(self.pixels, faces)

"""Pairs whose faces and texts are given instead of looked for."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from unsafe2safe.core.records import Box
from unsafe2safe.metrics.base import PairSample
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.text import TextLine


class Seen(ImageFeatures):
    """An image in which perception is said to see ``people`` and ``texts``.

    A person is a number: persons lie 2 apart (L2). ``in_place`` tells which persons stand where
    the original's faces were; None: nobody, and the place looks like no one.
    """

    def __init__(
        self,
        people: Sequence[float] = (),
        texts: Sequence[str] = (),
        in_place: Sequence[float | None] | None = None,
        pixels: np.ndarray | None = None,
        at: Sequence[int] | None = None,
    ) -> None:
        super().__init__(blank() if pixels is None else pixels, SimpleNamespace())
        places = range(len(people)) if at is None else at
        self.faces = [
            Face(Box(place * 20.0, 0, 10, 10), 0.9, np.zeros((5, 2), np.float32))
            for place in places
        ]
        self.embeddings = np.array([embedding(person) for person in people]).reshape(-1, 128)
        self.lines = [TextLine(text, Box(0, 0, 9, 9), 0.9, np.zeros((4, 2))) for text in texts]
        self._in_place = people if in_place is None else in_place

    def embed_at(self, faces):
        assert len(faces) == len(self._in_place)
        return np.array([embedding(person) for person in self._in_place]).reshape(-1, 128)


def embedding(person: float | None) -> np.ndarray:
    vector = np.zeros(128, np.float32)
    if person is None:
        vector[127] = 9.0
    else:
        vector[0] = 2.0 * person
    return vector


def blank(height: int = 32, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), 127, np.uint8)


def noise(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box_mask(height: int = 40, width: int = 56) -> np.ndarray:
    mask = np.zeros((height, width), np.bool_)
    mask[10:25, 12:30] = True
    return mask


def pair(original: ImageFeatures, edited: ImageFeatures | None, mask=None) -> PairSample:
    height, width = original.size
    inside = np.zeros((height, width), np.bool_) if mask is None else mask
    return PairSample("an image", original, edited, inside)


def plain_pair(original: np.ndarray, edited: np.ndarray | None, mask=None) -> PairSample:
    after = None if edited is None else Seen(pixels=edited)
    return pair(Seen(pixels=original), after, mask)

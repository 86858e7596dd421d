"""Features of one image, each computed when first asked for and then kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.core.records import Box
from unsafe2safe.vision.arrays import FloatArray, RgbImage
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.perception import Perception
from unsafe2safe.vision.text import TextLine

Kept = Mapping[str, NDArray[Any]]


class Memory(Protocol):
    """Where features outlive the process: by the content of an image and by what they are."""

    def content(self, pixels: RgbImage) -> str: ...

    def get(self, content: str, what: str) -> Kept | None: ...

    def put(self, content: str, what: str, arrays: Kept) -> None: ...


class ImageFeatures:
    """An image and what perception sees in it.

    ``pixels`` is (H, W, 3) uint8 RGB. Texts and embeddings are private where the image is an
    original: they live in memory, and in ``memory``, which is private too. ``derived``
    holds what others computed of the image, by keys of theirs, for as long as it is in use.
    """

    def __init__(
        self, pixels: RgbImage, perception: Perception, memory: Memory | None = None
    ) -> None:
        self.pixels = pixels
        self.perception = perception
        self._memory = memory
        self.derived: dict[Hashable, Any] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @cached_property
    def faces(self) -> list[Face]:
        def look() -> Kept:
            return _faces_kept(self.perception.faces.detect([self.pixels])[0])

        return _faces(self._kept("faces", look))

    @cached_property
    def embeddings(self) -> FloatArray:
        """(N, 128) identity embeddings of :attr:`faces`, compared by L2 distance."""
        return self._kept("identities", lambda: {"e": self.embed_at(self.faces)})["e"]

    @cached_property
    def lines(self) -> list[TextLine]:
        return _lines(
            self._kept("text", lambda: _lines_kept(self.perception.text.read(self.pixels)))
        )

    @cached_property
    def efficientnet(self) -> FloatArray:
        """(1280,) features of the whole frame by EfficientNet-Lite0."""
        return self._kept(
            "efficientnet_lite0",
            lambda: {"f": self.perception.features.features([self.pixels])[0]},
        )["f"]

    def embed_at(self, faces: Sequence[Face]) -> FloatArray:
        """(N, 128) embeddings at the places of ``faces``, whatever this image shows there."""
        if not faces:
            return np.zeros((0, 128), np.float32)
        return self.perception.identity.embed(self.pixels, faces)

    @cached_property
    def content(self) -> str:
        """What tells this image from others in :class:`Memory`."""
        return self._memory.content(self.pixels) if self._memory else ""

    def recall(self, version: str) -> Kept | None:
        """What :meth:`remember` was given under that ``version``, by whomever; None: nothing."""
        return self._memory.get(self.content, version) if self._memory else None

    def remember(self, version: str, arrays: Kept) -> None:
        """Keep what was seen here; ``version`` tells the model with its settings."""
        if self._memory:
            self._memory.put(self.content, version, arrays)

    def _kept(self, what: str, compute: Callable[[], Kept]) -> Kept:
        if self._memory is None:
            return compute()
        version = self.perception.version(what)
        found = self.recall(version)
        if found is None:
            found = compute()
            self.remember(version, found)
        return found


def _boxes(boxes: Sequence[Box]) -> NDArray[np.float64]:
    """(N, 4): x, y, width, height."""
    rows = [(box.x, box.y, box.width, box.height) for box in boxes]
    return np.array(rows, np.float64).reshape(-1, 4)


def _faces_kept(faces: Sequence[Face]) -> Kept:
    landmarks = [face.landmarks for face in faces]
    return {
        "boxes": _boxes([face.box for face in faces]),
        "scores": np.array([face.score for face in faces], np.float64),
        "landmarks": np.array(landmarks, np.float32).reshape(-1, 5, 2),
    }


def _faces(kept: Kept) -> list[Face]:
    return [
        Face(Box(*map(float, box)), float(score), landmarks)
        for box, score, landmarks in zip(
            kept["boxes"], kept["scores"], kept["landmarks"], strict=True
        )
    ]


def _lines_kept(lines: Sequence[TextLine]) -> Kept:
    texts = json.dumps([line.text for line in lines]).encode()
    return {
        "texts": np.frombuffer(texts, np.uint8),
        "boxes": _boxes([line.box for line in lines]),
        "scores": np.array([line.score for line in lines], np.float64),
        "polygons": np.array([line.polygon for line in lines], np.float32).reshape(-1, 4, 2),
    }


def _lines(kept: Kept) -> list[TextLine]:
    texts = json.loads(kept["texts"].tobytes())
    return [
        TextLine(text, Box(*map(float, box)), float(score), polygon)
        for text, box, score, polygon in zip(
            texts, kept["boxes"], kept["scores"], kept["polygons"], strict=True
        )
    ]

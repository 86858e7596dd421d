"""Who a face is, by an ArcFace model in an ONNX file that the user gives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from unsafe2safe.core.errors import UsageError
from unsafe2safe.vision.arrays import FloatArray, RgbImage
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.identity import ARCFACE_TEMPLATE, chip
from unsafe2safe.vision.models import open_session

_SIDE = 112  # pixels of a chip, where the model does not say
_BATCH = 32


class ArcFace:
    """Embeddings compared by their cosine. The model takes aligned RGB faces in [-1, 1]."""

    def __init__(self, weights: str, threads: int = 0) -> None:
        self.weights, self.threads = weights, threads

    @cached_property
    def _session(self) -> Any:
        path = Path(self.weights).expanduser()
        if not path.is_file():
            raise UsageError(f"weights: there is no file {path.name} where it is said to be")
        try:
            session = open_session(path, self.threads)
        except Exception as error:  # onnxruntime has many of its own
            raise UsageError(
                f"weights: {path.name} cannot be loaded ({type(error).__name__})"
            ) from None
        if len(session.get_inputs()) != 1 or len(session.get_inputs()[0].shape) != 4:
            raise UsageError(f"weights: {path.name} takes no batch of images")
        return session

    def load(self) -> None:
        """Load the model now.

        Raises:
            UsageError: the file is missing or no such model.
        """
        _ = self._session

    @cached_property
    def version(self) -> str:
        """Tells these embeddings from other models'."""
        content = Path(self.weights).expanduser().read_bytes()
        return f"arcface {blake2b(content, digest_size=16).hexdigest()} {self.threads}"

    def embed(self, image: RgbImage, faces: Sequence[Face]) -> FloatArray:
        """(N, D) embeddings of length 1 of ``faces`` of ``image`` (H, W, 3) uint8 RGB."""
        taken = self._session.get_inputs()[0]
        side = taken.shape[-1] if isinstance(taken.shape[-1], int) else _SIDE
        template = ARCFACE_TEMPLATE * (side / _SIDE)
        chips = [chip(image, face.landmarks, template, side) for face in faces]
        parts = []
        for start in range(0, len(chips), _BATCH):
            batch = np.stack(chips[start : start + _BATCH]).transpose(0, 3, 1, 2)
            given = (batch.astype(np.float32) - 127.5) / 127.5
            parts.append(self._session.run(None, {taken.name: given})[0])
        found = np.concatenate(parts)
        scaled: FloatArray = found / np.linalg.norm(found, axis=1, keepdims=True)
        return scaled


@cache
def arcface(weights: str) -> ArcFace:
    """The one model of this file in this process."""
    return ArcFace(weights)

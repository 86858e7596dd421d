"""Photographs of the package and the models, each loaded once for the whole folder."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unsafe2safe.core.config.schema_common import Vision
from unsafe2safe.vision.arrays import RgbImage
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.perception import Perception

PHOTOS = resources.files("unsafe2safe.assets") / "photos"


@cache
def _photo(name: str) -> RgbImage:
    with Image.open(io.BytesIO((PHOTOS / name).read_bytes())) as image:
        pixels = np.asarray(image.convert("RGB"))
    pixels.flags.writeable = False
    return pixels


@pytest.fixture(scope="session")
def photo() -> Callable[[str], RgbImage]:
    return _photo


@pytest.fixture(scope="session")
def faces_of(perception: Perception) -> Callable[[str], list[Face]]:
    """Name of a photograph -> its faces as Stage 1 finds them, searched once."""
    return cache(lambda name: perception.faces.detect([_photo(name)])[0])


@pytest.fixture(scope="session")
def labels() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((PHOTOS / "labels.json").read_text())
    return content


@pytest.fixture(scope="session")
def settings() -> Vision:
    return Vision(
        face_threshold=0.5,
        strict_face_threshold=0.25,
        face_long_side=1280,
        text_threshold=0.6,
        object_threshold=0.4,
        gender=False,
    )


@pytest.fixture(scope="session")
def perception(settings: Vision) -> Perception:
    return Perception(settings, threads=2)

"""What a data set is told of its published images, to write its own annotations anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedImage:
    """``name`` is the path below the published root; ``width`` and ``height`` are the file's."""

    image_id: str
    name: str
    width: int
    height: int
    public_caption: str


@dataclass(frozen=True)
class AnnotationFile:
    """A text file below the published root, written piece by piece."""

    name: str
    pieces: Iterator[str]

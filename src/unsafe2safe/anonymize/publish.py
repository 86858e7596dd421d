"""Writing what passed: name, format, metadata, verified after encoding."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from unsafe2safe.core.config.schema import Publish
from unsafe2safe.core.errors import ItemError
from unsafe2safe.core.files import KeyedHash, inside, write_bytes
from unsafe2safe.data.decode import DecodedImage, decode_bytes
from unsafe2safe.data.encode import (
    PublishedFormat,
    encode,
    published_format,
    published_suffix,
)
from unsafe2safe.data.metadata import leftover_metadata
from unsafe2safe.editors.base import Pixels
from unsafe2safe.vision.matching import text_leaks

_FORMATS: dict[str, PublishedFormat] = {"png": "PNG", "jpeg": "JPEG"}
_SHORTEST_NAME_LEAK = 4


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A file ready to be written, and the pixels that whoever opens it will see."""

    content: bytes
    pixels: Pixels

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class Publisher:
    """Encodes and writes published files below ``root``."""

    def __init__(self, root: Path, settings: Publish, names: KeyedHash) -> None:
        self.root, self.settings, self._names = root, settings, names

    def encode(
        self, image_id: str, pixels: Pixels, source: DecodedImage, source_type: str | None
    ) -> EncodedImage:
        """Encode ``pixels`` (H, W, 3), strip metadata, verify, and decode the result again.

        ``source_type`` is the IPTC digital source type of an edited picture, None for others.

        Raises:
            ItemError: metadata outside the allow-list stands in the encoded file.
        """
        kept = frozenset(self.settings.keep_tags)
        content = encode(
            pixels,
            self._format(source),
            quality=self.settings.quality,
            copyright=source.copyright if "copyright" in kept else None,
            digital_source_type=source_type if "digital_source_type" in kept else None,
            icc_profile=source.icc_profile if "icc" in kept else None,
        )
        left = leftover_metadata(content, kept)
        if left:
            raise ItemError(image_id, f"metadata left after stripping: {', '.join(left)}")
        seen = decode_bytes(content, image_id, orientation="raster", max_pixels=pixels.size)
        return EncodedImage(content, seen.pixels)

    def name(self, image_id: str, source: DecodedImage, private_texts: Sequence[str]) -> str:
        """The published path relative to ``root``: the image's own, or a keyed hash of it."""
        name = published_suffix(self._format(source), image_id)
        if self.settings.names == "hash" or _tells(image_id, private_texts):
            hashed = self._names.digest(image_id.encode())[:24]
            name = hashed + PurePosixPath(name).suffix
        return name

    def write(self, name: str, encoded: EncodedImage) -> None:
        write_bytes(inside(self.root, name), encoded.content)

    def _format(self, source: DecodedImage) -> PublishedFormat:
        if self.settings.format != "keep":
            return _FORMATS[self.settings.format]
        return published_format(source.format)


def _tells(image_id: str, private_texts: Sequence[str]) -> bool:
    """Whether a file name repeats a text that was read in the image."""
    told = PurePosixPath(image_id).stem.replace("_", " ").replace("-", " ")
    long_enough = [text for text in private_texts if len(text.strip()) >= _SHORTEST_NAME_LEAK]
    return any(text_leaks(long_enough, [told], 90.0))


def to_png(pixels: np.ndarray) -> bytes:
    """Lossless bytes for the quarantine."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()

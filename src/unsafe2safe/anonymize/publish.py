"""Writing what passed: name, format, colours, metadata, verified after encoding."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from unsafe2safe.anonymize.naming import tells_something
from unsafe2safe.core.config.schema import Publish
from unsafe2safe.core.errors import ItemError
from unsafe2safe.core.files import KeyedHash, inside, write_bytes
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.colour import from_srgb
from unsafe2safe.data.decode import DecodedImage, decode_bytes
from unsafe2safe.data.encode import (
    PublishedFormat,
    encode,
    published_format,
    published_suffix,
)
from unsafe2safe.data.metadata import leftover_metadata
from unsafe2safe.data.strip import CannotCopyError, strip_metadata
from unsafe2safe.editors.base import Pixels

_FORMATS: dict[str, PublishedFormat] = {
    "png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "tiff": "TIFF"
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A file ready to be written, the pixels that whoever opens it will see, and what was changed
    on the way from the source beside the edit."""

    content: bytes
    pixels: Pixels
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, eq=False)
class _InOwnColours:
    """Pixels as they are written under a colour policy, with the profile that goes with them."""

    pixels: Pixels
    profile: bytes | None


class Publisher:
    """Encodes and writes published files below ``root``."""

    def __init__(self, root: Path, settings: Publish, names: KeyedHash) -> None:
        self.root, self.settings, self._names = root, settings, names

    @property
    def allowed_metadata(self) -> frozenset[str]:
        """What :func:`leftover_metadata` lets stand in a published file."""
        return allowed_metadata(self.settings)

    @property
    def compares_names(self) -> bool:
        """Whether names are compared with what is written in the pictures; else none is kept."""
        return self.settings.names != "hash"

    def encode(
        self, image_id: str, pixels: Pixels, source: DecodedImage, source_type: str | None
    ) -> EncodedImage:
        """Encode ``pixels`` (H, W, 3), strip metadata, verify, and decode the result again.

        ``source_type`` is the IPTC digital source type of an edited picture, None for one that is
        published as it was: with ``publish.safe=lossless`` its compressed data are copied where
        they hold nothing but what ``pixels`` show.

        Raises:
            ItemError: metadata outside the allow-list stands in the encoded file.
        """
        kind, settings = self._format(source), self.settings
        notes = [] if kind == source.format else [f"{source.format} published as {kind}"]
        written = self._in_own_colours(pixels, source, notes)
        notice = source.copyright if "copyright" in settings.keep_tags else None
        content = None
        if source_type is None and settings.safe == "lossless":
            content = self._copied(image_id, written, source, kind, notice, notes)
        if content is None:
            content = encode(
                written.pixels,
                kind,
                quality=settings.quality,
                subsampling=settings.subsampling,
                png_compression=settings.png_compression,
                webp_lossless=settings.webp_lossless,
                tiff_compression=settings.tiff_compression,
                copyright=notice,
                digital_source_type=(
                    source_type if "digital_source_type" in settings.keep_tags else None
                ),
                icc_profile=written.profile,
            )
        left = leftover_metadata(content, self.allowed_metadata)
        if left:
            raise ItemError(image_id, f"metadata left after stripping: {', '.join(left)}")
        seen = decode_bytes(content, image_id, orientation="raster", max_pixels=pixels.size)
        return EncodedImage(content, seen.pixels, tuple(notes))

    def name(
        self, record: ImageRecord, source: DecodedImage, private_texts: Sequence[str]
    ) -> str:  # fmt: skip
        """The published path relative to ``root``: the image's own, or a keyed hash of it.

        Hashed names keep the folders that belong to the data set's layout (``layout_folder``) and
        the suffix, no other.
        """
        name = published_suffix(self._format(source), record.image_id)
        layout = PurePosixPath(record.layout_folder)
        own = PurePosixPath(record.image_id).relative_to(layout)
        if not self.compares_names or tells_something(str(own), private_texts):
            hashed = self._names.digest(record.image_id.encode())[:24]
            name = str(layout / (hashed + PurePosixPath(name).suffix.lower()))
        return name

    def write(self, name: str, encoded: EncodedImage) -> None:
        write_bytes(inside(self.root, name), encoded.content)

    def _format(self, source: DecodedImage) -> PublishedFormat:
        if self.settings.format != "keep":
            return _FORMATS[self.settings.format]
        return published_format(source.format)

    def _in_own_colours(
        self, pixels: Pixels, source: DecodedImage, notes: list[str]
    ) -> _InOwnColours:
        """sRGB, or the file's own RGB space: there, unedited pixels are the stored ones exactly."""
        keep = self.settings.icc == "keep"
        other = source.other_profile
        if self.settings.icc == "srgb" or other is None:
            return _InOwnColours(pixels, _whole(source.icc_profile, notes) if keep else None)
        if keep and _whole(other, notes) is None:
            return _InOwnColours(pixels, None)
        stored = decode_bytes(
            source.content,
            "",
            orientation=source.view,
            max_pixels=source.pixels.size,
            colour="stored",
        ).pixels
        edited = (pixels != source.pixels).any(axis=2, keepdims=True)
        if edited.any():
            try:
                stored = np.where(edited, from_srgb(pixels, other), stored)
            except ValueError:
                notes.append("its ICC profile cannot be written to: published in sRGB")
                return _InOwnColours(pixels, None)
        return _InOwnColours(stored, other if keep else None)

    def _copied(
        self,
        image_id: str,
        written: _InOwnColours,
        source: DecodedImage,
        kind: PublishedFormat,
        notice: str | None,
        notes: list[str],
    ) -> bytes | None:
        """The source's own compressed data, or None, noting why it cannot be used."""
        expected = written.pixels if written.profile is None else source.pixels
        try:
            if kind != source.format:
                raise CannotCopyError(f"{source.format} is not {kind}")
            content = strip_metadata(
                source.content, source.format, copyright=notice, icc_profile=written.profile
            )
            if leftover_metadata(content, self.allowed_metadata):
                raise CannotCopyError("its picture data hold more than a picture")
            seen = decode_bytes(
                content, image_id, orientation="raster", max_pixels=source.pixels.size
            )
            if not np.array_equal(seen.pixels, expected):
                raise CannotCopyError("its pixels are turned or in other colours")
        except CannotCopyError as reason:
            notes.append(f"not copied but encoded again: {reason}")
            return None
        notes.append("compressed data copied")
        return content


def allowed_metadata(settings: Publish) -> frozenset[str]:
    """What may stand in files published with ``settings``: :func:`leftover_metadata`'s words."""
    return frozenset({*settings.keep_tags, *(("icc",) if settings.icc == "keep" else ())})


def _whole(profile: bytes | None, notes: list[str]) -> bytes | None:
    """A profile as long as it says: behind a shorter one something could hide."""
    if profile is not None and int.from_bytes(profile[:4], "big") != len(profile):
        notes.append("damaged ICC profile dropped")
        return None
    return profile


def to_png(pixels: np.ndarray) -> bytes:
    """Lossless bytes for the quarantine."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()

"""The one place where files become pixels.

Content is bounded before it is decoded, decoded whole or not at all, and brought to 8-bit sRGB.
Whatever goes wrong is an :class:`UnreadableImage` with a short reason without paths.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from unsafe2safe.core.errors import UnreadableImage
from unsafe2safe.data.colour import to_srgb
from unsafe2safe.data.facts import listening, read_facts

Orientation = Literal["apply", "raster"]
Colour = Literal["srgb", "stored"]
Pixels = NDArray[np.uint8]

_BEGINNING = 256  # bytes that tell the format
MAX_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb

# No other reader of Pillow's is ever tried: some of them run external programs.
_READERS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_T = Image.Transpose
_UPRIGHT = {
    2: _T.FLIP_LEFT_RIGHT,
    3: _T.ROTATE_180,
    4: _T.FLIP_TOP_BOTTOM,
    5: _T.TRANSPOSE,
    6: _T.ROTATE_270,
    7: _T.TRANSVERSE,
    8: _T.ROTATE_90,
}
_AS_STORED = {**_UPRIGHT, 6: _T.ROTATE_90, 8: _T.ROTATE_270}  # the inverse of each
_NO_PIXELS: Pixels = np.empty((0, 0, 3), dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded picture and what its file said beside the pixels.

    ``pixels`` is (H, W, 3) uint8 sRGB, read-only. ``format`` is the container ('JPEG', 'PNG',
    'WEBP', 'TIFF', 'GIF', 'BMP', 'AVIF', 'HEIF'), whatever the file's name says. ``has_location``
    tells of a position or place in EXIF, XMP or IPTC. ``icc_profile`` is the file's own profile
    where the pixels are in it, that is when it is an sRGB profile; ``other_profile`` is an RGB
    profile of another space, out of which they were converted. ``view`` tells which orientation
    was chosen, ``turn`` EXIF's code of it. ``content`` is the file itself.
    """

    pixels: Pixels
    format: str
    has_location: bool
    notes: tuple[str, ...]
    copyright: str | None
    icc_profile: bytes | None
    content: bytes
    other_profile: bytes | None = None
    view: Orientation = "apply"
    turn: int = 1


def decode_file(
    path: Path,
    image_id: str,
    *,
    orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    annotated_size: tuple[int, int] | None = None,
) -> DecodedImage:
    """:func:`decode_bytes` of a file's content.

    Raises:
        UnreadableImage: the file is missing, not a regular file, unreadable or undecodable.
    """
    return decode_bytes(
        read_file(path, image_id),
        image_id,
        orientation=orientation,
        max_pixels=max_pixels,
        annotated_size=annotated_size,
    )


def read_file(path: Path, image_id: str) -> bytes:
    """The whole content of a file.

    Raises:
        UnreadableImage: the file is missing, not a regular file, or cannot be read.
    """
    try:
        if path.is_dir():
            raise UnreadableImage(image_id, "is a folder")
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise UnreadableImage(image_id, "is not a regular file")
        return path.read_bytes()
    except FileNotFoundError:
        raise UnreadableImage(image_id, "file is missing") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableImage(image_id, f"file cannot be read: {reason}") from None
    except MemoryError:
        raise UnreadableImage(image_id, "does not fit in memory") from None


def decode_bytes(
    content: bytes,
    image_id: str,
    *,
    orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    annotated_size: tuple[int, int] | None = None,
    colour: Colour = "srgb",
) -> DecodedImage:
    """Decode ``content`` to 8-bit sRGB.

    ``orientation='apply'`` turns the picture as its metadata says, ``'raster'`` keeps the pixels
    as stored. Where ``annotated_size`` (width, height) fits only the other choice, that one is
    used and noted: boxes of the annotation are valid in the result in any case.
    ``colour='stored'`` leaves RGB values as they are stored, whatever profile says what they mean.

    Raises:
        UnreadableImage: with a reason that quotes neither paths nor content.
    """
    if not content:
        raise UnreadableImage(image_id, "empty file")
    try:
        with _open(io.BytesIO(content), image_id) as (image, half_readable):
            count = image.width * image.height
            if count > max_pixels:
                raise UnreadableImage(
                    image_id,
                    f"{image.width} x {image.height} = {count} pixels, more than "
                    f"dataset.max_pixels={max_pixels}",
                )
            views, decoded = _load(image, content, half_readable, colour)
    except UnreadableImage:
        raise
    except Exception as error:  # decoders raise all sorts of things on damaged content
        raise UnreadableImage(image_id, _reason(error, content)) from None
    view, notes = views.choose(orientation, annotated_size, image_id)
    pixels = np.array(views.upright if view == "apply" else views.stored, dtype=np.uint8)
    pixels.setflags(write=False)
    return replace(
        decoded, pixels=pixels, notes=(*decoded.notes, *notes), view=view, turn=views.turn
    )


def stated_size(file: Path | bytes, image_id: str) -> tuple[int, int]:
    """Width and height as the header of a file, or of its content, states them: undecoded,
    whatever their product, before any turning.

    Raises:
        UnreadableImage: there is no header that can be read.
    """
    beginning = b""
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as stream:
            beginning = stream.read(_BEGINNING)
            with _open(stream, image_id) as (image, _):
                return image.width, image.height
    except UnreadableImage:
        raise
    except Exception as error:  # as above
        raise UnreadableImage(image_id, _reason(error, beginning)) from None


def _reason(error: Exception, content: bytes) -> str:
    if isinstance(error, MemoryError):
        return "does not fit in memory"
    if isinstance(error, UnidentifiedImageError):
        known = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")
        return "damaged header" if content.startswith(known) else "not an image"
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return "truncated"
    return f"damaged ({type(error).__name__})"


@contextmanager
def _open(stream: BinaryIO, image_id: str) -> Iterator[tuple[Image.Image, bool]]:
    """An image whose header is read, and whether some of its metadata could not be."""
    stream.seek(0)
    content = stream.read(_BEGINNING)
    stream.seek(0)
    Image.init()  # registers the readers; does nothing from the second time on
    readers = [name for name in _READERS if name in Image.OPEN]
    if content[4:8] == b"ftyp":
        size = min(int.from_bytes(content[:4], "big"), 256)
        brands = {content[8:12], *(content[i : i + 4] for i in range(16, size, 4))}
        if brands & _HEIF_BRANDS and not brands & _AVIF_BRANDS:
            _register_heif(image_id)
            readers.append("HEIF")
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a library that sets it would get us half pictures
    with (
        listening() as complaints
    ):  # Pillow's own bound is global and fixed: ours is checked by the caller instead
        bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(stream, formats=readers)
        finally:
            Image.MAX_IMAGE_PIXELS = bound
    with image:
        yield image, any(re.search("exif|tag", str(told.message), re.I) for told in complaints)


def _register_heif(image_id: str) -> None:
    try:
        import pillow_heif
    except ImportError:
        raise UnreadableImage(image_id, "HEIC needs the extra unsafe2safe[heif]") from None
    pillow_heif.register_heif_opener()


def _load(
    image: Image.Image, content: bytes, half_readable: bool, colour: Colour
) -> tuple[_Views, DecodedImage]:
    """The picture in both orientations, and all but the pixels of what is handed back."""
    kind = {"MPO": "JPEG"}.get(image.format or "", image.format or "")
    notes: list[str] = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"first frame of {frames}")
    if ";16" in str(getattr(image, "tile", "")) and not image.mode.startswith("I"):
        notes.append("converted from 16-bit")
    if kind == "TIFF":  # Pillow turns it while loading, and forgets that it did
        facts = read_facts(image, half_readable)
        image.load()
    else:
        image.load()  # PNG metadata may stand behind the pixels
        facts = read_facts(image, half_readable)
    profile = image.info.get("icc_profile")
    known = isinstance(profile, bytes) and colour == "srgb"
    rgb, kept_profile, other_profile = to_srgb(image, profile if known else None, notes)
    decoded = DecodedImage(
        pixels=_NO_PIXELS,
        format=kind,
        has_location=facts.has_location,
        notes=(*facts.notes, *notes),
        copyright=facts.copyright,
        icc_profile=kept_profile,
        content=content,
        other_profile=other_profile,
    )
    return _Views.of(rgb, facts.orientation, turned=kind == "TIFF"), decoded


@dataclass(frozen=True)
class _Views:
    """A picture as it is stored and as it is meant to be looked at; ``turn`` is EXIF's code."""

    stored: Image.Image
    upright: Image.Image
    turn: int

    @classmethod
    def of(cls, image: Image.Image, turn: int, *, turned: bool) -> _Views:
        if turn not in _UPRIGHT:
            return cls(image, image, 1)
        if turned:
            return cls(image.transpose(_AS_STORED[turn]), image, turn)
        return cls(image, image.transpose(_UPRIGHT[turn]), turn)

    def choose(
        self, orientation: Orientation, annotated_size: tuple[int, int] | None, image_id: str
    ) -> tuple[Orientation, list[str]]:
        """The view to use, and what to note of the choice."""
        apply, notes = orientation == "apply", []
        if annotated_size is not None:
            wanted, other = (self.upright, self.stored) if apply else (self.stored, self.upright)
            if wanted.size != annotated_size:
                if other.size != annotated_size:
                    raise UnreadableImage(
                        image_id,
                        f"is {wanted.width} x {wanted.height} pixels, annotated as "
                        f"{annotated_size[0]} x {annotated_size[1]}",
                    )
                apply = not apply
                notes.append("orientation chosen to fit the annotated size")
        if self.turn != 1:
            notes.append(f"orientation {self.turn} {'applied' if apply else 'ignored'}")
        return ("apply" if apply else "raster"), notes

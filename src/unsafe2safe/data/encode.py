"""Writing published pictures: pixels, and of metadata only what is named.

A file holds its pixels and at most three things: a copyright notice (EXIF tag 0x8298), the IPTC
digital source type (in a minimal XMP packet) and an ICC profile. Equal input gives equal bytes.
"""

from __future__ import annotations

import io
import struct
from pathlib import PurePosixPath
from typing import Any, Literal, get_args
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

PublishedFormat = Literal["JPEG", "PNG", "WEBP", "TIFF"]
Subsampling = Literal["auto", "4:4:4", "4:2:2", "4:2:0"]
TiffCompression = Literal["deflate", "lzw", "none"]

# https://cv.iptc.org/newscodes/digitalsourcetype/
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
COMPOSITE_WITH_TRAINED_MODEL = _SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"
TRAINED_MODEL = _SOURCE_TYPES + "trainedAlgorithmicMedia"
HUMAN_EDITS = _SOURCE_TYPES + "humanEdits"
MINOR_HUMAN_EDITS = _SOURCE_TYPES + "minorHumanEdits"
ALGORITHMICALLY_ENHANCED = _SOURCE_TYPES + "algorithmicallyEnhanced"

_COPYRIGHT = 0x8298
_XMP = 700
_XMP_PACKET = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about=""'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    " Iptc4xmpExt:DigitalSourceType={value}/>"
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)
_SUBSAMPLING = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
_TIFF_COMPRESSION = {"deflate": "tiff_adobe_deflate", "lzw": "tiff_lzw", "none": "raw"}
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
_SUFFIXES: dict[PublishedFormat, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
_PUBLISHED: dict[str, PublishedFormat] = {"GIF": "PNG", "BMP": "PNG", "HEIF": "JPEG"}
_FORMAT_OF = {suffix: kind for kind, known in _SUFFIXES.items() for suffix in known}


def published_format(source_format: str) -> PublishedFormat:
    """The format in which a picture that came as ``source_format`` is published.

    JPEG, PNG, WebP and TIFF stay what they are; GIF and BMP become PNG; HEIF and whatever else is
    lossy becomes JPEG.
    """
    kind = source_format.upper()
    for known in get_args(PublishedFormat):
        if kind == known:
            return known  # type: ignore[no-any-return]
    return _PUBLISHED.get(kind, "JPEG")


def published_suffix(source_format: str, image_id: str) -> str:
    """The ``image_id`` under which a picture is published as ``published_format(source_format)``.

    A name whose suffix already says that format stays unchanged. Any other keeps its suffix and
    gets one more: ``a.gif`` becomes ``a.gif.png``. A name that could have come about that way
    (``a.gif.png`` in the data set itself) gets one more, too, so that the names of two different
    files with known suffixes never meet.
    """
    kind = published_format(source_format)
    chain: set[str] = set()
    rest = PurePosixPath(image_id)
    while rest.suffix.lower() in _KNOWN_SUFFIXES:
        chain.add(_FORMAT_OF.get(rest.suffix.lower(), "other"))
        rest = rest.with_name(rest.stem)
    return image_id if chain == {kind} else image_id + _SUFFIXES[kind][0]


# Suffixes of files that are read at all, in the order in which messages list them.
READ_SUFFIXES = (
    *(suffix for known in _SUFFIXES.values() for suffix in known),
    *(".gif", ".bmp", ".dib", ".mpo", ".avif", ".heic", ".heif"),
)
_KNOWN_SUFFIXES = frozenset(READ_SUFFIXES)


def encode(
    pixels: NDArray[np.uint8],
    format: str,  # noqa: A002
    *,
    quality: int,
    subsampling: Subsampling = "auto",
    png_compression: int = 6,
    webp_lossless: bool = False,
    tiff_compression: TiffCompression = "deflate",
    copyright: str | None = None,  # noqa: A002
    digital_source_type: str | None = None,
    icc_profile: bytes | None = None,
) -> bytes:
    """A file of ``pixels`` (H, W, 3) uint8 with no metadata but what is given here.

    ``quality`` (1 to 100) applies to JPEG and WebP; PNG and TIFF are lossless. ``subsampling`` is
    of a JPEG's colours, 'auto' being 4:4:4 from quality 90 on, else 4:2:0. ``png_compression`` is 0
    (none) to 9 (smallest).

    Raises:
        ValueError: pixels of another shape or type, an unknown format, or a side longer than the
            format can hold.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"pixels are {pixels.shape} {pixels.dtype}, not (H, W, 3) uint8")
    if format not in _SUFFIXES:
        raise ValueError(f"format={format!r} is none of {', '.join(_SUFFIXES)}")
    height, width = pixels.shape[:2]
    if max(height, width) > _LONGEST_SIDE.get(format, 2**31 - 1):
        raise ValueError(f"{format} cannot hold {width} x {height} pixels")
    notice = copyright.replace("\0", " ").strip() if copyright else ""
    xmp = _xmp_packet(digital_source_type) if digital_source_type else b""
    settings: dict[str, Any] = {"icc_profile": icc_profile} if icc_profile else {}
    if format == "JPEG":
        auto = "4:4:4" if quality >= 90 else "4:2:0"
        chosen = _SUBSAMPLING[auto if subsampling == "auto" else subsampling]
        settings |= {"quality": quality, "subsampling": chosen}
    elif format == "WEBP":
        settings |= {"quality": quality, "method": 4, "lossless": webp_lossless}
    elif format == "TIFF":
        settings |= {"compression": _TIFF_COMPRESSION[tiff_compression]}
    if format == "TIFF":
        settings["tiffinfo"] = _tiff_tags(notice, xmp)
    elif format == "PNG":
        settings["compress_level"] = png_compression
        chunks = PngImagePlugin.PngInfo()
        if xmp:
            chunks.add_itxt("XML:com.adobe.xmp", xmp.decode())
        settings["pnginfo"] = chunks
    elif xmp:
        settings["xmp"] = xmp
    if notice and format != "TIFF":
        settings["exif"] = exif_block(notice)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format, **settings)
    return buffer.getvalue()


def _xmp_packet(digital_source_type: str) -> bytes:
    return _XMP_PACKET.format(value=quoteattr(digital_source_type)).encode()


def exif_block(notice: str) -> bytes:
    """EXIF with the copyright tag alone, in UTF-8 (of which ASCII, what EXIF asks for, is part)."""
    text = notice.encode()[:60_000] + b"\0"
    if len(text) <= 4:
        value, behind = text.ljust(4, b"\0"), b""
    else:
        value, behind = struct.pack("<I", 26), text
    entry = struct.pack("<HHI", _COPYRIGHT, 2, len(text)) + value
    return b"Exif\0\0" + struct.pack("<2sHIH", b"II", 42, 8, 1) + entry + b"\0\0\0\0" + behind


def _tiff_tags(notice: str, xmp: bytes) -> ImageFileDirectory_v2:
    tags = ImageFileDirectory_v2()
    if notice:
        tags[_COPYRIGHT] = notice.encode()
    if xmp:
        tags.tagtype[_XMP] = 1
        tags[_XMP] = xmp
    return tags

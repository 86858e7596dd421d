"""Copying a picture's compressed data as it is, and nothing else of its file.

What is copied has to be what the detectors saw: a file whose picture data holds more than its
8-bit opaque pixels (transparency, 16 bits, inks, further frames) is not copied, since nobody looked
at the rest. Bytes hidden inside the compressed data of a JPEG or WebP itself cannot be told from
it; re-encoding is what gets rid of those.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from unsafe2safe.data.encode import exif_block
from unsafe2safe.data.metadata import scan_end

# What a decoder needs: frames, Huffman and arithmetic tables, scans, quantization, line counts,
# restart intervals.
_JPEG_FRAMES = frozenset({*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), 0xCD, 0xCE,
                          0xCF})  # fmt: skip
_JPEG_KEPT = _JPEG_FRAMES | {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD}
_JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"  # no thumbnail, square pixels
_ICC_HEADER = b"ICC_PROFILE\0"
_ICC_PIECE = 65_519  # bytes of a profile that fit a segment
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PICTURE = (b"PLTE", b"IDAT")


class CannotCopyError(Exception):
    """Why the picture data cannot be copied as it is; quotes nothing of it."""


def strip_metadata(
    content: bytes,
    kind: str,
    *,
    copyright: str | None = None,  # noqa: A002
    icc_profile: bytes | None = None,
) -> bytes:
    """The picture of a JPEG, PNG or WebP file, its compressed data untouched, without the rest.

    Left out are all metadata, thumbnails, comments, further frames and whatever follows the end.
    ``copyright`` is written as the only EXIF tag, ``icc_profile`` is embedded. The file is not
    decoded here: the caller has to look at the result.

    Raises:
        CannotCopyError: another format, a damaged container, or picture data that holds more than
            8-bit opaque pixels.
    """
    copiers = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}
    if kind not in copiers:
        raise CannotCopyError(f"{kind} is not copied")
    block = exif_block(copyright) if copyright else b""
    try:
        return copiers[kind](content, block, icc_profile or b"")
    except (struct.error, IndexError):
        raise CannotCopyError("its container is damaged") from None


def _jpeg(content: bytes, exif: bytes, profile: bytes) -> bytes:
    front: list[bytes] = []
    picture: list[bytes] = []
    frames = 0
    for marker, segment in _jpeg_segments(content):
        body = segment[4:]
        if marker in _JPEG_FRAMES:
            frames += 1
            if body[0] != 8 or body[5] not in (1, 3):
                raise CannotCopyError("it has inks or more than 8 bits")
        if marker in _JPEG_KEPT:
            picture.append(segment)
        elif marker == 0xE0 and body.startswith(b"JFIF\0") and not front:
            front.append(_JFIF)
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) == 12:
            picture.append(segment)  # says how colours are coded
    if frames != 1:
        raise CannotCopyError("it has not exactly one frame")
    if exif:
        front.append(_jpeg_segment(0xE1, exif))
    pieces = [profile[start : start + _ICC_PIECE] for start in range(0, len(profile), _ICC_PIECE)]
    for number, piece in enumerate(pieces, 1):
        front.append(_jpeg_segment(0xE2, _ICC_HEADER + bytes((number, len(pieces))) + piece))
    return b"".join((b"\xff\xd8", *front, *picture, b"\xff\xd9"))


def _jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Each marker with its segment, up to the first end; a scan's with the data behind it."""
    position = 2
    while True:
        if content[position] != 0xFF:
            raise CannotCopyError("bytes stand between its segments")
        while content[position] == 0xFF:
            position += 1
        marker = content[position]
        if marker == 0xD9:
            return
        (length,) = struct.unpack_from(">H", content, position + 1)
        end = position + 1 + length
        if length < 2 or end > len(content):
            raise CannotCopyError("its container is damaged")
        if marker == 0xDA:
            end = scan_end(content, end)
            if end < 0:
                raise CannotCopyError("it has no end")
        yield marker, b"\xff" + content[position:end]
        position = end


def _png(content: bytes, exif: bytes, profile: bytes) -> bytes:
    picture: list[bytes] = []
    header = b""
    for kind, body in _png_chunks(content):
        if kind == b"IHDR":
            depth, mode = body[8], body[9]
            if depth > 8 or mode not in (0, 2, 3):
                raise CannotCopyError("it has transparency or more than 8 bits")
            header = _png_chunk(kind, body)
        elif kind == b"tRNS":
            raise CannotCopyError("it has transparency")
        elif kind in _PNG_PICTURE:
            picture.append(_png_chunk(kind, body))
    if not header:
        raise CannotCopyError("its container is damaged")
    named = b"ICC Profile\0\0" + zlib.compress(profile)
    colour = _png_chunk(b"iCCP", named) if profile else b""
    notice = _png_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")) if exif else b""
    end = _png_chunk(b"IEND", b"")
    return b"".join((_PNG_SIGNATURE, header, colour, notice, *picture, end))


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    position, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, position)
        if position + 12 + length > len(content):
            raise CannotCopyError("its container is damaged")
        yield kind, content[position + 8 : position + 8 + length]
        position += 12 + length


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _webp(content: bytes, exif: bytes, profile: bytes) -> bytes:
    chunks = list(_webp_chunks(content))
    pictures = [(kind, body) for kind, body in chunks if kind in (b"VP8 ", b"VP8L")]
    if len(pictures) != 1 or any(kind in (b"ANIM", b"ANMF", b"ALPH") for kind, _ in chunks):
        raise CannotCopyError("it has transparency or several frames")
    kind, picture = pictures[0]
    if kind == b"VP8 ":
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", picture, 6))
    else:
        (bits,) = struct.unpack_from("<I", picture, 1)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if bits >> 28 & 1:
            raise CannotCopyError("it has transparency")
    parts = [_webp_chunk(b"ICCP", profile)] if profile else []
    parts.append(_webp_chunk(kind, picture))
    if exif:
        parts.append(_webp_chunk(b"EXIF", exif.removeprefix(b"Exif\0\0")))
    if len(parts) > 1:
        flags = (0x20 if profile else 0) | (0x08 if exif else 0)
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        parts.insert(0, _webp_chunk(b"VP8X", struct.pack("<I", flags) + canvas))
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    position, end = 12, 8 + int.from_bytes(content[4:8], "little")
    while position < end:
        kind, length = struct.unpack_from("<4sI", content, position)
        if position + 8 + length > len(content):
            raise CannotCopyError("its container is damaged")
        yield kind, content[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _webp_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

"""An independent look into written files: what stands in them beside the picture.

This module reads containers byte by byte and shares no code with the one that writes them. What
it does not know, it reports.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

_COPYRIGHT = 0x8298
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_SOURCE_TYPE_PACKET = re.compile(
    rb'(<\?xpacket begin="(\xef\xbb\xbf)?" id="W5M0MpCehiHzreSzNTczkc9d"\?>)?\s*'
    rb'<x:xmpmeta xmlns:x="adobe:ns:meta/">\s*'
    rb'<rdf:RDF xmlns:rdf="http://www\.w3\.org/1999/02/22-rdf-syntax-ns#">\s*'
    rb'<rdf:Description rdf:about=""\s+'
    rb'xmlns:Iptc4xmpExt="http://iptc\.org/std/Iptc4xmpExt/2008-02-29/"\s+'
    rb'Iptc4xmpExt:DigitalSourceType="http://cv\.iptc\.org/newscodes/digitalsourcetype/[A-Za-z]{1,64}"'
    rb"\s*/>\s*</rdf:RDF>\s*</x:xmpmeta>\s*"
    rb'(<\?xpacket end="[rw]"\?>)?'
)


class _MalformedError(ValueError):
    """The container does not add up, so nothing can be said of what it hides."""


def leftover_metadata(content: bytes, allowed: frozenset[str]) -> list[str]:
    """List all in ``content`` that is neither picture nor ``allowed``; empty for a clean file.

    ``allowed`` may hold 'copyright' (EXIF tag 0x8298, alone in its block), 'digital_source_type'
    (an XMP packet with nothing else in it) and 'icc'. Reads JPEG, PNG, WebP and TIFF; anything
    else, and anything damaged, is itself reported. Reports name what was found, not its content.
    """
    try:
        if content.startswith(b"\xff\xd8"):
            return list(_jpeg(content, allowed))
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            return list(_png(content, allowed))
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return list(_webp(content, allowed))
        if content[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(content, allowed)
    except (_MalformedError, struct.error, IndexError, zlib.error) as error:
        return [f"damaged container ({error})"]
    return ["container that is not published"]


# -- blocks that several containers share ----------------------------------------------------------


def _exif(block: bytes, allowed: frozenset[str]) -> list[str]:
    """A TIFF structure in which only the copyright tag may stand, and no byte beside it."""
    block = block.removeprefix(b"Exif\0\0")
    if block[:4] not in (b"II*\0", b"MM\0*"):
        return ["EXIF that cannot be read"]
    try:
        found = _Directory.walk(block)
    except (_MalformedError, struct.error) as error:
        return [f"EXIF that cannot be read ({error})"]
    report = []
    for number, directory in enumerate(found):
        if number:
            report.append("EXIF thumbnail directory")
        report += [
            f"EXIF tag 0x{tag:04x}"
            for tag in directory.tags
            if tag != _COPYRIGHT or "copyright" not in allowed
        ]
    spans = [span for directory in found for span in directory.spans]
    hidden = _uncovered(block, spans)
    if hidden:
        report.append(f"{hidden} bytes in EXIF that belong to no tag")
    return report


def _xmp(packet: bytes, allowed: frozenset[str]) -> list[str]:
    if "digital_source_type" not in allowed:
        return ["XMP"]
    return [] if _SOURCE_TYPE_PACKET.fullmatch(packet) else ["XMP beyond the digital source type"]


def _uncovered(content: bytes, spans: list[tuple[int, int]]) -> int:
    """How many bytes no span holds; single zero bytes that pad to even offsets do not count."""
    hidden, reached = 0, 0
    for start, end in [*sorted(spans), (len(content), len(content))]:
        if end > len(content):
            raise _MalformedError("a part lies behind the end")
        gap = content[reached:start]
        if gap not in (b"", b"\0"):
            hidden += len(gap)
        reached = max(reached, end)
    return hidden


# -- JPEG ------------------------------------------------------------------------------------------

_JPEG_PICTURE = frozenset(
    {*range(0xC0, 0xC8), *range(0xC9, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD}
)  # frames, tables, scans


def _jpeg(content: bytes, allowed: frozenset[str]) -> Iterator[str]:
    position = 2
    while True:
        if content[position] != 0xFF:
            raise _MalformedError("bytes between JPEG segments")
        while content[position] == 0xFF:
            position += 1
        marker = content[position]
        position += 1
        if marker == 0xD9:
            break
        (length,) = struct.unpack_from(">H", content, position)
        body = content[position + 2 : position + length]
        if length < 2 or position + length > len(content):
            raise _MalformedError("a JPEG segment lies behind the end")
        yield from _jpeg_segment(marker, body, allowed)
        position += length
        if marker == 0xDA:
            position = scan_end(content, position)
            if position < 0:
                raise _MalformedError("JPEG without an end")
    if position != len(content):
        yield f"{len(content) - position} bytes behind the end of the JPEG"


def scan_end(content: bytes, position: int) -> int:
    """Skip entropy-coded data of a JPEG from ``position`` on: where the next marker stands that is
    neither a stuffed zero nor a restart; -1 where there is none."""
    while 0 <= (position := content.find(b"\xff", position)) < len(content) - 1:
        following = content[position + 1]
        if following not in (0x00, 0xFF) and not 0xD0 <= following <= 0xD7:
            return position
        position += 1 if following == 0xFF else 2
    return -1


def _jpeg_segment(marker: int, body: bytes, allowed: frozenset[str]) -> list[str]:
    if marker in _JPEG_PICTURE:
        return []
    if marker == 0xFE:
        return ["JPEG comment"]
    if marker == 0xE0 and body.startswith(b"JFIF\0"):
        return [] if len(body) == 14 and body[12:14] == b"\0\0" else ["JFIF thumbnail"]
    if marker == 0xEE and body.startswith(b"Adobe") and len(body) == 12:
        return []  # says how colours are coded
    if marker == 0xE1 and body.startswith(b"Exif\0\0"):
        return _exif(body, allowed)
    if marker == 0xE1 and body.startswith(_XMP_HEADER):
        return _xmp(body[len(_XMP_HEADER) :], allowed)
    if marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
        return [] if "icc" in allowed else ["ICC profile"]
    if marker == 0xED and body.startswith(b"Photoshop 3.0\0"):
        return ["IPTC or Photoshop block (APP13)"]
    if 0xE0 <= marker <= 0xEF:
        return [f"JPEG segment APP{marker - 0xE0}"]
    return [f"JPEG segment 0x{marker:02x}"]


# -- PNG -------------------------------------------------------------------------------------------

_PNG_PICTURE = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sRGB", b"gAMA", b"cHRM", b"sBIT"}
)
_PNG_SIZES = {b"IHDR": 13, b"IEND": 0, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
_PNG_MOST = {b"PLTE": 768, b"tRNS": 256, b"sBIT": 4}
_PIECE = 1 << 20  # bytes decompressed at a time
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip


class _PngStream:
    """Follows the compressed picture of a PNG, without keeping it, to see where it ends."""

    def __init__(self, header: bytes) -> None:
        width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
        if colour not in _PNG_SAMPLES:
            raise _MalformedError("a PNG of an unknown colour type")
        self._left = 0
        for x, y, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
            columns, rows = -(-(width - x) // across), -(-(height - y) // down)
            if columns > 0 and rows > 0:
                self._left += rows * (1 + (columns * depth * _PNG_SAMPLES[colour] + 7) // 8)
        self._inflate = zlib.decompressobj()
        self._behind = 0

    def feed(self, body: bytes) -> None:
        while body and not self._inflate.eof and self._left >= 0:
            self._left -= len(self._inflate.decompress(body, _PIECE))
            body = self._inflate.unused_data or self._inflate.unconsumed_tail
        self._behind += len(body)

    def leftovers(self) -> Iterator[str]:
        while not self._inflate.eof and self._left >= 0:
            piece = self._inflate.decompress(b"", _PIECE)
            self._left -= len(piece)
            if not piece:
                break
        if not self._inflate.eof or self._left or self._behind:
            yield "bytes in the PNG's picture data that are no picture"


def _png(content: bytes, allowed: frozenset[str]) -> Iterator[str]:
    position, kind = 8, b""
    stream: _PngStream | None = None
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, position)
        body = content[position + 8 : position + 8 + length]
        position += 12 + length
        if position > len(content):
            raise _MalformedError("a PNG chunk lies behind the end")
        if kind == b"IHDR":
            stream = _PngStream(body)
        elif kind == b"IDAT" and stream:
            stream.feed(body)
        yield from _png_chunk(kind, body, allowed)
    if stream is None:
        raise _MalformedError("a PNG without a header")
    yield from stream.leftovers()
    if position != len(content):
        yield f"{len(content) - position} bytes behind the end of the PNG"


def _png_chunk(kind: bytes, body: bytes, allowed: frozenset[str]) -> Iterator[str]:
    size = len(body)
    if size > _PNG_MOST.get(kind, size) or size != _PNG_SIZES.get(kind, size):
        yield f"{size} bytes in PNG chunk {kind.decode('latin-1')!r}"
    if kind == b"eXIf":
        yield from _exif(body, allowed)
    elif kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0\0\0\0\0"):
        yield from _xmp(body[22:], allowed)
    elif kind == b"iCCP":
        if "icc" not in allowed:
            yield "ICC profile"
        elif not body.startswith(b"ICC Profile\0\0"):
            yield "name of an ICC profile"
    elif kind not in _PNG_PICTURE:
        yield f"PNG chunk {kind.decode('latin-1')!r}"


# -- WebP ------------------------------------------------------------------------------------------

_WEBP_PICTURE = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH"})


def _webp(content: bytes, allowed: frozenset[str]) -> Iterator[str]:
    end = 8 + int.from_bytes(content[4:8], "little")
    if end > len(content):
        raise _MalformedError("WebP shorter than it says")
    position = 12
    pictures = 0
    while position < end:
        kind, length = struct.unpack_from("<4sI", content, position)
        body = content[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
        if position > end:
            raise _MalformedError("a WebP chunk lies behind the end")
        if kind == b"EXIF":
            yield from _exif(body, allowed)
        elif kind == b"XMP ":
            yield from _xmp(body, allowed)
        elif kind == b"ICCP":
            if "icc" not in allowed:
                yield "ICC profile"
        elif kind not in _WEBP_PICTURE:
            yield f"WebP chunk {kind.decode('latin-1')!r}"
        pictures += kind in (b"VP8 ", b"VP8L")
    if pictures != 1:
        yield f"{pictures} pictures in one WebP"
    if end != len(content):
        yield f"{len(content) - end} bytes behind the end of the WebP"


# -- TIFF ------------------------------------------------------------------------------------------

_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TIFF_PICTURE = frozenset(
    {254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 282, 283, 284, 296, 317, 320}
    | {322, 323, 324, 325, 338, 339, 347, 530, 531, 532}
)
_DATA_TAGS = ((273, 279), (324, 325))  # offsets and lengths of strips and tiles


class _Directory:
    """One TIFF directory: its tags' raw values, and which bytes of the file it accounts for."""

    def __init__(self, content: bytes, offset: int, order: str) -> None:
        self.tags: dict[int, bytes] = {}
        self._types: dict[int, int] = {}
        self._order = order
        (count,) = struct.unpack_from(order + "H", content, offset)
        end = offset + 2 + 12 * count + 4
        self.spans = [(0, 8), (offset, end)]
        for entry in range(offset + 2, end - 4, 12):
            tag, kind, number = struct.unpack_from(order + "HHI", content, entry)
            if kind not in _TYPE_SIZES or tag in self.tags:
                raise _MalformedError("a TIFF tag of an unknown type or twice")
            size = _TYPE_SIZES[kind] * number
            start = entry + 8
            if size > 4:
                (start,) = struct.unpack_from(order + "I", content, start)
                self.spans.append((start, start + size))
            elif any(content[start + size : start + 4]):
                raise _MalformedError("bytes behind a short TIFF value")
            if start + size > len(content):
                raise _MalformedError("a TIFF value lies behind the end")
            self.tags[tag] = content[start : start + size]
            self._types[tag] = kind
        (self.following,) = struct.unpack_from(order + "I", content, end - 4)

    def numbers(self, tag: int) -> tuple[int, ...]:
        letter = {1: "B", 3: "H", 4: "I"}.get(self._types[tag])
        if letter is None:
            raise _MalformedError("a TIFF offset that is no number")
        value = self.tags[tag]
        return struct.unpack(
            f"{self._order}{len(value) // _TYPE_SIZES[self._types[tag]]}{letter}", value
        )

    @classmethod
    def walk(cls, content: bytes) -> list[_Directory]:
        order = "<" if content[:2] == b"II" else ">"
        (offset,) = struct.unpack_from(order + "I", content, 4)
        found: list[_Directory] = []
        while offset:
            if len(found) > 999:
                raise _MalformedError("TIFF directories without end")
            found.append(cls(content, offset, order))
            offset = found[-1].following
        return found


def _tiff(content: bytes, allowed: frozenset[str]) -> list[str]:
    report: list[str] = []
    spans: list[tuple[int, int]] = []
    for number, directory in enumerate(_Directory.walk(content)):
        if number:
            report.append(f"TIFF page {number + 1}")
        spans += directory.spans
        for offsets, lengths in _DATA_TAGS:
            if offsets in directory.tags and lengths in directory.tags:
                pieces = zip(directory.numbers(offsets), directory.numbers(lengths), strict=False)
                spans += [(start, start + size) for start, size in pieces]
        for tag, value in directory.tags.items():
            if tag == 700:
                report += _xmp(value, allowed)
            elif not (
                tag in _TIFF_PICTURE
                or (tag == _COPYRIGHT and "copyright" in allowed)
                or (tag == 34675 and "icc" in allowed)
            ):
                report.append(f"TIFF tag {tag}")
    hidden = _uncovered(content, spans)
    if hidden:
        report.append(f"{hidden} bytes that belong to no part of the TIFF")
    return report

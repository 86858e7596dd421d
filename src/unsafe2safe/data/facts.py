"""What an original says of itself beside its pixels: orientation, location, copyright."""

from __future__ import annotations

import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import ExifTags, Image, IptcImagePlugin

_LOCATION_IN_XMP = re.compile(rb"exif:GPS|LocationCreated|LocationShown|photoshop:City")
_IPTC_COPYRIGHT = (2, 116)
_IPTC_PLACES = ((2, 26), (2, 27), (2, 90), (2, 92), (2, 95), (2, 100), (2, 101))
_NO_POSITION = {int(ExifTags.GPS.GPSVersionID)}  # all that many cameras write
_globals_of_pillow = threading.Lock()


@dataclass(frozen=True)
class FileFacts:
    """``orientation`` is EXIF's code, 1 to 8, or whatever else stands there."""

    orientation: int
    has_location: bool
    copyright: str | None
    notes: tuple[str, ...]


@contextmanager
def listening() -> Iterator[list[warnings.WarningMessage]]:
    """Collects Pillow's warnings, which go nowhere else; one thread at a time."""
    with _globals_of_pillow, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield heard


def read_facts(image: Image.Image, half_readable: bool) -> FileFacts:
    """The facts of an opened image.

    Doubt means a location: EXIF or IPTC that cannot be read to its end may hold one.
    ``half_readable`` tells that opening the file found it so.
    """
    notes: list[str] = []
    turn: object = 1
    notice: object = None
    location = doubt = False
    try:
        with listening() as complaints:  # some tags are read only now
            exif = image.getexif()
            turn = exif.get(ExifTags.Base.Orientation)
            notice = exif.get(ExifTags.Base.Copyright)
            block = image.info.get("exif")
            if isinstance(block, bytes):  # Pillow leaves out in silence what is damaged
                location = _locates(block.removeprefix(b"Exif\0\0"))
            elif ExifTags.IFD.GPSInfo in exif:
                location = set(exif.get_ifd(ExifTags.IFD.GPSInfo)) != _NO_POSITION
        doubt = not isinstance(block, bytes) and (half_readable or bool(complaints))
    except Exception:  # EXIF is written by every camera in its own way
        doubt = True
    if doubt:
        notes.append("half-readable EXIF counts as a location")
    for block in (image.info.get("xmp"), *(body for _, body in getattr(image, "applist", ()))):
        raw = block.encode() if isinstance(block, str) else block
        location |= isinstance(raw, bytes) and bool(_LOCATION_IN_XMP.search(raw))
    iptc: dict[tuple[int, int], bytes | list[bytes]] = {}
    try:
        iptc = IptcImagePlugin.getiptcinfo(image) or {}  # type: ignore[arg-type]
    except Exception:  # as above
        doubt = True
        notes.append("half-readable IPTC counts as a location")
    return FileFacts(
        orientation=turn if isinstance(turn, int) else 1,
        has_location=location or doubt or any(key in iptc for key in _IPTC_PLACES),
        copyright=_text(notice)
        or _text(iptc.get(_IPTC_COPYRIGHT))
        or _text(image.info.get("Copyright")),
        notes=tuple(notes),
    )


def _locates(block: bytes) -> bool:
    """Whether an EXIF block points to GPS tags beside their version.

    Raises:
        struct.error: a directory does not lie inside the block.
    """
    order = ">" if block.startswith(b"MM") else "<"

    def directory(offset: int) -> dict[int, int]:
        (count,) = struct.unpack_from(order + "H", block, offset)
        entries = (offset + 2 + 12 * index for index in range(count))
        return dict(struct.unpack_from(order + "H6xI", block, entry) for entry in entries)

    (first,) = struct.unpack_from(order + "I", block, 4)
    gps = directory(first).get(ExifTags.IFD.GPSInfo)
    return gps is not None and directory(gps).keys() != _NO_POSITION


def _text(value: object) -> str | None:
    """A copyright notice on one line; EXIF calls it ASCII, files hold UTF-8 or Latin-1."""
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    if isinstance(value, str):
        try:
            raw = value.encode("latin-1")
        except UnicodeEncodeError:
            raw = value.encode("utf-8", "replace")
    elif isinstance(value, bytes):
        raw = value
    else:
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    clean = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(clean.split())[:500] or None

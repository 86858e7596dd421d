"""Pictures with something planted in every place where a file can hold more than its pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import piexif
from odd_images import gradient, png_chunk, saved
from PIL import Image, ImageCms, PngImagePlugin

PLANT = "u2splanted"  # stands in each of them, in plain letters where the place allows it
NOTICE = "(c) Somebody"
_XMP = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
    ' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/"'
    f' dc:source="{PLANT}" exif:GPSLatitude="48,12.5N"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
).encode()


def planted(picture: Image.Image | None = None) -> dict[str, bytes]:
    """A file of each kind by name, of ``picture`` (RGB) or a gradient."""
    picture = picture or Image.fromarray(gradient(96, 64))
    return {
        "photo.jpg": _jpeg(picture),
        "photo.png": _png(picture),
        "photo.webp": saved(picture, "WEBP", exif=_exif(picture), xmp=_XMP, icc_profile=SRGB),
        "lossless.webp": saved(picture, "WEBP", lossless=True, exif=_exif(picture), xmp=_XMP),
        "photo.tif": _tiff(picture),
        "motion.jpg": _jpeg(picture) + b"\0\0\0\x18ftypmp42" + PLANT.encode() * 20,
        "burst.jpg": _mpo(picture),
    }


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_rgb_profile() -> bytes:
    """A valid RGB profile whose red is what others call green, so that conversion shows."""
    other = SRGB.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))
    return other.replace(b"rXYZ", b"_XYZ").replace(b"gXYZ", b"rXYZ").replace(b"_XYZ", b"gXYZ")


def _exif(picture: Image.Image) -> bytes:
    text = PLANT.encode()
    return piexif.dump(
        {
            "0th": {
                piexif.ImageIFD.Make: text,
                piexif.ImageIFD.Artist: text,
                piexif.ImageIFD.Copyright: NOTICE.encode(),
            },
            "Exif": {
                piexif.ExifIFD.MakerNote: b"Nikon\0\2\x10\0\0" + text,
                piexif.ExifIFD.BodySerialNumber: text,
                piexif.ExifIFD.UserComment: b"ASCII\0\0\0" + text,
            },
            "GPS": {
                piexif.GPSIFD.GPSLatitudeRef: b"N",
                piexif.GPSIFD.GPSLatitude: ((48, 1), (12, 1), (30, 1)),
                piexif.GPSIFD.GPSAreaInformation: text,
            },
            "Interop": {},
            "1st": {piexif.ImageIFD.Make: text},
            "thumbnail": saved(picture.resize((32, 24)), "JPEG"),
        }
    )


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def _iptc() -> bytes:
    text = PLANT.encode()
    return b"".join(b"\x1c\x02" + bytes((n,)) + struct.pack(">H", len(text)) + text
                    for n in (80, 90, 120))  # fmt: skip


def _photoshop() -> bytes:
    block = _iptc()
    return b"8BIM\x04\x04\0\0" + struct.pack(">I", len(block)) + block + b"\0" * (len(block) % 2)


def _jpeg(picture: Image.Image) -> bytes:
    content = saved(
        picture, "JPEG", quality=90, exif=_exif(picture), xmp=_XMP, comment=PLANT, icc_profile=SRGB
    )
    thumbnail = bytes((4, 4)) + bytes(range(48))
    jfif = _segment(0xE0, b"JFIF\0\1\2\1\0\x48\0\x48" + thumbnail)
    (length,) = struct.unpack_from(">H", content, 4)
    extra = _segment(0xED, b"Photoshop 3.0\0" + _photoshop()) + _segment(0xE5, PLANT.encode())
    return content[:2] + jfif + extra + content[4 + length :]


def _mpo(picture: Image.Image) -> bytes:
    other = Image.new("RGB", picture.size, "red")
    return saved(picture, "MPO", save_all=True, append_images=[other], exif=_exif(picture))


def _png(picture: Image.Image) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("Author", PLANT)
    chunks.add_text("Comment", PLANT * 40, zip=True)
    chunks.add_itxt("Title", PLANT, "en", "Titel")
    chunks.add_itxt("XML:com.adobe.xmp", _XMP.decode())
    content = saved(picture, "PNG", pnginfo=chunks, exif=_exif(picture))
    named = png_chunk(b"iCCP", PLANT.encode() + b"\0\0" + zlib.compress(SRGB))
    content = content[:33] + named + content[33:]
    end = content.rindex(b"IEND") - 4
    late = png_chunk(b"tIME", struct.pack(">HBBBBB", 2020, 1, 31, 12, 0, 0))
    late += png_chunk(b"tEXt", b"Late\0" + PLANT.encode()) + png_chunk(b"prVt", PLANT.encode())
    return content[:end] + late + content[end:] + PLANT.encode()


def _tiff(picture: Image.Image) -> bytes:
    """Written tag by tag: ASCII tags, XMP, IPTC, Photoshop, private tags, EXIF, GPS and sub-IFDs,
    and a second page."""
    text = PLANT.encode() + b"\0"
    pixels = np.asarray(picture)
    strip = zlib.compress(pixels.tobytes())
    sub = [(254, 4, _long(1)), (270, 2, text), (65001, 7, text)]
    exif = [(0x9286, 7, b"ASCII\0\0\0" + text), (0xA431, 2, text)]
    gps = [(1, 2, b"N\0"), (2, 5, struct.pack("<6I", 48, 1, 12, 1, 30, 1)), (28, 7, text)]
    out = io.BytesIO(b"II*\0\0\0\0\0")
    out.seek(0, io.SEEK_END)
    places = {}
    for name, entries in (("sub", sub), ("exif", exif), ("gps", gps)):
        places[name] = _directory(out, entries, 0)
    start = out.tell()
    out.write(strip)
    height, width, _ = pixels.shape
    base = [(256, 4, _long(width)), (257, 4, _long(height)), (258, 3, struct.pack("<3H", 8, 8, 8)),
            (259, 3, struct.pack("<H", 8)), (262, 3, struct.pack("<H", 2)), (273, 4, _long(start)),
            (277, 3, struct.pack("<H", 3)), (278, 4, _long(height)), (279, 4, _long(len(strip))),
            (284, 3, struct.pack("<H", 1))]  # fmt: skip
    page = _directory(out, [*base, (270, 2, text)], 0)
    first = [*base, (270, 2, text), (271, 2, text), (305, 2, text), (315, 2, text),
             (306, 2, b"2020:01:31 12:00:00\0"), (330, 4, _long(places["sub"])), (700, 1, _XMP),
             (0x8298, 2, NOTICE.encode() + b"\0"), (33723, 7, _iptc()), (34377, 7, _photoshop()),
             (34665, 4, _long(places["exif"])), (34675, 7, SRGB), (34853, 4, _long(places["gps"])),
             (65000, 7, text)]  # fmt: skip
    place = _directory(out, sorted(first), page)
    out.seek(4)
    out.write(_long(place))
    return out.getvalue()


def _long(value: int) -> bytes:
    return struct.pack("<I", value)


def _directory(out: io.BytesIO, entries: list[tuple[int, int, bytes]], following: int) -> int:
    """Append an IFD with its values; returns where it stands."""
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
    rows = b""
    for tag, kind, value in entries:
        row = struct.pack("<HHI", tag, kind, len(value) // sizes[kind])
        if len(value) > 4:
            row += _long(out.tell())
            out.write(value + b"\0" * (len(value) % 2))
        else:
            row += value.ljust(4, b"\0")
        rows += row
    place = out.tell()
    out.write(struct.pack("<H", len(entries)) + rows + _long(following))
    return place

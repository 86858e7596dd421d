"""Whatever is planted in a file beside its picture is found."""

from __future__ import annotations

import io
import struct
import zlib

import piexif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_images import gradient, png_chunk, saved
from PIL import Image, PngImagePlugin

from unsafe2safe.data.encode import MINOR_HUMAN_EDITS, encode
from unsafe2safe.data.metadata import leftover_metadata

PICTURE = Image.fromarray(gradient())
ALL = frozenset({"copyright", "digital_source_type", "icc"})
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")


def clean(kind: str) -> bytes:
    return encode(
        gradient(), kind, quality=90, copyright="(c) x", digital_source_type=MINOR_HUMAN_EDITS
    )


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def in_jpeg(marker: int, body: bytes) -> bytes:
    content = clean("JPEG")
    return content[:2] + segment(marker, body) + content[2:]


def in_png(kind: bytes, body: bytes) -> bytes:
    content = clean("PNG")
    end = content.rindex(b"IEND") - 4
    return content[:end] + png_chunk(kind, body) + content[end:]


def in_webp(kind: bytes, body: bytes) -> bytes:
    content = clean("WEBP") + kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


def exif(**parts) -> bytes:
    return piexif.dump(parts)


GPS = exif(GPS={piexif.GPSIFD.GPSLatitudeRef: b"N"})
MAKER = exif(Exif={piexif.ExifIFD.MakerNote: b"serial 123456"})
CAMERA = exif(**{"0th": {piexif.ImageIFD.Make: b"Camera", piexif.ImageIFD.Copyright: b"me"}})
THUMB = piexif.dump({"0th": {}, "1st": {}, "thumbnail": saved(PICTURE.resize((16, 16)), "JPEG")})
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description exif:GPSLatitude="1"/>'
TEXT = b"Comment\0made at home"

PLANTED = {
    "jpeg GPS": (in_jpeg(0xE1, GPS), "EXIF tag 0x8825"),
    "jpeg maker note": (in_jpeg(0xE1, MAKER), "EXIF tag 0x8769"),
    "jpeg camera": (in_jpeg(0xE1, CAMERA), "EXIF tag 0x010f"),
    "jpeg EXIF thumbnail": (in_jpeg(0xE1, THUMB), "EXIF thumbnail"),
    "jpeg XMP": (in_jpeg(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP), "XMP beyond"),
    "jpeg extended XMP": (in_jpeg(0xE1, b"http://ns.adobe.com/xmp/extension/\0x"), "APP1"),
    "jpeg IPTC": (in_jpeg(0xED, b"Photoshop 3.0\08BIM\x04\x04\0\0\0\0\0\0"), "IPTC"),
    "jpeg comment": (in_jpeg(0xFE, b"by Anna"), "comment"),
    "jpeg JFIF thumbnail": (
        in_jpeg(0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\1\xff\0\0"),
        "JFIF thumbnail",
    ),
    "jpeg JFXX": (in_jpeg(0xE0, b"JFXX\0\x10" + bytes(20)), "APP0"),
    "jpeg other APP": (in_jpeg(0xE5, b"whatever"), "APP5"),
    "jpeg MPF": (in_jpeg(0xE2, b"MPF\0II*\0"), "APP2"),
    "jpeg trailing": (clean("JPEG") + b"more", "4 bytes behind"),
    "png tEXt": (in_png(b"tEXt", TEXT), "tEXt"),
    "png zTXt": (in_png(b"zTXt", b"Comment\0\0" + zlib.compress(b"home")), "zTXt"),
    "png iTXt": (in_png(b"iTXt", b"Comment\0\0\0\0\0home"), "iTXt"),
    "png compressed XMP": (
        in_png(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
        "iTXt",
    ),
    "png XMP": (in_png(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), "XMP beyond"),
    "png eXIf": (in_png(b"eXIf", GPS[6:]), "EXIF tag 0x8825"),
    "png time": (in_png(b"tIME", bytes(7)), "tIME"),
    "png frames": (in_png(b"fdAT", bytes(9)), "fdAT"),
    "png long gAMA": (in_png(b"gAMA", bytes(5)), "5 bytes in PNG chunk"),
    "png stream": (in_png(b"IDAT", b"more"), "no picture"),
    "png trailing": (clean("PNG") + b"more", "4 bytes behind"),
    "webp EXIF": (in_webp(b"EXIF", GPS), "EXIF tag 0x8825"),
    "webp XMP": (in_webp(b"XMP ", XMP), "XMP beyond"),
    "webp unknown": (in_webp(b"NOTE", b"home"), "NOTE"),
    "webp second picture": (in_webp(b"VP8 ", clean("WEBP")[20:]), "2 pictures"),
    "webp trailing": (clean("WEBP") + b"more", "4 bytes behind"),
    "tiff camera": (saved(PICTURE, "TIFF", tiffinfo={271: "Camera"}), "TIFF tag 271"),
    "tiff software": (saved(PICTURE, "TIFF", tiffinfo={305: "Tool"}), "TIFF tag 305"),
    "tiff date": (saved(PICTURE, "TIFF", tiffinfo={306: "2020:01:01 00:00:00"}), "TIFF tag 306"),
    "tiff GPS": (saved(PICTURE, "TIFF", tiffinfo={34853: {1: "N"}}), "TIFF tag 34853"),
    "tiff page": (
        saved(PICTURE, "TIFF", save_all=True, append_images=[PICTURE]),
        "TIFF page 2",
    ),
    "tiff trailing": (clean("TIFF") + b"more", "4 bytes"),
}  # fmt: skip


NO_DECODER_TAKES = ("png frames", "webp second picture")


@pytest.mark.parametrize("name", PLANTED)
def test_planted_metadata_is_found(name):
    content, told = PLANTED[name]
    assert any(told in line for line in leftover_metadata(content, ALL)), leftover_metadata(
        content, ALL
    )


@pytest.mark.parametrize("name", [name for name in PLANTED if name not in NO_DECODER_TAKES])
def test_planted_files_are_pictures(name):
    with Image.open(io.BytesIO(PLANTED[name][0])) as image:
        image.load()


@pytest.mark.parametrize("kind", FORMATS)
def test_clean_files_give_none(kind):
    assert leftover_metadata(clean(kind), ALL) == []
    assert leftover_metadata(encode(gradient(), kind, quality=80), frozenset()) == []


def test_progressive_jpegs_and_restart_markers_are_walked():
    noisy = PICTURE.resize((300, 200))
    for options in ({"progressive": True}, {"restart_marker_blocks": 2}, {"quality": 100}):
        content = saved(noisy, "JPEG", **options)
        assert leftover_metadata(content, frozenset()) == []
        assert leftover_metadata(content + b"x", frozenset()) == [
            "1 bytes behind the end of the JPEG"
        ]


def test_bytes_hidden_inside_an_allowed_exif_block_are_found():
    block = CAMERA.replace(b"Camera", b"\0\0\0\0\0\0")
    assert leftover_metadata(in_jpeg(0xE1, block), ALL)
    own = clean("JPEG")
    start = own.index(b"Exif\0\0") - 4
    (length,) = struct.unpack(">H", own[start + 2 : start + 4])
    body = own[start + 4 : start + 2 + length]
    grown = own[:start] + segment(0xE1, body + b"hidden") + own[start + 2 + length :]
    assert any("6 bytes in EXIF" in line for line in leftover_metadata(grown, ALL))


def test_xmp_with_a_foreign_value_or_property_is_not_the_digital_source_type():
    content = clean("JPEG")
    for old, new in ((b"minorHumanEdits", b"minor HumanEdit"), (b'about=""', b'about="me"')):
        changed = content.replace(old, new)
        assert leftover_metadata(changed, ALL)


def test_what_is_not_published_or_damaged_is_reported():
    assert leftover_metadata(saved(PICTURE, "GIF"), ALL) == ["container that is not published"]
    assert leftover_metadata(b"", ALL)
    for kind in FORMATS:
        content = clean(kind)
        assert leftover_metadata(content[: len(content) // 2], ALL)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_the_check_never_raises(kind, data):
    content = bytearray(clean(kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    assert isinstance(leftover_metadata(bytes(content[:cut]), ALL), list)


@settings(max_examples=100, deadline=None)
@given(st.text("abcdefgh ", min_size=1, max_size=40), st.sampled_from(["JPEG", "PNG"]))
def test_any_comment_is_found(text, kind):
    if kind == "JPEG":
        content = saved(PICTURE, kind, comment=text)
    else:
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("note", text, zip=len(text) > 20)
        content = saved(PICTURE, kind, pnginfo=chunks)
    assert leftover_metadata(content, ALL)

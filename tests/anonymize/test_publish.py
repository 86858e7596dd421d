"""What is published is the picture, in the colours and the format asked for, and nothing else."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from exiftool import beyond_structure, read_tags
from hypothesis import given
from hypothesis import strategies as st
from odd_images import gradient, palette_with_transparency, png_chunk, saved
from PIL import Image, JpegImagePlugin
from planted import NOTICE, PLANT, SRGB, planted, swapped_rgb_profile

from unsafe2safe.anonymize.naming import tells_date, tells_person
from unsafe2safe.anonymize.publish import Publisher
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.files import KeyedHash
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.decode import decode_bytes
from unsafe2safe.data.encode import COMPOSITE_WITH_TRAINED_MODEL
from unsafe2safe.data.metadata import leftover_metadata

PICTURE = Image.fromarray(gradient(96, 64))


@pytest.fixture(scope="module")
def defaults():
    return load("anonymize").publish


@pytest.fixture
def publisher(defaults, tmp_path):
    def make(**changes):
        settings = type(defaults)(**{**defaults.model_dump(), **changes})
        return Publisher(tmp_path / "published", settings, KeyedHash(tmp_path / "private"))

    return make


def published(publisher, content, *, edit=False, name="a.jpg"):
    source = decode_bytes(content, name)
    pixels = source.pixels
    if edit:
        pixels = pixels.copy()
        pixels[:16, :16] = 200, 60, 99
    kind = COMPOSITE_WITH_TRAINED_MODEL if edit else None
    return publisher.encode(name, pixels, source, kind), source, pixels


MODES = {
    "reencoded": ({}, False),
    "copied": ({"safe": "lossless"}, False),
    "copied with profile": ({"safe": "lossless", "icc": "keep"}, False),
    "edited": ({}, True),
    "edited with profile": ({"icc": "keep"}, True),
}


def test_exiftool_finds_nothing_beyond_structure_and_the_allow_list(publisher, tmp_path):
    sources, written, icc = [], [], {}
    for name, content in planted().items():
        sources.append(tmp_path / "sources" / name)
        sources[-1].parent.mkdir(exist_ok=True)
        sources[-1].write_bytes(content)
        for mode, (changes, edit) in MODES.items():
            encoded, _, _ = published(publisher(**changes), content, edit=edit, name=name)
            assert PLANT.encode() not in encoded.content
            path = tmp_path / f"{mode} {name}"
            path.write_bytes(encoded.content)
            written.append(path)
            icc[path] = changes.get("icc") == "keep"
    for path, tags in read_tags(sources).items():
        assert sum(PLANT in str(value) for value in tags.values()) >= 3, path  # the plants are real
    for path, tags in read_tags(written).items():
        assert beyond_structure(tags, icc[path]) == [], path.name
        assert tags["IFD0:Copyright"] == NOTICE
        assert ("XMP-iptcExt:DigitalSourceType" in tags) == path.name.startswith("edited")


def test_exiftool_sees_what_no_rule_of_ours_allows(tmp_path):
    """The test above would see a tag: each of these is one that it must not let through."""
    paths = []
    for number, content in enumerate(
        (
            saved(PICTURE, "JPEG", comment="x"),
            saved(PICTURE, "JPEG", dpi=(300, 300), exif=Image.Exif()) + b"behind",
            saved(PICTURE, "TIFF", tiffinfo={305: "Tool"}),
            saved(PICTURE, "PNG", icc_profile=SRGB),
        )
    ):
        paths.append(tmp_path / f"{number}")
        paths[-1].write_bytes(content)
    tags = read_tags(paths)
    assert beyond_structure(tags[paths[0]]) == ["File:Comment"]
    assert beyond_structure(tags[paths[2]]) == ["IFD0:Software"]
    assert beyond_structure(tags[paths[3]])
    assert beyond_structure(tags[paths[3]], icc=True) == []


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp", "lossless.webp",
                                  "motion.jpg", "burst.jpg"])  # fmt: skip
@pytest.mark.parametrize("icc", ["srgb", "keep"])
def test_a_safe_picture_is_copied_without_touching_its_compressed_data(publisher, name, icc):
    content = planted()[name]
    encoded, source, _ = published(publisher(safe="lossless", icc=icc), content, name=name)
    assert "compressed data copied" in encoded.notes
    assert compressed(encoded.content) == compressed(content)
    assert np.array_equal(encoded.pixels, source.pixels)
    assert len(encoded.content) < len(content)


def compressed(content):
    """The picture's own bytes in a JPEG (tables, frame and scan), PNG or WebP."""
    if content[:2] == b"\xff\xd8":
        tables, start = [], 2
        while content[start + 1] != 0xDA:
            (length,) = struct.unpack_from(">H", content, start + 2)
            if content[start + 1] in (0xDB, 0xC0, 0xC4):
                tables.append(content[start : start + 2 + length])
            start += 2 + length
        return tables, content[start : content.index(b"\xff\xd9", start) + 2]
    if content[:4] == b"RIFF":
        start = next(content.index(kind) for kind in (b"VP8 ", b"VP8L") if kind in content)
        (length,) = struct.unpack_from("<I", content, start + 4)
        return content[start : start + 8 + length]
    start = content.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", content, start)
    return content[start : start + 12 + length]


def rgb16_png():
    row = b"\0" + struct.pack(">6H", 1, 2, 3, 4, 5, 6)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(row))
        + png_chunk(b"IEND", b"")
    )  # fmt: skip


def behind_the_stream():
    """A PNG with bytes behind the end of its compressed picture, which no viewer shows."""
    content = saved(PICTURE, "PNG")
    start = content.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", content, start)
    body = content[start + 8 : start + 8 + length] + PLANT.encode()
    return content[:start] + png_chunk(b"IDAT", body) + content[start + 12 + length :]


HIDING = {
    "turned": (saved(PICTURE, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"), "turned"),  # noqa: E501
    "inks": (saved(PICTURE.convert("CMYK"), "JPEG"), "inks"),
    "sixteen bits": (rgb16_png(), "8 bits"),
    "alpha": (saved(PICTURE.convert("RGBA"), "PNG"), "transparency"),
    "palette with alpha": (saved(palette_with_transparency(), "PNG", transparency=1), "transparen"),
    "WebP with alpha": (saved(PICTURE.convert("RGBA"), "WEBP", lossless=True, exact=True), None),
    "behind the PNG stream": (behind_the_stream(), "more than a picture"),
    "TIFF": (saved(PICTURE, "TIFF"), "TIFF"),
    "GIF": (saved(PICTURE.quantize(), "GIF"), "GIF is not PNG"),
    "other colours": (saved(PICTURE, "PNG", icc_profile=swapped_rgb_profile()), "other colours"),
    "animation": (
        saved(PICTURE, "WEBP", save_all=True, append_images=[PICTURE.rotate(180)]), "frames",
    ),
    "APNG": (saved(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(180)]), None),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDING)
def test_what_detectors_did_not_see_is_never_copied(publisher, name):
    content, told = HIDING[name]
    encoded, source, _ = published(publisher(safe="lossless"), content)
    assert np.abs(encoded.pixels.astype(int) - source.pixels).mean() < 4
    assert leftover_metadata(encoded.content, frozenset()) == []
    assert PLANT.encode() not in encoded.content
    if told:
        assert any("not copied" in note and told in note for note in encoded.notes), encoded.notes


def test_a_turned_picture_is_published_upright(publisher):
    content, _ = HIDING["turned"]
    encoded, _, _ = published(publisher(safe="lossless"), content)
    assert encoded.pixels.shape == (96, 64, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("edit", [False, True])
def test_colour_policies_on_a_picture_of_another_space(publisher, kind, edit):
    profile = swapped_rgb_profile()
    content = saved(PICTURE, kind, icc_profile=profile)
    stored = np.asarray(PICTURE)
    for policy in ("srgb", "keep", "drop"):
        encoded, source, pixels = published(publisher(icc=policy), content, edit=edit)
        assert not np.array_equal(source.pixels, stored)
        with Image.open(io.BytesIO(encoded.content)) as image:
            assert image.info.get("icc_profile") == (profile if policy == "keep" else None)
            values = np.asarray(image)
        outside = np.ones(stored.shape[:2], bool)
        outside[:16, :16] = not edit
        expected = source.pixels if policy == "srgb" else stored
        assert np.array_equal(values[outside], expected[outside]), policy
        if policy != "drop":  # whoever heeds the profile sees the edit as it was made
            assert np.abs(encoded.pixels.astype(int) - pixels).max() <= 3


def test_a_profile_with_bytes_behind_its_end_is_dropped(publisher):
    content = saved(PICTURE, "PNG", icc_profile=SRGB + PLANT.encode())
    encoded, _, _ = published(publisher(icc="keep"), content)
    assert "damaged ICC profile dropped" in encoded.notes
    with Image.open(io.BytesIO(encoded.content)) as image:
        assert "icc_profile" not in image.info


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (saved(PICTURE.convert("L"), "JPEG"), "converted from gray"),
        (saved(PICTURE.convert("LA"), "PNG"), "converted from gray"),
        (saved(PICTURE.quantize(), "PNG"), "converted from a palette"),
        (saved(PICTURE.convert("CMYK"), "TIFF"), "converted from CMYK"),
        (rgb16_png(), "converted from 16-bit"),
        (saved(palette_with_transparency(), "PNG", transparency=1), "alpha composited on white"),
        (planted()["burst.jpg"], "first frame of 2"),
        (HIDING["APNG"][0], "first frame of 2"),
    ],
)
def test_conversions_are_said(content, note):
    assert note in decode_bytes(content, "x").notes


@pytest.mark.parametrize(
    ("quality", "subsampling", "factors"),
    [(95, "auto", 0), (80, "auto", 2), (95, "4:2:0", 2), (95, "4:2:2", 1), (50, "4:4:4", 0)],
)
def test_subsampling_of_jpegs_is_as_configured(publisher, quality, subsampling, factors):
    settings = publisher(quality=quality, subsampling=subsampling)
    encoded, _, _ = published(settings, saved(PICTURE, "JPEG"), edit=True)
    with Image.open(io.BytesIO(encoded.content)) as image:
        assert JpegImagePlugin.get_sampling(image) == factors


def test_lossless_options_change_the_size_and_no_pixel(publisher):
    for kind, options in (
        ("PNG", [{"png_compression": 0}, {"png_compression": 9}]),
        ("TIFF", [{"tiff_compression": name} for name in ("none", "lzw", "deflate")]),
        ("WEBP", [{"webp_lossless": True}]),
    ):
        content = saved(PICTURE, kind, **({"lossless": True} if kind == "WEBP" else {}))
        made = [published(publisher(**each), content, edit=True) for each in options]
        assert all(np.array_equal(encoded.pixels, pixels) for encoded, _, pixels in made)
        sizes = [len(encoded.content) for encoded, _, _ in made]
        assert sizes[0] >= sizes[-1]


@pytest.mark.parametrize("wanted", ["png", "jpeg", "webp", "tiff"])
def test_another_format_is_written_named_and_said(publisher, wanted):
    source = decode_bytes(saved(PICTURE, "BMP"), "a.bmp")
    chosen = publisher(format=wanted)
    encoded = chosen.encode("a.bmp", source.pixels, source, None)
    with Image.open(io.BytesIO(encoded.content)) as image:
        assert image.format == wanted.upper()
    assert f"BMP published as {wanted.upper()}" in encoded.notes
    suffix = {"jpeg": "jpg", "tiff": "tif"}.get(wanted, wanted)
    assert chosen.name(ImageRecord("a.bmp", None), source, ()) == f"a.bmp.{suffix}"


def test_heic_comes_out_as_a_jpeg_without_its_metadata(publisher):
    import pillow_heif

    pillow_heif.register_heif_opener()
    with Image.open(io.BytesIO(planted()["photo.jpg"])) as image:
        exif = image.info["exif"]
    content = saved(PICTURE, "HEIF", quality=90, exif=exif)
    assert PLANT.encode() in content
    encoded, source, _ = published(publisher(safe="lossless"), content, name="a.heic")
    assert publisher().name(ImageRecord("x/a.heic", None), source, ()) == "x/a.heic.jpg"
    assert source.has_location
    assert "HEIF published as JPEG" in encoded.notes
    assert encoded.content.startswith(b"\xff\xd8")
    assert PLANT.encode() not in encoded.content
    assert encoded.pixels.shape == (64, 96, 3)


NAMES = {
    "IMG_20200131_120102.jpg": True,
    "20200131120102.jpg": True,
    "Screenshot 2020-01-31 at 12.00.png": True,
    "2020/01/31/a.jpg": True,
    "31.01.2020.jpg": True,
    "party_jan_2020.jpg": True,
    "May 5, 2019.jpg": True,
    "train2017/000000391895.jpg": False,
    "COCO_train2014_000000123456.jpg": False,
    "2017_10000000.jpg": False,
    "2007_000027.jpg": False,
    "marble_2000.jpg": False,
    "99991301.jpg": False,
}


@pytest.mark.parametrize("name", NAMES)
def test_dates_in_names_are_known(name):
    assert tells_date(name) == NAMES[name]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Anna.jpg", True),
        ("anna_birthday.jpg", True),
        ("holiday/AnnaSchmidt/1.jpg", True),
        ("Zoë_Müller.jpg", True),
        ("john-smith-2.png", True),
        ("Mark_Smith.jpg", True),
        ("mark_johnson.jpg", True),
        ("mark_2.jpg", False),
        ("glass_house.jpg", False),
        ("astronaut.jpg", False),
        ("coffee_note.jpg", False),
        ("president_a.jpg", False),
        ("cat_poster.jpg", False),
        ("DSC_0001.JPG", False),
        ("IMG_1234.jpg", False),
        ("image_0001.jpg", False),
        ("COCO_train2014_000000123456.jpg", False),
        ("ILSVRC2012_val_00000001.JPEG", False),
        ("n01440764/n01440764_10026.JPEG", False),
    ],
)
def test_names_of_persons_are_known(name, told):
    assert tells_person(name) == told


def test_names_that_tell_something_are_hashed_within_the_data_sets_layout(publisher):
    source = decode_bytes(saved(PICTURE, "JPEG"), "x")
    keep, hashed = publisher(), publisher(names="hash")
    plain = ImageRecord("a/b.JPG", None)
    assert keep.name(plain, source, ()) == "a/b.JPG"
    told = keep.name(ImageRecord("Anna/b.jpg", None), source, ())
    assert "/" not in told
    assert told == keep.name(ImageRecord("Anna/b.jpg", None), source, ())
    assert (
        keep.name(ImageRecord("x/ab-123-cd.jpg", None), source, ["AB 123 CD"]) != "x/ab-123-cd.jpg"
    )
    in_class = ImageRecord("Images/joshua_tree/Anna.jpg", None, layout_folder="Images/joshua_tree")
    assert keep.name(in_class, source, ()).startswith("Images/joshua_tree/")
    assert "Anna" not in keep.name(in_class, source, ())
    assert hashed.name(plain, source, ()).endswith(".jpg")
    assert "b" not in hashed.name(plain, source, ()).split("/")
    other = ImageRecord("Images/cup/1.jpg", None, layout_folder="Images/cup")
    assert hashed.name(other, source, ()).startswith("Images/cup/")


@given(st.text("abcdefgh_-./ 0123456789", max_size=40))
def test_looking_at_a_name_never_fails(name):
    assert tells_date(name) in (True, False)
    assert tells_person(name) in (True, False)

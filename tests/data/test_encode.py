"""Published files hold the picture and what was asked for, in the same bytes each time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from odd_images import gradient
from PIL import Image, ImageCms

from unsafe2safe.data.decode import decode_bytes
from unsafe2safe.data.encode import (
    COMPOSITE_WITH_TRAINED_MODEL,
    READ_SUFFIXES,
    encode,
    published_format,
    published_suffix,
)
from unsafe2safe.data.metadata import leftover_metadata

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
ALL = frozenset({"copyright", "digital_source_type", "icc"})
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.uint8, SIZES), st.sampled_from(["PNG", "TIFF"]))
def test_lossless_formats_give_the_very_pixels_back(pixels, kind):
    content = encode(pixels, kind, quality=90)
    decoded = decode_bytes(content, "x")
    assert decoded.format == kind
    assert np.array_equal(decoded.pixels, pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_come_near_and_obey_quality(kind):
    fine, coarse = (encode(gradient(), kind, quality=quality) for quality in (98, 10))
    assert np.abs(decode_bytes(fine, "x").pixels.astype(int) - gradient()).mean() < 4
    assert len(coarse) < len(fine)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=60),
    st.booleans(),
    st.booleans(),
)
def test_what_is_asked_for_comes_back_and_nothing_else_is_there(kind, notice, source, icc):
    content = encode(
        gradient(),
        kind,
        quality=90,
        copyright=notice,
        digital_source_type=COMPOSITE_WITH_TRAINED_MODEL if source else None,
        icc_profile=SRGB if icc else None,
    )
    assert leftover_metadata(content, ALL) == []
    decoded = decode_bytes(content, "x")
    assert decoded.copyright == (" ".join(decoded_text(notice).split()) or None)
    assert (decoded.icc_profile == SRGB) == icc
    with Image.open(io.BytesIO(content)) as image:
        assert (COMPOSITE_WITH_TRAINED_MODEL.encode() in (image.info.get("xmp") or b"")) == source


def decoded_text(notice: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in notice)


@pytest.mark.parametrize("kind", FORMATS)
def test_each_thing_is_reported_once_it_is_not_allowed(kind):
    content = encode(
        gradient(),
        kind,
        quality=90,
        copyright="(c) somebody",
        digital_source_type=COMPOSITE_WITH_TRAINED_MODEL,
        icc_profile=SRGB,
    )
    assert len(leftover_metadata(content, frozenset())) == 3
    for name in ALL:
        assert len(leftover_metadata(content, ALL - {name})) == 1


@pytest.mark.parametrize("kind", FORMATS)
def test_equal_input_gives_equal_bytes(kind):
    made = {
        encode(gradient(), kind, quality=90, copyright="c", digital_source_type="d")
        for _ in range(3)
    }
    assert len(made) == 1


def test_unusable_input_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        encode(gradient().astype(np.float32), "PNG", quality=90)
    with pytest.raises(ValueError, match="GIF"):
        encode(gradient(), "GIF", quality=90)
    with pytest.raises(ValueError, match="cannot hold"):
        encode(np.zeros((1, 70_000, 3), np.uint8), "JPEG", quality=90)


def test_names_stay_where_the_format_stays():
    for name, kind in (("a/b.jpg", "JPEG"), ("B.JPEG", "JPEG"), ("c.png", "PNG"),
                       ("d.webp", "WEBP"), ("e.tiff", "TIFF"), ("f.jpg.jpg", "JPEG")):  # fmt: skip
        assert published_suffix(kind, name) == name
    assert published_suffix("GIF", "a.gif") == "a.gif.png"
    assert published_suffix("HEIF", "x/a.heic") == "x/a.heic.jpg"
    assert published_suffix("PNG", "a.jpg") == "a.jpg.png"
    assert [published_format(kind) for kind in ("BMP", "AVIF", "TIFF")] == ["PNG", "JPEG", "TIFF"]


names = st.lists(
    st.sampled_from(["a", "b", *READ_SUFFIXES, ".JPG"]), min_size=0, max_size=4
).flatmap(lambda parts: st.sampled_from(READ_SUFFIXES).map(lambda end: "a" + "".join(parts) + end))


@settings(max_examples=400)
@given(names, names, st.sampled_from([*FORMATS, "GIF", "HEIF"]), st.sampled_from(FORMATS))
def test_two_files_never_meet_under_one_name(first, second, kind, other):
    if first != second:
        assert published_suffix(kind, first) != published_suffix(other, second)


def test_the_obvious_collision_is_avoided():
    assert published_suffix("GIF", "a.gif") != published_suffix("PNG", "a.gif.png")
    assert published_suffix("PNG", "a.jpg") != published_suffix("PNG", "a.jpg.png")

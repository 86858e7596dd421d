"""Every file either decodes whole to upright 8-bit sRGB, or fails with a reason."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import piexif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_images import (
    AWKWARD_NAME,
    gradient,
    huge_png_header,
    palette_with_transparency,
    png_chunk,
    saved,
    write_odd_images,
)
from PIL import Image, ImageCms, ImageFile, ImageOps

from unsafe2safe.core.errors import UnreadableImage
from unsafe2safe.data.decode import DecodedImage, decode_bytes, decode_file, stated_size

PICTURE = Image.fromarray(gradient())
JPEG = saved(PICTURE, "JPEG", quality=95)


def decode(content: bytes, **settings) -> DecodedImage:
    return decode_bytes(content, "a.jpg", **settings)


def reason(content: bytes, **settings) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(content, **settings)
    assert caught.value.image_id == "a.jpg"
    assert "Traceback" not in caught.value.reason
    assert "\n" not in caught.value.reason
    return caught.value.reason


def exif(orientation: int | None = None, **zeroth) -> bytes:
    tags = dict(zeroth.get("tags", {}))
    if orientation:
        tags[piexif.ImageIFD.Orientation] = orientation
    return piexif.dump({"0th": tags, "GPS": zeroth.get("gps", {})})


def test_odd_files_decode_or_tell_why(tmp_path):
    expected = write_odd_images(tmp_path)
    assert AWKWARD_NAME in expected
    for name, fragment in expected.items():
        if fragment is None:
            pixels = decode_file(tmp_path / name, name).pixels
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
        else:
            with pytest.raises(UnreadableImage, match=fragment) as caught:
                decode_file(tmp_path / name, name)
            assert str(tmp_path) not in str(caught.value)


def test_a_huge_header_fails_without_allocating():
    content = huge_png_header(30_000)
    tracemalloc.start()
    told = reason(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "900000000" in told
    assert "178956970" in told
    assert peak < 10_000_000


def test_max_pixels_is_the_bound_both_ways():
    assert "1536 pixels, more than dataset.max_pixels=1535" in reason(JPEG, max_pixels=1535)
    assert decode(JPEG, max_pixels=1536).pixels.shape == (32, 48, 3)
    wide = Image.new("1", (20_000, 10_000))  # more than Pillow's own bound
    content = saved(wide, "PNG")
    assert "pixels" in reason(content)
    assert Image.MAX_IMAGE_PIXELS is not None


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_jpegs_never_come_back_half_grey(progressive, share, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # another library's doing
    noisy = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noisy), "JPEG", progressive=progressive)
    assert reason(content[: int(len(content) * share)]) == "truncated"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_other_truncated_files_fail_too(kind):
    noisy = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noisy), kind)
    assert reason(content[: len(content) * 2 // 3])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_content_fails_with_a_reason_or_decodes(data):
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"]))
    content = bytearray(saved(PICTURE, kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UnreadableImage):  # and no other error
        assert decode(bytes(content), max_pixels=1_000_000).pixels.ndim == 3


def test_cmyk_with_and_without_adobe_inversion_keeps_its_colours():
    plain = decode(saved(PICTURE.convert("CMYK"), "JPEG", quality=98))
    assert "converted from CMYK" in plain.notes
    assert np.abs(plain.pixels.astype(int) - gradient()).mean() < 6
    tiff = decode(saved(PICTURE.convert("CMYK"), "TIFF"))
    assert np.abs(tiff.pixels.astype(int) - gradient()).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_not_clipped(kind):
    values = np.array([[0, 128, 129, 257, 25_700, 32_768, 65_535]], dtype=np.uint16)
    decoded = decode(saved(Image.fromarray(values), kind))
    assert decoded.pixels[0, :, 0].tolist() == [0, 0, 1, 1, 100, 128, 255]
    assert "converted from 16-bit" in decoded.notes


def test_sixteen_bit_rgb_png_keeps_its_high_bytes():
    rows = b"".join(
        b"\0" + b"".join(struct.pack(">HHH", *(int(v) * 257 for v in pixel)) for pixel in row)
        for row in gradient(6, 4)
    )
    content = (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )
    decoded = decode(content)
    assert np.array_equal(decoded.pixels, gradient(6, 4))
    assert "converted from 16-bit" in decoded.notes


def test_transparency_shows_white_and_nothing_hidden():
    decoded = decode(saved(palette_with_transparency(), "PNG", transparency=1))
    assert decoded.pixels[0, 0].tolist() == [255, 0, 0]
    assert decoded.pixels[0, 7].tolist() == [255, 255, 255]
    assert "alpha composited on white" in decoded.notes
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert decode(saved(half, "PNG")).pixels[0, 0].tolist() == [127, 127, 127]
    gray = Image.new("LA", (2, 2), (10, 0))
    assert decode(saved(gray, "PNG")).pixels[0, 0].tolist() == [255, 255, 255]
    opaque = decode(saved(Image.fromarray(gradient()).convert("RGBA"), "PNG"))
    assert np.array_equal(opaque.pixels, gradient())
    assert opaque.notes == ()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "LAB", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(PICTURE, srgb, lab, outputMode="LAB")
    else:
        image = PICTURE.convert("L").convert(mode) if mode in "IF" else PICTURE.convert(mode)
    decoded = decode(saved(image, "TIFF"))
    assert decoded.pixels.shape == (32, 48, 3)
    if mode == "LAB":
        assert np.abs(decoded.pixels.astype(int) - gradient()).mean() < 8


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    decoded = decode(content)
    assert "first frame of 3" in decoded.notes
    assert decoded.pixels[5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_applied_as_pillow_would_or_left(kind, turn):
    options = {"lossless": True} if kind == "WEBP" else {}
    if kind == "TIFF":
        content = saved(PICTURE, kind, tiffinfo={274: turn})
    else:
        content = saved(PICTURE, kind, exif=exif(turn), **options)
    with Image.open(io.BytesIO(content)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    applied, raster = decode(content), decode(content, orientation="raster")
    assert np.array_equal(applied.pixels, upright)
    assert raster.pixels.shape == (32, 48, 3)
    assert np.abs(raster.pixels.astype(int) - gradient()).mean() < 4
    assert applied.notes == (() if turn == 1 else (f"orientation {turn} applied",))


def test_the_annotated_size_decides_the_orientation():
    content = saved(PICTURE, "JPEG", exif=exif(6))
    as_stored = decode(content, annotated_size=(48, 32))
    assert as_stored.pixels.shape == (32, 48, 3)
    assert "orientation 6 ignored" in as_stored.notes
    turned = decode(content, orientation="raster", annotated_size=(32, 48))
    assert turned.pixels.shape == (48, 32, 3)
    assert "orientation 6 applied" in turned.notes
    assert decode(content, annotated_size=(32, 48)).pixels.shape == (48, 32, 3)
    assert reason(content, annotated_size=(50, 32)) == "is 32 x 48 pixels, annotated as 50 x 32"


def test_location_is_seen_in_exif_xmp_and_iptc():
    gps = {piexif.GPSIFD.GPSLatitudeRef: b"N", piexif.GPSIFD.GPSLatitude: ((4, 1), (5, 1), (6, 1))}
    for kind in ("JPEG", "PNG", "WEBP"):
        assert decode(saved(PICTURE, kind, exif=exif(gps=gps))).has_location
        xmp = b'<x:xmpmeta><rdf:Description exif:GPSLatitude="4,5N"/></x:xmpmeta>'
        if kind != "PNG":
            assert decode(saved(PICTURE, kind, xmp=xmp)).has_location
    city = b"\x1c\x02\x5a\x00\x04Graz"
    app13 = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(city)) + city + b"\0"
    content = JPEG[:2] + b"\xff\xed" + struct.pack(">H", len(app13) + 2) + app13 + JPEG[2:]
    assert decode(content).has_location
    assert not decode(JPEG).has_location
    assert not decode(saved(PICTURE, "JPEG", exif=exif(3))).has_location
    version = {piexif.GPSIFD.GPSVersionID: (2, 3, 0, 0)}
    assert not decode(saved(PICTURE, "JPEG", exif=exif(gps=version))).has_location
    tiff = saved(PICTURE, "TIFF", tiffinfo={34853: {1: "N"}})
    assert decode(tiff).has_location


def test_exif_that_is_half_readable_counts_as_a_location():
    whole = exif(1, gps={piexif.GPSIFD.GPSLatitudeRef: b"N"}, tags={271: b"Some camera maker"})
    for cut in range(8, len(whole) + 1):
        decoded = decode(saved(PICTURE, "JPEG", exif=whole[:cut]))
        assert decoded.has_location, cut
        assert decoded.pixels.shape == (32, 48, 3)


def test_a_tiff_tag_longer_than_the_file_counts_as_a_location():
    content = saved(PICTURE, "TIFF", tiffinfo={271: "Some camera maker"})
    assert not decode(content).has_location
    entry = content.index(struct.pack("<HHI", 271, 2, 18))
    broken = content[: entry + 4] + struct.pack("<I", 2**30) + content[entry + 8 :]
    assert decode(broken).has_location


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_copyright_is_read(kind):
    block = exif(tags={piexif.ImageIFD.Copyright: "© Zoë, 2020".encode()})
    if kind == "TIFF":
        content = saved(PICTURE, kind, tiffinfo={0x8298: "(c) Zoe, 2020"})
        assert decode(content).copyright == "(c) Zoe, 2020"
    else:
        assert decode(saved(PICTURE, kind, exif=block)).copyright == "© Zoë, 2020"
    assert decode(saved(PICTURE, kind)).copyright is None


def test_other_profiles_are_converted_and_srgb_is_kept():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kept = decode(saved(PICTURE, "PNG", icc_profile=srgb))
    assert kept.icc_profile == srgb
    assert np.array_equal(kept.pixels, gradient())
    linear = _gray_profile()
    gray = PICTURE.convert("L")
    converted = decode(saved(gray, "PNG", icc_profile=linear))
    assert converted.icc_profile is None
    assert "converted from its ICC profile to sRGB" in converted.notes
    middle = np.asarray(gray) == 100
    assert converted.pixels[..., 0][middle].mean() > 150  # linear 100 is far brighter in sRGB
    damaged = decode(saved(PICTURE, "PNG", icc_profile=b"no profile" * 20))
    assert np.array_equal(damaged.pixels, gradient())
    assert damaged.icc_profile is None


def _gray_profile() -> bytes:
    """A gray ICC v2 profile whose tone curve is linear."""
    white = b"XYZ \0\0\0\0" + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    name = b"linear gray\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    text += bytes(-len(text) % 4)
    tags, behind, offset = b"", b"", 128 + 4 + 3 * 12
    for key, body in ((b"wtpt", white), (b"kTRC", curve), (b"desc", text)):
        tags += key + struct.pack(">II", offset + len(behind), len(body))
        behind += body
    header = struct.pack(">I4sI4s4s4s12s4s", 0, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ",
                         bytes(12), b"acsp")  # fmt: skip
    header = header.ljust(68, b"\0") + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    content = header.ljust(128, b"\0") + struct.pack(">I", 3) + tags + behind
    return struct.pack(">I", len(content)) + content[4:]


def test_bytes_behind_a_jpeg_do_no_harm_and_are_not_pixels():
    assert np.array_equal(decode(JPEG + b"secret" * 100).pixels, decode(JPEG).pixels)


def test_the_content_is_handed_back_and_decoding_repeats():
    first, second = decode(JPEG), decode(JPEG)
    assert first.content == JPEG
    assert first.format == "JPEG"
    assert np.array_equal(first.pixels, second.pixels)
    assert not first.pixels.flags.writeable


def test_heic_without_the_extra_says_what_is_needed():
    content = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(100)
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        assert reason(content) == "HEIC needs the extra unsafe2safe[heif]"
    else:
        assert reason(content)


def test_formats_that_run_programs_are_not_read():
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not an image"


def test_missing_folders_and_pipes_fail(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, told in (("pipe.jpg", "regular"), ("folder.jpg", "folder"), ("no.jpg", "missing")):
        with pytest.raises(UnreadableImage, match=told):
            decode_file(tmp_path / name, name)


@pytest.mark.parametrize("kind", ["content", "file"])
def test_a_header_states_its_size_however_large(tmp_path, recwarn, kind):
    """Pillow refuses twice its own bound, which a data set's max_pixels may be above."""
    path = tmp_path / "panorama.png"
    for content in (huge_png_header(), b"nothing"):
        path.write_bytes(content)
        file = path if kind == "file" else content
        if content == b"nothing":
            with pytest.raises(UnreadableImage, match="not an image"):
                stated_size(file, "panorama")
        else:
            width, height = stated_size(file, "panorama")
            assert width * height > 2 * Image.MAX_IMAGE_PIXELS
    assert not recwarn.list

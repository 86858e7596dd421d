from dataclasses import replace

import piexif
import pytest
from metrics.pairs import noise, plain_pair
from PIL import Image, PngImagePlugin

from unsafe2safe.metrics.metadata import MetadataLeaks

PIXELS = noise()


def score(path, **settings):
    sample = replace(plain_pair(PIXELS, PIXELS), edited_file=path)
    return MetadataLeaks(**settings).measure([sample])[0]


def saved(path, **options):
    Image.fromarray(PIXELS).save(path, **options)
    return path


def exif(tags, gps=None):
    return piexif.dump({"0th": tags, "GPS": gps or {}})


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_a_picture_alone_is_clean(tmp_path, kind):
    assert score(saved(tmp_path / f"a.{kind}")).values == (0.0,)


def test_a_location_a_comment_and_bytes_behind_the_end_are_leaks(tmp_path):
    gps = {piexif.GPSIFD.GPSLatitude: ((48, 1), (8, 1), (0, 1))}
    assert score(saved(tmp_path / "gps.jpg", exif=exif({}, gps))).values == (1.0,)
    assert score(saved(tmp_path / "said.jpg", comment=b"Anna Weber")).values == (1.0,)
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "Anna Weber")
    assert score(saved(tmp_path / "text.png", pnginfo=text)).values == (1.0,)
    behind = saved(tmp_path / "behind.png")
    behind.write_bytes(behind.read_bytes() + b"Anna")
    assert score(behind).values == (1.0,)


def test_what_is_allowed_is_no_leak_and_can_be_forbidden(tmp_path):
    path = saved(tmp_path / "a.jpg", exif=exif({piexif.ImageIFD.Copyright: b"by someone"}))
    assert score(path).values == (0.0,)
    assert score(path, allowed=("icc",)).values == (1.0,)
    both = exif({piexif.ImageIFD.Copyright: b"x", piexif.ImageIFD.Artist: b"Anna Weber"})
    assert score(saved(tmp_path / "b.jpg", exif=both)).values == (1.0,)


def test_formats_that_nobody_reads_count_as_leaks(tmp_path):
    assert score(saved(tmp_path / "a.bmp")).values == (1.0,)


def test_a_computed_image_does_not_apply_and_a_missing_one_is_missing():
    computed = MetadataLeaks().measure([plain_pair(PIXELS, PIXELS)])[0]
    assert (computed.not_applicable, computed.missing) == (1, 0)
    missing = MetadataLeaks().measure([plain_pair(PIXELS, None)])[0]
    assert (missing.not_applicable, missing.missing) == (0, 1)

import io

import cv2
import numpy as np
import pytest
from metrics.pairs import blank, box_mask, noise, pair, plain_pair
from PIL import Image

from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.metrics.copying import CopyRateInside, CopyRateOutside

INSIDE, OUTSIDE = CopyRateInside(), CopyRateOutside()


def value(metric, original, edited, mask):
    return metric.measure([plain_pair(original, edited, mask)])[0].values[0]


def saved_as_jpeg(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def photograph():
    pixels = decode_file(photos_folder() / "astronaut.jpg", "x").pixels
    mask = np.zeros(pixels.shape[:2], np.bool_)
    mask[30:200, 160:290] = True  # the face
    return pixels, mask


def test_a_copy_is_found_inside_and_a_change_inside_is_none_outside():
    original, mask = noise(64, 64), box_mask(64, 64)
    assert value(INSIDE, original, original.copy(), mask) == 1.0
    edited = np.where(mask[..., None], noise(64, 64, seed=1), original)
    assert value(INSIDE, original, edited, mask) == 0.0
    assert value(OUTSIDE, original, edited, mask) == 1.0


def test_blocks_are_counted_where_they_lie_wholly_in_the_part():
    original = noise(24, 24)
    mask = np.zeros((24, 24), np.bool_)
    mask[:8, :16] = True
    mask[9, 9] = True  # touches a block, holds none
    edited = original.copy()
    edited[:8, :8] = 0
    edited[9, 9] = 0
    assert value(INSIDE, original, edited, mask) == 0.5
    edited[16:, :8] = 0  # one of the six blocks that touch no mask
    assert value(OUTSIDE, original, edited, mask) == pytest.approx(5 / 6)


@pytest.mark.parametrize("quality", [75, 90])
def test_a_copy_saved_as_jpeg_is_still_a_copy(photograph, quality):
    pixels, mask = photograph
    edited = saved_as_jpeg(pixels, quality)
    assert value(INSIDE, pixels, edited, mask) > 0.9
    assert value(OUTSIDE, pixels, edited, mask) > 0.9


def test_more_blur_is_less_of_a_copy(photograph):
    pixels, mask = photograph
    found = [
        value(INSIDE, pixels, cv2.GaussianBlur(pixels, (0, 0), sigma), mask)
        for sigma in (0.5, 1, 2, 4, 8, 16)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.8
    assert found[-1] < 0.02


def test_a_smooth_patch_of_the_right_colour_is_no_copy(photograph):
    pixels, mask = photograph
    edited = pixels.copy()
    edited[mask] = pixels[mask].mean(axis=0).astype(np.uint8)
    assert value(INSIDE, pixels, edited, mask) == 0.0


def test_what_has_no_contrast_says_nothing():
    sample = plain_pair(blank(64, 64), blank(64, 64), box_mask(64, 64))
    for metric in (INSIDE, OUTSIDE):
        assert metric.measure([sample])[0].not_applicable == 1


@pytest.mark.parametrize("size", [(7, 40), (40, 7), (1, 1)])
def test_images_smaller_than_a_block_and_masks_without_one_do_not_apply(size):
    small = noise(*size)
    for metric, mask in ((INSIDE, np.ones(size, np.bool_)), (OUTSIDE, np.zeros(size, np.bool_))):
        assert metric.measure([plain_pair(small, small, mask)])[0].not_applicable == 1
    thin = np.zeros((40, 40), np.bool_)
    thin[3:9] = True
    assert INSIDE.measure([plain_pair(noise(40, 40), noise(40, 40), thin)])[0].not_applicable == 1


def test_a_missing_pair_is_missing():
    sample = pair(plain_pair(noise(), None).original, None, box_mask())
    assert INSIDE.measure([sample])[0].missing == 1

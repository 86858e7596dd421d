import cv2
import numpy as np
import pytest
from metrics.pairs import blank, noise, plain_pair
from skimage.measure import blur_effect

from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.metrics.sharpness import SharpnessChange, blurriness


def value(original, edited):
    return SharpnessChange().measure([plain_pair(original, edited)])[0].values[0]


@pytest.fixture(scope="module")
def photograph():
    return decode_file(photos_folder() / "cat.jpg", "x").pixels


def test_blurriness_is_skimages(photograph):
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
    assert blurriness(photograph, 512) == pytest.approx(blur_effect(grey), abs=1e-9)


def test_blur_costs_sharpness_and_noise_adds_to_it(photograph):
    assert value(photograph, photograph.copy()) == 0.0
    found = [value(photograph, cv2.GaussianBlur(photograph, (0, 0), s)) for s in (1, 2, 4, 8)]
    assert found == sorted(found, reverse=True)
    assert found[0] < -0.02
    rough = np.clip(photograph + noise(*photograph.shape[:2]) // 4 - 32.0, 0, 255).astype(np.uint8)
    assert value(photograph, rough) > 0.02


def test_a_grey_picture_has_no_sharpness(photograph):
    assert blurriness(blank(40, 40), 512) == 1.0
    assert value(photograph, np.full_like(photograph, 127)) < -0.3


@pytest.mark.parametrize("size", [(11, 40), (40, 11), (1, 1)])
def test_tiny_images_do_not_apply(size):
    score = SharpnessChange().measure([plain_pair(noise(*size), noise(*size))])[0]
    assert (score.values, score.not_applicable) == ((), 1)
    assert np.isfinite(value(noise(12, 12), noise(12, 12, seed=1)))

from functools import cache

import numpy as np
import pytest
from metrics.pairs import box_mask, noise, pair

from unsafe2safe.core.config.compose import load
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.metrics.perceptual import StLpipsInside, StLpipsOutside
from unsafe2safe.vision.perception import Perception


@cache
def perception():
    return Perception(load("evaluate").vision, 2)


def sample(original, edited, mask):
    return pair(ImageFeatures(original, perception()), ImageFeatures(edited, perception()), mask)


def distances(original, edited, mask):
    made = sample(original, edited, mask)
    return [metric.measure([made])[0].values[0] for metric in (StLpipsInside(), StLpipsOutside())]


def test_each_part_owns_its_change():
    original, mask = noise(96, 96), box_mask(96, 96)
    inside = np.where(mask[..., None], 0, original).astype(np.uint8)
    outside = np.where(mask[..., None], original, 0).astype(np.uint8)
    assert distances(original, inside, mask)[0] > 0.01
    assert distances(original, inside, mask)[1] == 0.0
    assert distances(original, outside, mask)[0] == 0.0
    assert distances(original, outside, mask)[1] > 0.1


def test_equal_images_are_as_near_as_the_network_says():
    image = noise(80, 96)
    assert distances(image, image.copy(), box_mask(80, 96)) == [0.0, 0.0]
    assert perception().perceptual.distance([image], [image])[0] == pytest.approx(0.0, abs=1e-6)


def test_a_batch_with_equal_pairs_keeps_its_order():
    original, mask = noise(64, 64), box_mask(64, 64)
    edited = np.where(mask[..., None], 0, original).astype(np.uint8)
    samples = [sample(original, one, mask) for one in (original, edited, original, edited)]
    values = [score.values[0] for score in StLpipsInside().measure(samples)]
    assert values[0] == values[2] == 0.0
    assert values[1] == pytest.approx(values[3])
    assert values[1] > 0.0


def test_swapped_colour_channels_are_a_change():
    original = noise(64, 64)
    original[..., 0] //= 4
    assert distances(original, original[..., ::-1].copy(), box_mask(64, 64))[0] > 0.0


def test_without_anything_sensitive_inside_does_not_apply():
    made = sample(noise(64, 64), noise(64, 64), np.zeros((64, 64), np.bool_))
    assert StLpipsInside().measure([made])[0].not_applicable == 1

"""Masks made window by window are those of the whole frame, and come apart into their parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from unsafe2safe.core.records import Box
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.vision.masks import (
    Shape,
    Window,
    connected_shapes,
    mask_of_shapes,
    person_outline,
)
from unsafe2safe.vision.persons import PersonSegmenter
from unsafe2safe.vision.regions import covered, mask_of

H, W = 40, 60
numbers = st.floats(-30, 90, allow_nan=False)
sizes = st.floats(0, 60, allow_nan=False)
boxes = st.builds(Box, numbers, numbers, sizes, sizes)


@given(st.lists(boxes, max_size=4), st.sampled_from([0.0, 0.5, 3.0, 12.0]))
def test_boxes_give_the_mask_of_the_whole_frame(some, feather):
    shapes = [(Shape(Window.of(box, H, W)), 0.0, feather) for box in some]
    expected = mask_of(some, H, W, feather)
    assert mask_of_shapes(shapes, H, W) == pytest.approx(expected, abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 2.5, 7.0]), st.sampled_from([0.0, 4.0]))
def test_a_shape_grows_by_so_many_pixels_before_its_rim_begins(seed, growth, feather):
    rng = np.random.default_rng(seed)
    support = rng.random((rng.integers(1, 12), rng.integers(1, 12))) < 0.3
    top, left = rng.integers(0, H - 12), rng.integers(0, W - 12)
    window = Window(top, left, top + support.shape[0], left + support.shape[1])
    whole = np.zeros((H, W), bool)
    whole[window.rows, window.columns] = support
    mask = mask_of_shapes([(Shape(window, support), growth, feather)], H, W)
    if not support.any():
        return
    distance = ndimage.distance_transform_edt(~whole)
    # OpenCV's distances are exact to about a hundredth of a pixel.
    assert (mask[distance <= growth - 0.01] == 1).all()
    assert (mask[distance > growth + feather + 0.01] == 0).all()
    assert (mask[whole] == 1).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.4))
def test_connected_shapes_hold_each_masked_pixel_once_and_nothing_else(seed, share):
    mask = (np.random.default_rng(seed).random((H, W)) < share).astype(np.float32)
    count = np.zeros((H, W), int)
    for shape in connected_shapes(mask):
        count[shape.window.rows, shape.window.columns] += shape.own
    assert np.array_equal(count, mask > 0)


def test_parts_of_a_large_frame_come_apart():
    mask = np.zeros((300, 5000), np.float32)
    mask[10:20, 3:9] = mask[200:250, 4000:4999] = 0.2
    found = [shape.window for shape in connected_shapes(mask)]
    assert found == [Window(10, 3, 20, 9), Window(200, 4000, 250, 4999)]


def test_a_grainy_mask_does_not_come_apart_into_thousands():
    grains = np.zeros((400, 400), np.float32)
    grains[::4, ::4] = 1
    shapes = connected_shapes(grains)
    assert len(shapes) <= 256
    assert sum(int(shape.own.sum()) for shape in shapes) == grains.sum()


def test_an_outline_follows_the_person_and_an_empty_box_has_none():
    photo = np.asarray(Image.open(photos_folder() / "astronaut.jpg").convert("RGB"))
    box = Box(60, 20, 360, 492)
    outline = person_outline(photo, box, PersonSegmenter(1))
    assert outline is not None
    mask = mask_of_shapes([(outline, 0.0, 0.0)], *photo.shape[:2])
    face, corner = Box(190, 70, 70, 90), Box(400, 20, 40, 40)
    assert covered(face, mask) > 0.95
    assert covered(corner, mask) < 0.2
    assert covered(box, mask) < 0.9
    flat = np.full((200, 200, 3), 127, np.uint8)
    assert person_outline(flat, Box(20, 20, 100, 150), PersonSegmenter(1)) is None

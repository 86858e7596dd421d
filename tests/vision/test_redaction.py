from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsafe2safe.core.records import Box
from unsafe2safe.vision import redaction
from unsafe2safe.vision.matching import text_leaks
from unsafe2safe.vision.redaction import redact
from unsafe2safe.vision.regions import grow, mask_of

METHODS = ["blur", "mosaic", "fill", "inpaint"]
boxes = st.builds(Box, *[st.floats(-10, 60)] * 2, *[st.floats(0, 50)] * 2)


def noise(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None)
@given(
    st.lists(boxes, max_size=3),
    st.sampled_from([0.0, 5.0]),
    st.floats(0.2, 4),
    st.integers(0, 99),
)
def test_pixels_where_the_mask_is_0_stay_identical(method, some, feather, strength, seed):
    image, mask = noise(seed), mask_of(some, 48, 64, feather)
    before = image.copy()
    result = redact(image, mask, method, strength)
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert (result[mask == 0] == image[mask == 0]).all()
    assert (image == before).all()  # the source itself is never written to


@pytest.mark.parametrize("method", ["fill", "inpaint"])
@settings(max_examples=25, deadline=None)
@given(boxes, st.integers(0, 99))
def test_fill_and_inpaint_use_nothing_of_what_is_hidden(method, box, seed):
    mask = mask_of([box], 48, 64)
    image = noise(seed)
    other = np.where(mask[..., None] > 0, 255 - image, image).astype(np.uint8)
    assert (redact(image, mask, method, 1.0) == redact(other, mask, method, 1.0)).all()


@pytest.mark.parametrize("method", ["blur", "mosaic"])
@pytest.mark.parametrize("side", [32, 200])
def test_little_information_survives_whatever_the_size_of_the_region(method, side):
    """Under the mask at most a few cells' worth: neighbouring rows are linearly dependent."""
    image = noise(1, side + 40, side + 40)
    mask = mask_of([Box(20, 20, side, side)], *image.shape[:2])
    inside = redact(image, mask, method, 1.0)[20 : 20 + side, 20 : 20 + side, 0].astype(float)
    energy = np.linalg.svd(inside - inside.mean(), compute_uv=False) ** 2
    assert energy[4:].sum() <= 0.02 * energy.sum() + side * side  # rounding: 1 / 12 a pixel


@pytest.mark.parametrize("method", ["blur", "mosaic"])
def test_a_greater_strength_leaves_less(method):
    image, mask = noise(2, 128, 128), mask_of([Box(0, 0, 128, 128)], 128, 128)
    spread = [redact(image, mask, method, s).std() for s in (0.25, 1.0, 2.0)]
    assert spread == sorted(spread, reverse=True)


def test_each_part_of_a_mask_is_treated_by_its_own_size():
    image = noise(3, 120, 240)
    small, large = Box(10, 10, 16, 16), Box(100, 10, 100, 100)
    together = redact(image, mask_of([small, large], 120, 240), "mosaic", 1.0)
    alone = redact(image, mask_of([large], 120, 240), "mosaic", 1.0)
    assert (together[:, 60:] == alone[:, 60:]).all()


def test_a_filled_region_takes_the_colour_around_it_and_is_flat():
    image = np.full((40, 40, 3), (10, 200, 30), np.uint8)
    image[10:20, 10:20] = (250, 0, 0)
    result = redact(image, mask_of([Box(10, 10, 10, 10)], 40, 40), "fill", 1.0)
    assert (result == (10, 200, 30)).all()


@pytest.mark.parametrize("method", ["fill", "inpaint"])
def test_a_frame_that_is_hidden_as_a_whole_becomes_grey(method):
    image = noise(4)
    assert (redact(image, np.ones((48, 64), np.float32), method, 1.0) == 127).all()


def test_a_mosaic_has_flat_cells():
    result = redaction.mosaic(noise(5, 64, 64), np.ones((64, 64), np.float32), 16)
    cells = result.reshape(4, 16, 4, 16, 3)
    assert (cells == cells[:, :1, :, :1]).all()


def test_unusable_arguments_are_refused():
    image, mask = noise(6), np.zeros((48, 64), np.float32)
    with pytest.raises(ValueError, match="strength"):
        redact(image, mask, "blur", 0.0)
    with pytest.raises(ValueError, match="unknown redaction"):
        redact(image, mask, "smear", 1.0)
    with pytest.raises(ValueError, match="differ in size"):
        redact(image, mask[:-1], "blur", 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_redacted_faces_are_neither_found_nor_recognised(perception, photo, faces_of, method):
    image = photo("astronaut.jpg")
    height, width = image.shape[:2]
    faces = faces_of("astronaut.jpg")
    mask = mask_of([grow(face.box, 0.3, width, height) for face in faces], height, width)
    edited = redact(image, mask, method, 1.0)
    before = perception.identity.embed(image, faces)
    after = perception.identity.embed_boxes(edited, [face.box for face in faces])
    assert perception.identity.distance(before, after).min() > 0.6
    assert not perception.verify_faces(edited)


@pytest.mark.parametrize("method", METHODS)
def test_redacted_text_is_not_readable(perception, photo, labels, method):
    image = photo("coffee_note.jpg")
    height, width = image.shape[:2]
    found = [grow(line.box, 0.1, width, height) for line in perception.text.read(image)]
    edited = redact(image, mask_of(found, height, width), method, 1.0)
    readable = [line.text for line in perception.verify_text(edited)]
    assert not any(text_leaks(labels["coffee_note.jpg"]["text"], readable))

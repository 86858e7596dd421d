"""The single parts of verification and publishing."""

import tracemalloc
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unsafe2safe.anonymize.loop import _forbids_derivatives
from unsafe2safe.anonymize.region_editing import composite
from unsafe2safe.anonymize.verify import _unchanged, noise_level, second_look
from unsafe2safe.core.records import Box, Category, Region
from unsafe2safe.data.samples import SamplesSource
from unsafe2safe.vision.faces import Face


def test_noise_is_told_from_a_photograph():
    source = SamplesSource(name="samples")
    photo = source.decode(source.record("coffee.jpg")).pixels
    everywhere = np.ones(photo.shape[:2], np.bool_)
    noise = np.random.default_rng(0).integers(0, 256, photo.shape, dtype=np.uint8)
    assert noise_level(photo, everywhere) < 6
    assert noise_level(noise, everywhere) > 30


def test_noise_of_a_known_strength_is_estimated():
    draw = np.random.default_rng(0).normal(128, 10, (200, 200, 1)).repeat(3, axis=2)
    estimate = noise_level(draw.clip(0, 255).astype(np.uint8), np.ones((200, 200), np.bool_))
    assert estimate == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(
    "part", [np.s_[:, :], np.s_[:5, :7], np.s_[30:38, 50:], np.s_[20:21, 33:34]]
)
def test_noise_of_a_part_is_that_of_its_pixels_in_the_whole(part):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    where = np.zeros((40, 60), np.bool_)
    where[part] = True
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    kernel = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32)
    response = np.abs(cv2.filter2D(luma, cv2.CV_32F, kernel))[where]
    assert noise_level(image, where) == float(np.median(response) / (0.6745 * 6.0))


def test_memory_to_compare_a_region_does_not_grow_with_the_region(monkeypatch):
    monkeypatch.setattr("unsafe2safe.metrics.structure._MOST_AT_ONCE", 2**13)
    source = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    whole = Region("a.png", Box(0, 0, 512, 512), Category.PERSON, 1.0, "test")
    candidate = SimpleNamespace(image=SimpleNamespace(pixels=source), regions=[whole])
    tracemalloc.start()
    judged = _unchanged(candidate, source.copy(), np.ones((512, 512), np.float32))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert judged.check.value == 1.0
    assert peak < 30 * 512 * 512  # bytes; the map of the whole region takes 400 a pixel


def test_a_detection_outside_the_mask_is_a_missed_region():
    mask = np.zeros((100, 100), np.float32)
    mask[:, :50] = 1
    faces = [
        Face(Box(10, 10, 20, 20), 0.9, np.zeros((5, 2), np.float32)),
        Face(Box(70, 10, 20, 20), 0.8, np.zeros((5, 2), np.float32)),
    ]
    missed = second_look("a.png", faces, [], mask)
    assert [region.box.x for region in missed] == [70]
    assert len(second_look("a.png", faces, [], None)) == 2


@given(
    arrays.arrays(np.uint8, (9, 11, 3)),
    arrays.arrays(np.uint8, (9, 11, 3)),
    arrays.arrays(np.float32, (9, 11), elements=st.floats(0, 1, width=32)),
)
def test_a_composite_is_the_source_where_the_mask_is_zero_and_the_edit_where_it_is_one(
    source, edited, mask
):
    mask[0], mask[1] = 0, 1
    result = composite(source, edited, mask)
    assert np.array_equal(result[mask == 0], source[mask == 0])
    assert np.array_equal(result[mask == 1], edited[mask == 1])
    low, high = np.minimum(source, edited), np.maximum(source, edited)
    assert ((result >= low) & (result <= high)).all()


@pytest.mark.parametrize(
    ("licence", "forbidden"),
    [
        ("Attribution-NonCommercial-NoDerivs License", True),
        ("Attribution-NoDerivs License", True),
        ("CC BY-ND 2.0", True),
        ("CC BY-NC-ND 4.0", True),
        ("Attribution License", False),
        ("Attribution-ShareAlike License", False),
        ("No known copyright restrictions", False),
        ("public domain", False),
        ("Found and kept", False),
        (None, False),
    ],
)
def test_licences_that_forbid_derivatives_are_known(licence, forbidden):
    assert _forbids_derivatives(licence) == forbidden

"""Whether letters that no reader reads can still be made out."""

import cv2
import numpy as np
import pytest

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.records import Category, Region
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.redact import RedactEditor
from unsafe2safe.vision.strokes import stroke_correlation

LIMIT = load("anonymize", []).verify.letters_alike
PAPER, INK = (225, 220, 190), (30, 30, 45)


def lettered(text, scale=1.0, lines=1):
    image = np.full((round(60 * scale) * lines, round(420 * scale), 3), PAPER, np.uint8)
    for line in range(lines):
        at = round(8 * scale), round((42 + 60 * line) * scale)
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 1.1 * scale, INK, round(2 * scale))
    noise = np.random.default_rng(0).normal(0, 2, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def everywhere(image):
    return np.ones(image.shape[:2], bool)


def likeness(source, edited):
    return stroke_correlation(source, edited, everywhere(source))


@pytest.mark.parametrize(("scale", "lines"), [(0.5, 1), (1.0, 1), (1.0, 4), (3.0, 1), (6.0, 2)])
def test_blur_that_people_read_through_is_told_from_blur_that_hides(scale, lines):
    source = lettered("Anna Weber 0142", scale, lines)
    capital = 24 * scale
    seen = [
        likeness(source, cv2.GaussianBlur(source, (0, 0), share * capital))
        for share in (0.05, 0.1, 0.15, 0.2, 1.0)
    ]
    assert seen == sorted(seen, reverse=True)
    assert min(seen[:3]) > LIMIT
    assert seen[-1] < LIMIT
    assert likeness(source, source) == pytest.approx(1.0)


@pytest.mark.parametrize("other", ["Otto Krause 9987", "MMMM HHHH 11111", ""])
def test_other_letters_in_their_place_are_not_alike(other):
    source = lettered("Anna Weber 0142")
    assert likeness(source, lettered(other)) < LIMIT
    assert likeness(source, 255 - lettered(other)) < LIMIT


@pytest.mark.parametrize("method", ["blur", "mosaic", "fill", "inpaint"])
def test_a_redaction_leaves_no_letters(photo, perception, method):
    image = photo("coffee_note.jpg")
    mask = np.zeros(image.shape[:2], np.float32)
    lines = [line.box for line in perception.text.read(image)]
    windows = [np.s_[int(b.y) : int(b.bottom), int(b.x) : int(b.right)] for b in lines]
    for window in windows:
        mask[window] = 1.0
    regions = tuple(Region("a", box, Category.TEXT, 1.0, "test") for box in lines)
    request = EditRequest(image, mask, regions, "", "", seed=0)
    (edited,) = RedactEditor(name="redact", method=method).edit([request])
    assert len(windows) == 3
    for window in windows:
        assert likeness(image[window], edited[window]) < LIMIT


def test_what_lies_outside_the_mask_does_not_count():
    source = lettered("Anna Weber 0142")
    edited = source.copy()
    edited[:, 200:] = PAPER
    left = np.zeros(source.shape[:2], bool)
    left[:, :200] = True
    assert stroke_correlation(source, edited, left) > 0.99
    assert stroke_correlation(source, edited, ~left) < LIMIT


@pytest.mark.parametrize("shape", [(1, 1), (2, 50), (40, 40)])
def test_where_there_is_nothing_to_see_nothing_is_alike(shape):
    flat = np.full((*shape, 3), 128, np.uint8)
    assert likeness(flat, flat) == 0.0
    assert stroke_correlation(flat, flat, np.zeros(shape, bool)) == 0.0

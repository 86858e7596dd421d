"""The metrics order known truths rightly on the package's photographs."""

from functools import cache

import cv2
import numpy as np
import pytest
from metrics.pairs import pair

from unsafe2safe.core.config.compose import load
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.metrics.faces import FaceLeakRate, FaceSim, FaceSimPaper
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.metrics.text import TextLeakRecall
from unsafe2safe.vision.perception import Perception


@cache
def perception():
    return Perception(load("evaluate").vision, 2)


@cache
def seen(name):
    return ImageFeatures(decode_file(photos_folder() / name, name).pixels, perception())


def changed(name, change):
    return ImageFeatures(change(seen(name).pixels), perception())


def value(metric, original, edited):
    scores = metric.measure([pair(original, edited)])
    return metric.aggregate(scores, 10, np.random.default_rng(0)).value


def test_three_photographs_of_one_person_are_told_from_another_person():
    presidents = [seen(f"president_{letter}.jpg") for letter in "abc"]
    same = [
        value(FaceSimPaper(), presidents[i], presidents[j]) for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    other = [value(FaceSimPaper(), one, seen("vice_president.jpg")) for one in presidents]
    assert min(same) > 0.5 > max(other)


def test_more_blur_leaves_less_of_a_face():
    def blurred(sigma):
        return changed("president_a.jpg", lambda pixels: cv2.GaussianBlur(pixels, (0, 0), sigma))

    found = [value(FaceSim(), seen("president_a.jpg"), blurred(sigma)) for sigma in (2, 8, 16, 32)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.7
    assert found[-1] < 0.55
    assert value(FaceLeakRate(), seen("president_a.jpg"), blurred(2)) == 1.0
    assert value(FaceLeakRate(), seen("president_a.jpg"), blurred(32)) == 0.0


def test_swapped_colour_channels_are_not_the_same_face():
    swapped = changed("astronaut.jpg", lambda pixels: np.ascontiguousarray(pixels[..., ::-1]))
    assert value(FaceSim(), seen("astronaut.jpg"), swapped) < 0.9
    one = seen("astronaut.jpg")
    direct = perception().identity.embed(one.pixels, one.faces)
    assert np.array_equal(one.embeddings, direct)


@pytest.mark.parametrize(("line", "left"), [(0, 3), (2, 3)])
def test_each_line_that_is_painted_over_is_one_leak_less(line, left):
    original = seen("cat_poster.jpg")
    box = original.lines[line].box

    def paint(pixels):
        edited = pixels.copy()
        cv2.rectangle(
            edited,
            (int(box.x) - 4, int(box.y) - 4),
            (int(box.right) + 4, int(box.bottom) + 4),
            (200, 190, 180),
            -1,
        )
        return edited

    found = value(TextLeakRecall(), original, changed("cat_poster.jpg", paint))
    assert found == pytest.approx(left / len(original.lines))

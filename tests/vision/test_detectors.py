"""Detectors that may be added to verification."""

import numpy as np
import pytest

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import compose_choice
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Category
from unsafe2safe.vision.detectors import Detector
from unsafe2safe.vision.regions import iou


def dlib_hog(**settings):
    return build(compose_choice("detector", "dlib_hog") | settings, "detector", Detector)


def test_dlib_sees_the_face_that_the_embedded_network_sees(photo, faces_of):
    (face,) = faces_of("astronaut.jpg")
    found = dlib_hog().detect(photo("astronaut.jpg"))
    assert any(iou(one.box, face.box) > 0.3 for one in found)
    assert {one.category for one in found} == {Category.FACE}


def test_dlib_sees_none_where_none_is(photo):
    assert dlib_hog().detect(photo("coffee.jpg")) == []
    assert dlib_hog().detect(np.zeros((5, 7, 3), np.uint8)) == []


def test_a_missing_library_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install dlib-bin"):
        dlib_hog()

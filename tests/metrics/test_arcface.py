"""FaceSim by a model in an ONNX file; the package's own embedding network stands for ArcFace."""

from functools import cache
from importlib import resources

import numpy as np
import onnxruntime
import pytest
from metrics.pairs import Seen, pair

from unsafe2safe.core.config.compose import load
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.metrics.arcface import ArcFaceMetric, FaceSimArcFace, FaceSimArcFacePaper
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.arrays import resized
from unsafe2safe.vision.identity import ARCFACE_TEMPLATE, chip
from unsafe2safe.vision.perception import Perception

MODEL = resources.files("unsafe2safe.assets") / "models" / "face_identity.onnx"
PAPER, OURS = (kind(weights=str(MODEL)) for kind in (FaceSimArcFacePaper, FaceSimArcFace))


@cache
def perception():
    return Perception(load("evaluate").vision, 2)


@cache
def portrait(name, swapped=False):
    pixels = decode_file(photos_folder() / name, "x").pixels
    pixels = resized(pixels, pixels.shape[0] // 2, pixels.shape[1] // 2)
    return ImageFeatures(
        np.ascontiguousarray(pixels[..., ::-1]) if swapped else pixels, perception()
    )


def values(metric, *images):
    return metric.measure([pair(*images)])[0].values


def test_embeddings_are_the_models_of_aligned_rgb_faces():
    image = portrait("president_a.jpg")
    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    side = session.get_inputs()[0].shape[-1]
    side = side if isinstance(side, int) else 112
    face = chip(image.pixels, image.faces[0].landmarks, ARCFACE_TEMPLATE * side / 112, side)
    given = (face.transpose(2, 0, 1)[None].astype(np.float32) - 127.5) / 127.5
    expected = session.run(None, {session.get_inputs()[0].name: given})[0]
    expected /= np.linalg.norm(expected)
    assert np.abs(PAPER._own(image) - expected).max() < 1e-5


def test_landmarks_of_the_template_stay_where_they_are():
    draw = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    assert np.array_equal(chip(draw, ARCFACE_TEMPLATE + 0.5, ARCFACE_TEMPLATE, 112), draw)


def test_an_unedited_image_gives_one_and_swapped_channels_less():
    image = portrait("president_a.jpg")
    for metric in (PAPER, OURS):
        assert values(metric, image, image) == pytest.approx((1.0,), abs=1e-5)
        # of this stand-in all cosines are high
        assert values(metric, image, portrait("president_a.jpg", swapped=True))[0] < 0.9999


def test_a_vanished_face_is_left_out_by_the_papers_form_only():
    image = portrait("president_a.jpg")
    grey = ImageFeatures(np.full_like(image.pixels, 127), perception())
    paper = PAPER.measure([pair(image, grey)])[0]
    assert (paper.values, paper.not_applicable) == ((), 1)
    assert len(values(OURS, image, grey)) == 1


def test_matching_is_one_to_one_and_an_overlooked_face_counts_in_its_place(monkeypatch):
    in_place, found = np.array([0.0, 0.3]), np.array([[0.9, 0.1], [0.8, 0.2]])
    monkeypatch.setattr(ArcFaceMetric, "_cosines", lambda *_: (in_place, found))
    two = Seen([0, 1])
    assert values(PAPER, two, two) == (0.9, 0.8)
    assert values(OURS, two, two) == (0.9, 0.3)


def test_no_face_does_not_apply_and_a_missing_pair_is_missing():
    nobody = ImageFeatures(np.full((64, 64, 3), 127, np.uint8), perception())
    assert OURS.measure([pair(nobody, nobody)])[0].not_applicable == 1
    assert OURS.measure([pair(portrait("president_a.jpg"), None)])[0].missing == 1


def test_what_is_missing_is_told_without_its_place(tmp_path):
    assert "no ArcFace model is set" in FaceSimArcFace().unavailable()
    (tmp_path / "bad.onnx").write_text("no model")
    for name, told in (("gone.onnx", "no file gone.onnx"), ("bad.onnx", "cannot be loaded")):
        said = FaceSimArcFace(weights=str(tmp_path / name)).unavailable()
        assert told in said
        assert str(tmp_path) not in said
    assert PAPER.unavailable() == ""

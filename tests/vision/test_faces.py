from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unsafe2safe.anonymize.given_masks import FROM_BOXES
from unsafe2safe.anonymize.region_editing import edited_windows
from unsafe2safe.anonymize.verify import least_face
from unsafe2safe.core.records import Box, Category, Region
from unsafe2safe.vision.faces import FaceDetector
from unsafe2safe.vision.masks import Window
from unsafe2safe.vision.matching import match_boxes
from unsafe2safe.vision.regions import covered, grow, iou, mask_of

UNSAFE = ("astronaut", "cameraman", "portrait_wall", "president_a", "president_b", "president_c",
          "vice_president")  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE)
def test_every_labelled_face_is_found_and_covered(photo, faces_of, labels, name):
    image = photo(f"{name}.jpg")
    height, width = image.shape[:2]
    truth = [Box(*box) for box in labels[f"{name}.jpg"]["face_boxes_xywh"]]
    found = [face.box for face in faces_of(f"{name}.jpg")]
    assert len(match_boxes(truth, found, 0.4)) == len(truth)
    mask = mask_of([grow(box, 0.3, width, height) for box in found], height, width)
    assert min(covered(box, mask) for box in truth) >= 0.9


@pytest.mark.parametrize("name", ["cat", "coffee"])
def test_no_face_is_found_where_there_is_none(perception, photo, name):
    image = photo(f"{name}.jpg")
    assert perception.faces.detect([image]) == [[]]
    assert perception.verify_faces(image) == []


def test_a_batch_gives_what_single_images_give(photo):
    detector = FaceDetector(0.4, 320, threads=1, flip=True)
    images = [photo(f"{n}.jpg") for n in ("astronaut", "president_a", "cat", "cameraman")]
    together = detector.detect(images)
    for image, faces in zip(images, together, strict=True):
        (alone,) = detector.detect([image])
        assert len(alone) == len(faces)
        for face, other in zip(faces, alone, strict=True):
            assert face.box == pytest.approx(other.box, abs=0.01)
            assert face.landmarks == pytest.approx(other.landmarks, abs=0.01)


def test_the_strict_detector_finds_whatever_the_plain_one_finds(perception, photo, faces_of):
    image = photo("astronaut.jpg")
    plain = [face.box for face in faces_of("astronaut.jpg")]
    strict = [face.box for face in perception.verify_faces(image)]
    assert len(match_boxes(plain, strict, 0.5)) == len(plain)


def test_verification_finds_every_labelled_face_down_to_21_pixels(perception, photo, labels):
    truth = [Box(*box) for box in labels["portrait_wall.jpg"]["face_boxes_xywh"]]
    found = [face.box for face in perception.verify_faces(photo("portrait_wall.jpg"))]
    assert len(match_boxes(truth, found, 0.4)) == len(truth) == 29


def test_verification_looks_at_half_own_and_double_size_each_mirrored_too(perception, settings):
    detector = perception.strict_faces
    assert detector.threshold == settings.strict_face_threshold
    views = detector._views(0, np.zeros((100, 200, 3), np.uint8), 1.0)
    sizes = [(view.width, view.mirrored) for view in views]
    assert sizes == [(w, m) for w in (100, 200, 400) for m in (False, True)]


def test_a_face_seen_at_several_scales_and_mirrored_is_one_face(photo):
    detector = FaceDetector(0.4, 320, threads=1, scales=(0.5, 1.0, 2.0), flip=True)
    assert len(detector.detect([photo("astronaut.jpg")])[0]) == 1


def test_a_mirrored_view_tells_the_same_box_and_landmarks(photo):
    """The eye on the image's left stays first, though the mirror makes it the other one."""
    image = photo("astronaut.jpg")
    detector = FaceDetector(0.4, 512, threads=1, flip=True)
    views = detector._views(0, image, 1.0)
    assert [view.mirrored for view in views] == [False, True]
    (_, (plain,)), (_, (mirrored,)) = detector._run([image], views[0].padded, views)
    assert iou(plain.box, mirrored.box) > 0.85
    assert np.abs(plain.landmarks - mirrored.landmarks).max() < 0.06 * plain.box.width


@pytest.mark.parametrize("size", [(1, 1), (5, 700), (31, 33)])
def test_tiny_and_odd_sizes_are_no_error(size):
    image = np.zeros((*size, 3), np.uint8)
    assert FaceDetector(0.5, 64, threads=1).detect([image, image]) == [[], []]


@pytest.mark.parametrize("name", UNSAFE)
def test_parts_show_the_faces_that_the_whole_shows_there(perception, photo, faces_of, name):
    image, whole = photo(f"{name}.jpg"), faces_of(f"{name}.jpg")
    height, width = image.shape[:2]
    mask = mask_of([grow(face.box, 0.3, width, height) for face in whole], height, width)
    windows = edited_windows(mask)
    regions = [Region("a", face.box, Category.FACE, 1.0, "test") for face in whole]
    sides = [least_face(window, regions) for window in windows]
    assert all(side > 0 for side in sides)
    seen = perception.look_again(image, windows, sides)
    matches = match_boxes([face.box for face in whole], [face.box for face in seen], 0.7)
    assert len(matches) == len(whole)
    for of_whole, of_part in matches:
        moved = np.abs(whole[of_whole].landmarks - seen[of_part].landmarks).max()
        assert moved < 0.1 * max(whole[of_whole].box[2:])


def test_where_more_than_faces_lies_faces_of_any_size_are_sought():
    window = Window(0, 0, 100, 100)
    face, small, apart = (
        Region("a", Box(*box), Category.FACE, 1.0, "test")
        for box in ((10, 10, 50, 60), (70, 70, 20, 10), (200, 0, 5, 5))
    )
    person = Region("a", Box(0, 0, 90, 90), Category.PERSON, 1.0, "test")
    assert least_face(window, [face, small, apart]) == 10
    assert least_face(window, [face, person]) == 0
    assert least_face(window, [replace(face, source=FROM_BOXES)]) == 0
    assert least_face(window, [apart]) == 0


def test_only_the_parts_are_looked_at(perception, photo, faces_of):
    image = photo("portrait_wall.jpg")
    height, width = image.shape[:2]
    left = Window(0, 0, height, width // 2)
    seen = perception.look_again(image, [left])
    apart = [face for face in faces_of("portrait_wall.jpg") if face.box.right < width // 2]
    assert len(match_boxes([f.box for f in apart], [f.box for f in seen], 0.5)) == len(apart) > 5
    assert all(face.box.right <= width // 2 for face in seen)
    assert perception.look_again(image, []) == []


def test_very_large_images_are_looked_at_within_bounds():
    detector = FaceDetector.strict(0.25)
    views = detector._views(0, np.broadcast_to(np.uint8(0), (9000, 12000, 3)), 1.0)
    assert {v.padded[0] * v.padded[1] <= 1.05 * 2048 * 2048 for v in views} == {True}
    assert len(views) == 2  # all scales meet at the bound: plain and mirrored


def test_no_images_give_no_results():
    assert FaceDetector().detect([]) == []

from __future__ import annotations

import cv2
import numpy as np
import pytest

from unsafe2safe.vision.identity import FaceIdentity, chip

PRESIDENT = ("president_a", "president_b", "president_c")
OTHERS = ("astronaut", "cameraman", "vice_president")


@pytest.fixture(scope="module")
def portraits(faces_of, photo):
    """Name -> (image, its one face)."""
    images = {name: photo(f"{name}.jpg") for name in (*PRESIDENT, *OTHERS)}
    return {name: (image, faces_of(f"{name}.jpg")[:1]) for name, image in images.items()}


@pytest.fixture(scope="module")
def embeddings(perception, portraits):
    return {name: perception.identity.embed(*pair)[0] for name, pair in portraits.items()}


def test_one_person_is_near_themself_and_far_from_others(embeddings):
    one = np.stack([embeddings[name] for name in PRESIDENT])
    others = np.stack([embeddings[name] for name in OTHERS])
    within = FaceIdentity.distance(one, one)[np.triu_indices(3, 1)]
    assert within.max() < 0.5
    assert FaceIdentity.distance(one, others).min() > 0.53
    assert FaceIdentity.distance(others, others)[np.triu_indices(3, 1)].min() > 0.53


@pytest.mark.parametrize("width", [15, 10, 8])  # pixels of the face
def test_a_blurred_face_is_near_its_source_with_less_detail_and_sharp_others_are_not(
    perception, portraits, embeddings, width
):
    identity = perception.identity
    for name in ("president_a", "astronaut"):
        image, faces = portraits[name]
        reduced = identity.embed_reduced(image, faces)
        scale = faces[0].box.width / width
        small = cv2.resize(image, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
        blurred = cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        assert identity.distance(reduced, identity.embed(blurred, faces)).min() < 0.5
        others = [embeddings[other] for other in OTHERS if other != name]
        assert identity.distance(reduced, np.stack(others)).min() > 0.55


def test_colour_order_matters(perception, portraits, embeddings):
    """Fed with BGR, the same photograph moves away from itself: a bug nobody would see."""
    image, faces = portraits["president_a"]
    swapped = perception.identity.embed(image[..., ::-1], faces)
    assert np.linalg.norm(swapped - embeddings["president_a"]) > 0.2


def test_rgb_brings_photos_of_one_person_nearer_than_bgr(perception, portraits, embeddings):
    def within(swap: int) -> float:
        some = [
            perception.identity.embed(portraits[n][0][..., ::swap], portraits[n][1])[0]
            for n in PRESIDENT
        ]
        return float(FaceIdentity.distance(np.stack(some), np.stack(some)).mean())

    assert within(1) < within(-1)


def test_a_box_without_landmarks_still_tells_who_it_is(perception, portraits, embeddings):
    for name, (image, faces) in portraits.items():
        (nominal,) = perception.identity.embed_boxes(image, [face.box for face in faces])
        assert np.linalg.norm(nominal - embeddings[name]) < 0.5


def test_a_batch_gives_what_single_faces_give(perception, photo, faces_of):
    image = photo("portrait_wall.jpg")
    faces = faces_of("portrait_wall.jpg")[:5]
    together = perception.identity.embed(image, faces)
    alone = np.concatenate([perception.identity.embed(image, [face]) for face in faces])
    assert together == pytest.approx(alone, abs=1e-4)


def test_the_size_of_a_photo_hardly_matters(photo, faces_of):
    """A large face is averaged down, not sampled."""
    import cv2

    image = photo("president_a.jpg")
    (face,) = faces_of("president_a.jpg")
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    small, large = chip(half, face.landmarks / 2), chip(image, face.landmarks)
    assert np.abs(small.astype(float) - large).mean() < 3


def test_no_faces_give_an_empty_array(perception, photo):
    image = photo("cat.jpg")
    assert perception.identity.embed(image, []).shape == (0, 128)
    assert perception.identity.embed_boxes(image, []).shape == (0, 128)
    assert FaceIdentity.distance(np.zeros((0, 128)), np.zeros((2, 128))).shape == (0, 2)


def test_coinciding_landmarks_are_no_error():
    image = np.zeros((20, 20, 3), np.uint8)
    assert chip(image, np.full((5, 2), 7.0)).shape == (150, 150, 3)

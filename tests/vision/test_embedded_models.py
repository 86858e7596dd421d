from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Box
from unsafe2safe.vision.models import session
from unsafe2safe.vision.objects import COCO_CLASSES
from unsafe2safe.vision.perception import Perception
from unsafe2safe.vision.perceptual import ShiftTolerantLpips
from unsafe2safe.vision.redaction import redact
from unsafe2safe.vision.regions import covered, head_of, iou, mask_of


def test_importing_the_room_loads_no_heavy_library():
    code = (
        "import sys, unsafe2safe.vision.perception, unsafe2safe.vision.redaction, "
        "unsafe2safe.vision.matching\n"
        "print({'torch', 'onnxruntime', 'rapidocr', 'rapidfuzz'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_a_model_is_loaded_once_and_says_so(caplog):
    session.cache_clear()
    with caplog.at_level(logging.INFO, "unsafe2safe"):
        assert session("gender", 1) is session("gender", 1)
    assert caplog.text.count("loaded model gender") == 1


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="no_such_model"):
        session("no_such_model", 1)


def test_gender_is_refused_unless_switched_on(perception, settings, photo, faces_of):
    with pytest.raises(ValueError, match=r"vision\.gender"):
        _ = perception.gender
    classifier = Perception(settings.model_copy(update={"gender": True}), 1).gender
    image = photo("president_a.jpg")
    boxes = [face.box for face in faces_of("president_a.jpg")]
    (probabilities,) = classifier.probabilities(image, boxes)
    assert probabilities.sum() == pytest.approx(1, abs=1e-3)
    assert probabilities[1] > 0.5
    assert classifier.probabilities(image, []).shape == (0, 2)
    with pytest.raises(ValueError, match="outside"):
        classifier.probabilities(image, [Box(-50, -50, 10, 10)])


@pytest.mark.parametrize(
    "name", ["astronaut", "cameraman", "president_a", "president_b", "president_c"]
)
def test_a_portrait_holds_a_person_whose_head_zone_covers_the_face(perception, photo, labels, name):
    image = photo(f"{name}.jpg")
    persons = [o.box for o in perception.objects.detect([image])[0] if o.label == "person"]
    truth = [Box(*box) for box in labels[f"{name}.jpg"]["face_boxes_xywh"]]
    mask = mask_of(map(head_of, persons), *image.shape[:2])
    assert min(covered(box, mask) for box in truth) > 0.8


def test_a_cat_is_a_cat_and_no_person(perception, photo):
    (found,) = perception.objects.detect([photo("cat.jpg")])
    assert found[0].label == "cat"
    assert iou(found[0].box, Box(0, 0, 451, 300)) > 0.8
    assert "person" not in {item.label for item in found}


def test_there_are_80_coco_classes_in_order():
    assert len(set(COCO_CLASSES)) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[15], COCO_CLASSES[79]) == ("person", "cat", "toothbrush")


def test_objects_of_one_class_do_not_pile_up(perception, photo):
    for found in perception.objects.detect([photo("astronaut.jpg"), photo("coffee_note.jpg")]):
        same = [(a, b) for a in found for b in found if a is not b and a.label == b.label]
        assert all(iou(a.box, b.box) <= 0.6 for a, b in same)


def test_a_person_is_segmented_within_the_whole_frame(perception, photo):
    image = photo("president_b.jpg")
    box = Box(3, 140, 527, 802)
    mask = perception.persons.segment(image, box)
    assert mask.shape == image.shape[:2]
    assert mask.dtype == np.float32
    assert 0 <= mask.min() <= mask.max() <= 1
    assert mask[209:545, 175:393].mean() > 0.9  # the labelled face
    assert mask[:20].max() == 0  # above the grown box
    assert not perception.persons.segment(image, Box(-20, -20, 5, 5)).any()


def test_features_are_the_same_in_a_batch_and_alone(perception, photo):
    images = [photo(f"{name}.jpg") for name in ("cat", "coffee", "president_a")]
    together = perception.features.features(images)
    assert together.shape == (3, 1280)
    alone = np.concatenate([perception.features.features([image]) for image in images])
    assert together == pytest.approx(alone, abs=1e-3)
    assert perception.features.features([]).shape == (0, 1280)


def test_classes_are_those_of_imagenet(perception, photo):
    cat, coffee = perception.features.logits([photo("cat.jpg"), photo("coffee.jpg")]).argmax(axis=1)
    assert cat in range(281, 288)  # tabby ... Egyptian cat, and the wild ones
    assert coffee in (504, 925, 960, 967, 968)  # mug, consomme, chocolate sauce, espresso, cup


def test_the_perceptual_distance_is_0_for_equals_and_grows_with_the_edit(perception, photo):
    image = photo("president_a.jpg")
    mask = np.ones(image.shape[:2], np.float32)
    weak = redact(image, mask, "blur", 0.05)
    strong = redact(image, mask, "blur", 0.5)
    lpips = perception.perceptual
    same, little, much = lpips.distance([image] * 3, [image, weak, strong])
    assert same == pytest.approx(0, abs=1e-5)
    assert same < little < much


def test_perceptual_distances_come_in_the_order_of_the_pairs(photo):
    lpips = ShiftTolerantLpips(threads=2, long_side=96)
    images = [photo("cat.jpg"), photo("astronaut.jpg"), photo("cat.jpg")[:, ::-1]]
    others = [np.ascontiguousarray(image[::-1]) for image in images]
    together = lpips.distance(images, others)
    alone = [lpips.distance([a], [b])[0] for a, b in zip(images, others, strict=True)]
    assert together == pytest.approx(np.array(alone), abs=1e-4)
    assert lpips.distance([], []).shape == (0,)


def test_pairs_of_different_size_are_refused(photo):
    with pytest.raises(ValueError, match="differs in size"):
        ShiftTolerantLpips().distance([photo("cat.jpg")], [photo("coffee.jpg")])

"""Figures on labels of people: parity with scipy, and what tells diversity from privacy."""

from functools import cache

import numpy as np
import pytest
import torch
from metrics.pairs import Seen, noise, pair
from scipy.stats import entropy
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.records import Box
from unsafe2safe.data.synthetic import WORLDS, draw_scene, render
from unsafe2safe.data.synthetic.source import counterpart
from unsafe2safe.metrics.base import Metric, PairSample, SceneTruth
from unsafe2safe.metrics.demographics import (
    GroupEntropyPaper,
    GroupInformation,
    entropies,
    information_kept,
)
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.metrics.labels import ClassifierLabels
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.perception import Perception

READER = {"_target_": "unsafe2safe.metrics.labels.ReaderLabels", "attribute": "skin"}
ENTROPY, INFORMATION = GroupEntropyPaper(labels=READER), GroupInformation(labels=READER)
GROUPS = 5
CLASSES = ["White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian",
           "Middle Eastern"]  # fmt: skip


def entropy_of(per_image, samples=200):
    name = f"edited.labels_found.{ENTROPY.labeller.name}"
    found = [{name: np.array(labels, np.int64)} for labels in per_image]
    return ENTROPY.conclude(found, samples, np.random.default_rng(0))


def information_of(before, after, samples=200):
    name = INFORMATION.labeller.name
    found = [
        {
            f"original.labels.{name}": np.array(first, np.int64),
            f"edited.labels_in_place.{name}": np.array(second, np.int64),
        }
        for first, second in zip(before, after, strict=True)
    ]
    return INFORMATION.conclude(found, samples, np.random.default_rng(0))


def faces(count, seed=0):
    """Labels of ``count`` images with one or two people."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, GROUPS, 1 + index % 2) for index in range(count)]


def test_entropies_and_information_are_scipys():
    rng = np.random.default_rng(0)
    for _ in range(20):
        table = rng.integers(0, 9, (GROUPS, GROUPS)).astype(float)
        joint = table.ravel() / table.sum()
        before, after = table.sum(axis=1), table.sum(axis=0)
        independent = np.outer(before, after).ravel() / table.sum() ** 2
        assert entropies(table.ravel()) == pytest.approx(entropy(joint), abs=1e-9)
        expected = entropy(joint, independent) / entropy(before)
        assert information_kept(table) == pytest.approx(expected, abs=1e-9)


def test_race_entropy_is_over_the_logarithm_of_the_number_of_groups():
    labels = [[0, 1], [2, 2, 2], [4]]
    result = entropy_of(labels)
    expected = entropy(np.bincount(np.concatenate(labels), minlength=5)) / np.log(5)
    assert result.value == pytest.approx(expected, abs=1e-9)
    assert (result.n, result.n_not_applicable) == (6, 0)
    assert result.details["share of tan"] == 0.5
    assert sum(result.details.values()) == pytest.approx(1.0)
    low, high = result.interval
    assert 0.0 <= low < result.value
    assert high <= 1.0


def test_one_group_is_zero_and_nobody_is_not_applicable():
    assert entropy_of([[3], [3, 3]]).value == 0.0
    nobody = entropy_of([[], []])
    assert (nobody.value, nobody.n, nobody.n_not_applicable) == (None, 0, 2)
    half = entropy_of([[1], []])
    assert (half.n, half.n_not_applicable, half.interval) == (1, 1, None)


def test_an_exchange_of_groups_is_as_diverse_as_before_and_hides_nothing():
    before = faces(300)
    exchanged = [(labels + 2) % GROUPS for labels in before]
    assert entropy_of(exchanged).value == pytest.approx(entropy_of(before).value, abs=1e-12)
    assert entropy_of(exchanged).value > 0.95
    result = information_of(before, exchanged)
    assert result.value == pytest.approx(1.0)
    assert result.details["chance_high"] < 0.1


def test_labels_drawn_anew_are_at_chance():
    result = information_of(faces(300), faces(300, seed=1))
    assert result.n == 450
    assert result.value <= result.details["chance_high"]
    assert result.value == pytest.approx(result.details["chance"], abs=0.02)


def test_the_more_labels_are_drawn_anew_the_less_is_kept():
    before, other = faces(300), faces(300, seed=1)
    found = []
    for share in np.linspace(0, 1, 6):
        keep = np.random.default_rng(2)
        after = [
            np.where(keep.random(len(a)) < share, b, a) for a, b in zip(before, other, strict=True)
        ]
        result = information_of(before, after)
        low, high = result.interval
        assert low <= result.value <= high + 1e-12
        found.append(result.value)
    assert found == sorted(found, reverse=True)


def test_where_all_had_one_label_there_is_nothing_to_keep():
    result = information_of([[1], [1, 1]], [[0], [1, 2]])
    assert (result.value, result.n, result.n_not_applicable) == (None, 0, 3)


# -- labels of drawn people ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes():
    world = WORLDS["values"]
    return [
        counterpart(draw_scene(world, 5, index), world, 5, f"{index:08d}.png")
        for index in range(60)
    ]


def rows_of(scenes, pictures):
    truths = [SceneTruth(redrawn, [r.source for r in scenes]) for redrawn in scenes]
    return [
        PairSample(
            "x",
            Seen(pixels=render(truth.redrawn.source)),
            Seen(pixels=picture),
            np.zeros(picture.shape[:2], np.bool_),
            truth=truth,
        )
        for truth, picture in zip(truths, pictures, strict=True)
    ]


def measured(metric, samples):
    return metric.aggregate(metric.measure(samples), 50, np.random.default_rng(0))


def test_drawn_people_are_read_back(scenes):
    known = rows_of(scenes, [render(r.source) for r in scenes])
    identity = measured(INFORMATION, known)
    people = [person.skin for r in scenes for person in r.source.private.persons]
    assert identity.n == len(people)
    assert identity.value > 0.95
    counts = np.unique(people, return_counts=True)[1]
    spread = measured(ENTROPY, known)
    assert spread.value == pytest.approx(entropy(counts) / np.log(5), abs=0.03)
    redrawn = measured(INFORMATION, rows_of(scenes, [render(r.scene) for r in scenes]))
    grey = measured(INFORMATION, rows_of(scenes, [np.full((128, 128, 3), 127, np.uint8)] * 60))
    assert max(redrawn.value, grey.value) < 0.35 < identity.details["chance_high"] + 0.35
    assert INFORMATION.measure([pair(Seen([0]), Seen([0]))])[0].not_applicable == 1  # no scene


# -- labels of faces -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A ViT of the true class with random weights and the names of a classifier of faces."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            image_size=32, patch_size=8, id2label=dict(enumerate(CLASSES)),
            label2id={name: index for index, name in enumerate(CLASSES)},
        )
    )  # fmt: skip
    model.vit.embeddings.patch_embeddings.projection.weight.data *= 50.0  # else one class has all
    model.classifier.weight.data *= 50.0
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def chosen(folder, *overrides):
    given = [f"metrics.race_entropy_paper.labels.model={folder}", *overrides]
    settings = load("evaluate", ["metrics=[sets]", *given]).metrics
    return [
        build(settings[name], name, Metric) for name in ("race_entropy_paper", "race_information")
    ]


class WithFaces(ImageFeatures):
    def __init__(self, pixels, *boxes):
        super().__init__(pixels, perception())
        self.faces = [Face(box, 0.9, np.zeros((5, 2), np.float32)) for box in boxes]


def tinted(seed):
    return (noise(seed=seed) // 4 + np.random.default_rng(seed).integers(0, 192, 3)).astype(
        np.uint8
    )


@cache
def perception(*overrides):
    return Perception(load("evaluate", overrides).vision, 2)


def test_faces_are_sorted_into_the_papers_groups_as_the_model_says(classifier):
    spread, information = chosen(classifier)
    assert spread.unavailable() == information.unavailable() == ""
    assert spread.heading.endswith(": race")
    labels = spread.labeller
    assert labels.groups == ("White", "Black", "Asian", "Hispanic", "Other")
    assert labels._group_of_class.tolist() == [0, 1, 3, 2, 2, 4, 4]
    box = Box(4, 4, 24, 24)
    samples = [
        pair(WithFaces(tinted(i), box), WithFaces(tinted(i + 50), box, Box(20, 8, 20, 20)))
        for i in range(12)
    ]
    model = ViTForImageClassification.from_pretrained(classifier).eval()
    processor = ViTImageProcessor.from_pretrained(classifier)
    crops = [s.original.pixels[1:31, 1:31] for s in samples]  # grown by a quarter
    with torch.no_grad():
        logits = model(processor(crops, return_tensors="pt")["pixel_values"]).logits
    expected = labels._group_of_class[logits.argmax(dim=1).numpy()]
    assert len(set(expected.tolist())) > 1  # else this proves nothing
    before = np.concatenate([labels.before(sample) for sample in samples])
    assert before.tolist() == expected.tolist()
    assert measured(spread, samples).n == 24  # what is found in the edited images
    assert measured(information, samples).n == 12  # in the places of the originals' faces
    same = [pair(sample.original, sample.original) for sample in samples]
    assert measured(information, same).value == pytest.approx(1.0)


def test_a_vanished_face_is_in_no_group_and_its_place_is_still_looked_at(classifier):
    spread, information = chosen(classifier)
    samples = [pair(WithFaces(noise(), Box(4, 4, 24, 24)), WithFaces(noise(seed=1)))]
    result = measured(spread, samples)
    assert (result.value, result.n_not_applicable) == (None, 1)
    assert len(information.labeller.in_place(samples[0])) == 1
    nobody = [pair(WithFaces(noise()), WithFaces(noise(), Box(4, 4, 24, 24)))]
    assert measured(spread, nobody).n_not_applicable == 1


def test_what_is_missing_is_told(classifier, tmp_path):
    assert "no classifier of race is set" in chosen("''")[0].unavailable()
    told = chosen(tmp_path / "Anna")[0].unavailable()
    assert "no such folder" in told
    assert str(tmp_path) not in told
    narrow = ClassifierLabels(model=str(classifier), synonyms={"indian": "Other"})
    assert "class 'Latino_Hispanic' of the model is in no group" in narrow.unavailable()


def test_gender_is_inferred_only_where_it_is_allowed():
    def metric(*overrides):
        settings = load("evaluate", ["metrics=[gender]", *overrides]).metrics
        return build(settings["gender_information"], "x", Metric)

    assert "vision.gender=true" in metric().unavailable()
    assert "gender_information" not in load("evaluate").metrics
    allowed = metric("vision.gender=true")
    assert allowed.unavailable() == ""
    image = WithFaces(noise(), Box(4, 4, 24, 24))
    image.perception = perception("vision.gender=true")
    assert allowed.labeller.before(pair(image, image)).tolist() in ([0], [1])
    image.perception = perception()
    with pytest.raises(ValueError, match="gender"):
        allowed.labeller.before(pair(image, image))

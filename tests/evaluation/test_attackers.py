"""Attackers on drawn scenes, whose truth is known, and what they look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from metrics.pairs import Seen, noise, pair

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.randomness import generator
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.data.synthetic import Redrawn, draw_scene, render
from unsafe2safe.data.synthetic.source import SyntheticSource, world_named
from unsafe2safe.evaluation.attackers.attack import coarse, rank_one
from unsafe2safe.evaluation.attackers.attributes import AttributeInference
from unsafe2safe.evaluation.attackers.crops import EMBEDDING, crop_arrays
from unsafe2safe.evaluation.attackers.reconstruction import Reconstruction
from unsafe2safe.evaluation.attackers.reidentification import (
    AdaptiveReidentification,
    NaiveReidentification,
)
from unsafe2safe.evaluation.attackers.text import TextReadback
from unsafe2safe.metrics.base import Metric, PairSample, SceneTruth
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.perception import Perception

SCENES = 130  # with about 200 persons
NAIVE, PIXELS = NaiveReidentification(), NaiveReidentification(embedding="pixels")
ADAPTIVE = AdaptiveReidentification()

Edit = Callable[[Redrawn, np.ndarray], np.ndarray]


def scenes(count: int) -> list[Redrawn]:
    source = SyntheticSource(name="synthetic", size=count, seed=1)
    return [source.edit_of(record.image_id, 0).redrawn for record in source.records()]


def sample(name: str, redrawn: Redrawn, edited: np.ndarray, perception=None) -> PairSample:
    original = ImageFeatures(render(redrawn.source), perception)
    after = ImageFeatures(edited, perception)
    nothing = np.zeros(original.size, np.bool_)
    return PairSample(name, original, after, nothing, truth=SceneTruth(redrawn, ()))


def with_features(one: PairSample) -> dict[str, np.ndarray]:
    """Crops, with features that keep of the pixels what a random projection keeps."""
    arrays = dict(crop_arrays(one, 32, embedded=False))
    for side in ("original", "edited"):
        pixels = coarse(arrays[f"{side}.crops_32"])
        projection = np.random.default_rng(0).normal(size=(pixels.shape[1], 48))
        arrays[f"{side}.crops_32.{EMBEDDING}"] = (pixels @ projection).astype(np.float32)
    return arrays


def other_values(redrawn: Redrawn, index: int) -> np.ndarray:
    """The scene with each person's values those of a person of another scene."""
    donors = draw_scene(world_named("base"), 7, index).private.persons
    target = redrawn.scene
    persons = tuple(
        replace(donors[place % len(donors)], tag=person.tag)
        for place, person in enumerate(target.private.persons)
    )
    return render(replace(target, private=replace(target.private, persons=persons)))


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, np.ndarray]]]:
    pairs = scenes(SCENES)
    edits: dict[str, Callable[[int], np.ndarray]] = {
        "identity": lambda i: render(pairs[i].source),
        "unrelated": lambda i: render(pairs[(i + 1) % SCENES].source),
        "blur": lambda i: cv2.GaussianBlur(render(pairs[i].source), (0, 0), 2.0),
        "target": lambda i: render(pairs[i].scene),
        "independent": lambda i: other_values(pairs[i], i),
        "grey": lambda i: np.full((64, 64, 3), 127, np.uint8),
    }
    return {
        row: [with_features(sample(str(i), pairs[i], edit(i))) for i in range(SCENES)]
        for row, edit in edits.items()
    }


def attack(metric: Metric, found):
    return metric.conclude(found, 500, generator(0, "", 0, "attack"))


@pytest.mark.parametrize("metric", [NAIVE, PIXELS, ADAPTIVE])
def test_copies_are_recognised_and_strangers_are_not(rows, metric) -> None:
    copied, unrelated = attack(metric, rows["identity"]), attack(metric, rows["unrelated"])
    assert copied.value == 1.0
    assert copied.n == copied.details["identities"] >= 180
    assert copied.details["exact_interval"] == 1.0
    assert unrelated.value <= unrelated.details["chance_high"]
    assert unrelated.details["chance"] == pytest.approx(1 / unrelated.n, rel=0.4)
    assert unrelated.details["measurable"] == 1.0
    assert unrelated.details["half_width"] <= 0.05


def test_learning_from_edits_beats_the_naive_attack_on_a_blur(rows) -> None:
    naive, adaptive = attack(PIXELS, rows["blur"]), attack(ADAPTIVE, rows["blur"])
    assert adaptive.interval[0] > naive.interval[1]


def test_nobody_is_recognised_in_perfect_edits(rows) -> None:
    for metric in (NAIVE, PIXELS):
        found = attack(metric, rows["target"])
        assert found.value <= found.details["chance_high"]
    found = attack(ADAPTIVE, rows["independent"])
    assert found.value <= found.details["chance_high"]


def test_a_picture_without_anything_tells_nobody_apart(rows) -> None:
    for metric in (NAIVE, PIXELS):
        found = attack(metric, rows["grey"])
        assert found.value == pytest.approx(1 / found.n)  # all are taken for the same one
    assert attack(ADAPTIVE, rows["grey"]).value <= 1 / len(rows["grey"])


def test_equal_draws_give_equal_figures(rows) -> None:
    assert attack(ADAPTIVE, rows["blur"]) == attack(ADAPTIVE, rows["blur"])


def test_a_wide_interval_is_not_measurable_and_a_small_set_not_attacked(rows) -> None:
    few = attack(PIXELS, rows["blur"][:12])
    assert few.details["half_width"] > 0.05
    assert few.details["measurable"] == 0.0
    none = attack(ADAPTIVE, rows["blur"][:3])
    assert none.value is None
    assert none.n_not_applicable == none.details["identities"] >= 3


def test_of_a_large_set_some_identities_are_drawn(rows) -> None:
    few = NaiveReidentification(most_identities=50)
    assert 45 <= attack(few, rows["identity"]).n <= 50


def test_ties_share_the_rank() -> None:
    credit, hits = rank_one(np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]))
    assert hits.tolist() == [0.5, 1.0, 0.0]
    assert credit.sum(axis=1).tolist() == [1.0, 1.0, 1.0]


def surroundings_changed(redrawn: Redrawn, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops of a scene, and of the same people elsewhere, among other things."""
    source = redrawn.source
    elsewhere = "beach" if source.public.place != "beach" else "office"
    moved = replace(source.public.thing, color="gray", kind="lamp")
    public = replace(source.public, place=elsewhere, clutter=99, thing=moved)
    private = source.private
    persons = tuple(p if p.tag is None else replace(p, tag="") for p in private.persons)
    other = replace(source, public=public, private=replace(private, persons=persons))
    found = []
    for scene in (source, other):
        features = ImageFeatures(render(scene, side), None)
        one = PairSample("x", features, features, np.zeros((side, side), np.bool_))
        one = replace(one, truth=SceneTruth(redrawn, ()))
        found.append(crop_arrays(one, 32, embedded=False)["edited.crops_32"])
    return found[0], found[1]


@pytest.mark.parametrize("side", [64, 256])
def test_crops_of_scenes_hold_nothing_of_the_surroundings(side) -> None:
    for redrawn in scenes(40):
        here, there = surroundings_changed(redrawn, side)
        assert np.array_equal(here, there)
        assert (here != 127).any(axis=(1, 2, 3)).all()


def test_crops_of_photographs_hold_the_ellipse_of_each_face() -> None:
    first, second = noise(seed=1), noise(seed=2)
    second[0:10, 0:10] = first[0:10, 0:10]  # the box of the face at place 0
    before = Seen(people=(0,), pixels=first)
    crops = [
        crop_arrays(pair(before, Seen(pixels=pixels)), 32, embedded=False)["edited.crops_32"]
        for pixels in (first, second)
    ]
    inner = (slice(None), slice(4, 28), slice(4, 28))
    assert np.array_equal(crops[0][inner], crops[1][inner])
    assert (crops[0][:, 0, 0] == 127).all()
    assert (crops[0][:, 16, 16] != 127).any()
    assert NAIVE.expected(pair(before, None)) == 1
    assert NAIVE.measure([pair(Seen(), Seen())])[0].not_applicable == 1
    assert NAIVE.measure([pair(before, None)])[0].missing == 1


@pytest.fixture(scope="module")
def perception() -> Perception:
    config = load("evaluate", [])
    assert isinstance(config, Evaluate)
    return Perception(config.vision, 1)


@pytest.mark.slow
def test_a_restorer_undoes_part_of_a_blur(perception) -> None:
    metric = Reconstruction(epochs=70, batch_size=16)
    pairs = scenes(32)
    edited = [cv2.GaussianBlur(render(one.source), (0, 0), 1.2) for one in pairs]
    samples = [
        sample(str(i), one, pixels, perception)
        for i, (one, pixels) in enumerate(zip(pairs, edited, strict=True))
    ]
    found = attack(metric, metric.arrays(samples))
    assert found.details["psnr_gain"] > 2.0
    assert found.value > found.details["naive"]


def attributes(rows, row: str, *names: str):
    metric = AttributeInference(attributes=names)
    pairs = scenes(SCENES)
    samples = [sample(str(i), pairs[i], render(pairs[i].source)) for i in range(SCENES)]
    targets = [_targets(one) for one in samples]
    found = [{**arrays, "original.attributes": values} for arrays, values in
             zip(rows[row], targets, strict=True)]  # fmt: skip
    return attack(metric, found)


def _targets(one: PairSample) -> np.ndarray:
    from unsafe2safe.evaluation.attackers import attributes as module

    return module._targets(one)


def test_attributes_are_inferred_from_copies_and_not_from_independent_edits(rows) -> None:
    copied = attributes(rows, "identity", "skin", "clothing")
    assert copied.value > 0.8 > copied.details["chance_high"]
    assert copied.details["before"] == copied.value  # the same crops, the same probes
    assert {"skin", "skin.before", "skin.chance", "skin.chance_high"} <= set(copied.details)
    safe = attributes(rows, "independent", "skin", "clothing")
    assert safe.value <= safe.details["chance_high"]
    assert safe.details["before"] == copied.value
    grey = attributes(rows, "grey", "skin", "clothing")
    assert grey.value <= grey.details["chance_high"]  # nothing to learn from: the commonest value


def test_a_value_that_always_changes_into_the_other_is_told_by_it(rows) -> None:
    found = attributes(rows, "target", "glasses")
    assert found.value == 1.0 > found.details["chance_high"]


def test_gender_is_inferred_of_photographs_where_it_was_asked_for() -> None:
    metric = AttributeInference()
    seen = Seen(people=(0,))
    seen.perception = SimpleNamespace(settings=SimpleNamespace(gender=False))
    assert metric.expected(pair(seen, None)) == 0
    seen.perception = SimpleNamespace(settings=SimpleNamespace(gender=True))
    assert metric.expected(pair(seen, None)) == 1
    with pytest.raises(ValueError, match="'hair_colour' cannot be inferred"):
        AttributeInference(attributes=("hair_colour",))


def test_letters_of_scenes_are_read_back_from_copies_only() -> None:
    metric = TextReadback()
    pairs = scenes(40)
    results = {}
    for row, edit in (("copy", lambda r: r.source), ("target", lambda r: r.scene)):
        samples = [sample(str(i), one, render(edit(one))) for i, one in enumerate(pairs)]
        scores = metric.measure(samples)
        results[row] = metric.aggregate(scores, 300, generator(0, "", 0, "text"))
    copied, target = results["copy"], results["target"]
    assert copied.value > 0.95
    assert copied.n >= 40
    assert target.value <= target.details["chance_high"] < 0.2
    assert copied.n_not_applicable > 0  # scenes without letters


@pytest.mark.slow
def test_texts_of_photographs_are_read_back_enlarged(perception) -> None:
    pixels = decode_file(photos_folder() / "coffee_note.jpg", "coffee_note.jpg").pixels
    pixels = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    original = ImageFeatures(pixels, perception)
    metric = TextReadback(scales=(2.0,))
    hidden = cv2.GaussianBlur(pixels, (0, 0), 15)
    found = {}
    for name, edited in (("copy", pixels), ("hidden", hidden)):
        found[name] = metric.arrays([pair(original, ImageFeatures(edited, perception))])[0]
    copied = attack(metric, [found["copy"]] * 2)
    assert copied.n == 2 * len(original.lines) >= 2
    assert copied.value > 0.9
    assert attack(metric, [found["hidden"]] * 2).value == 0.0
    # what is read in one picture is no hit for the other
    texts = [np.frombuffer(text, np.uint8) for text in (b'["Erika"]', b'["Mustermann"]')]
    read = [{"original.lines": one, "edited.lines_enlarged_2": one} for one in texts]
    swapped = [
        {**one, "original.lines": other} for one, other in zip(read, reversed(texts), strict=True)
    ]
    assert attack(metric, read).value == 1.0
    assert attack(metric, swapped).value == 0.0
    assert attack(metric, read).details["chance"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_attacks_by_the_real_features_on_two_hundred_identities(perception) -> None:
    pairs = scenes(SCENES)
    edits: dict[str, Callable[[int], np.ndarray]] = {
        "identity": lambda i: render(pairs[i].source),
        "unrelated": lambda i: render(pairs[(i + 1) % SCENES].source),
        "blur": lambda i: cv2.GaussianBlur(render(pairs[i].source), (0, 0), 1.0),
        "independent": lambda i: other_values(pairs[i], i),
    }
    found = {}
    for row, edit in edits.items():
        samples = [sample(str(i), pairs[i], edit(i), perception) for i in range(SCENES)]
        arrays = NAIVE.arrays(samples)
        found[row] = [attack(metric, arrays) for metric in (NAIVE, PIXELS, ADAPTIVE)]
    assert all(one.value == 1.0 for one in found["identity"])
    for row in ("unrelated", "independent"):
        for one in found[row]:
            assert one.value <= one.details["chance_high"]
            assert one.details["measurable"] == 1.0
    naive, pixels, adaptive = found["blur"]
    assert adaptive.interval[0] > pixels.interval[1] > naive.interval[1]

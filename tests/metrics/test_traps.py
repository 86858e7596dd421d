"""One test for each trap that figures of this field fall into; the metrics' own tests say more."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from metrics.pairs import Seen, box_mask, noise, pair, plain_pair
from PIL import Image

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.metrics.base import Captions, Metric, SetMetric
from unsafe2safe.metrics.clip import DirectionalClip
from unsafe2safe.metrics.faces import FaceSim, FaceSimPaper, FacesVanished
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.metrics.reidentification import ReidentificationRank1
from unsafe2safe.metrics.structure import Ssim
from unsafe2safe.metrics.text import TextLeakRecall, TextSimPaper
from unsafe2safe.vision.arrays import resized
from unsafe2safe.vision.perception import Perception


@cache
def perception():
    return Perception(load("evaluate").vision, 2)


@cache
def metrics():
    """All that can be measured here."""
    settings = load("evaluate", ["metrics=[default,sets,scenes]"]).metrics
    built = {name: build(entry, name, Metric) for name, entry in settings.items()}
    return {name: metric for name, metric in built.items() if not metric.unavailable()}


def score(metric, original, edited, mask=None):
    return metric.measure([pair(original, edited, mask)])[0]


def concluded(metric, *samples):
    return metric.aggregate(metric.measure(samples), 50, np.random.default_rng(0))


def small(pixels):
    return resized(pixels, pixels.shape[0] // 2, pixels.shape[1] // 2)


@cache
def portrait():
    pixels = decode_file(photos_folder() / "president_a.jpg", "x").pixels
    return ImageFeatures(small(pixels), perception())


def test_vanished_face():
    """Perfect removal must earn something, and a failed detector must hide no leak."""
    removed = Seen([], in_place=[None])
    assert score(FaceSimPaper(), Seen([0]), removed).not_applicable == 1  # the trap
    assert score(FaceSim(), Seen([0]), removed).values == (0.0,)
    assert score(FacesVanished(), Seen([0]), removed).values == (1.0,)
    for others in ([], [7]):  # nobody found, or somebody else only
        overlooked = Seen(others, in_place=[0])
        assert score(FaceSim(), Seen([0]), overlooked).values == (1.0,)


def test_no_text():
    """Nothing to leak is neither 0 nor 1, whatever the edit wrote."""
    for metric in (TextLeakRecall(), TextSimPaper()):
        for after in ([], ["NEW SIGN"]):
            assert score(metric, Seen(), Seen(texts=after)).not_applicable == 1


def test_empty_text():
    """Text that is gone is a leak of 0; and a line of nothing is no leak."""
    for metric in (TextLeakRecall(), TextSimPaper()):
        assert score(metric, Seen(texts=["LOST CAT"]), Seen()).values == (0.0,)
    assert score(TextLeakRecall(), Seen(texts=["..."]), Seen(texts=["..."])).values == (0.0,)


def test_subset_text():
    before, after = Seen(texts=["STOP main street 42"]), Seen(texts=["STOP"])
    assert score(TextSimPaper(), before, after).values == (1.0,)  # the trap
    assert score(TextLeakRecall(), before, after).values == (0.0,)
    assert score(TextLeakRecall(), after, before).values == (1.0,)  # the whole is in there


def test_case_of_text():
    before, after = Seen(texts=["ANNA WEBER"]), Seen(texts=["anna weber"])
    assert score(TextSimPaper(), before, after).values[0] < 0.5  # the trap
    assert score(TextLeakRecall(), before, after).values == (1.0,)


def test_one_person():
    """A gallery of one identity finds it whatever it is shown."""
    result = concluded(ReidentificationRank1(), pair(Seen([0]), Seen([], in_place=[None])))
    assert (result.value, result.n, result.n_not_applicable) == (None, 0, 1)


def test_swapped_channels():
    """BGR for RGB is another face; the loader gives RGB."""
    path = photos_folder() / "astronaut.jpg"
    loaded = decode_file(path, "x").pixels.astype(int)
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(loaded - rgb).mean() < 2 < 20 < np.abs(loaded[..., ::-1] - rgb).mean()
    swapped = ImageFeatures(np.ascontiguousarray(portrait().pixels[..., ::-1]), perception())
    assert len(portrait().faces) == 1
    (found,) = score(FaceSim(), portrait(), swapped).values
    (same,) = score(FaceSim(), portrait(), portrait()).values
    assert same == 1.0
    assert found < 0.9


@pytest.mark.parametrize("size", [(6, 40), (40, 6), (3, 3), (1, 1)])
def test_images_under_7_pixels(size):
    """No metric fails on them, and SSIM does not apply."""
    original, edited = (Seen(pixels=noise(*size, seed=seed)) for seed in (0, 1))
    original.perception = edited.perception = perception()
    sample = pair(original, edited, np.ones(size, np.bool_))
    assert Ssim().measure([sample])[0].not_applicable == 1
    for name, metric in metrics().items():
        found = metric.measure([sample])[0]
        assert found.missing == 0, name
        assert np.isfinite(found.values).all(), name


def test_sizes_that_differ():
    """Pairs are brought to the original's size before; a metric that got others would say so."""
    with pytest.raises(ValueError, match=r"broadcast|shape|size"):
        Ssim().measure([plain_pair(noise(40, 56), noise(20, 28))])


def test_missing_pair():
    """What should have been measured is missing, in every metric that applies."""
    original = Seen([0, 1], ["a sign"], pixels=noise())
    due = {"face": 2, "text": 1, "image": 1}
    for name, metric in metrics().items():
        found = metric.measure([pair(original, None, box_mask())])[0]
        if name.startswith("skin"):  # no scene
            assert found.not_applicable == 1
        else:
            assert (found.values, found.missing) == ((), due[metric.unit]), name


def test_no_face_anywhere():
    for name, metric in metrics().items():
        if metric.unit == "face":
            result = concluded(metric, pair(Seen(), Seen()), pair(Seen(), Seen([3], in_place=[])))
            assert (result.value, result.n, result.n_not_applicable) == (None, 0, 2), name
            assert result.interval is None, name


def test_nothing_at_all():
    """A row without images has no figures and breaks nothing."""
    for name, metric in metrics().items():
        result = metric.aggregate([], 50, np.random.default_rng(0))
        assert (result.value, result.n, result.interval) == (None, 0, None), name


def test_equal_captions():
    """They tell no direction."""
    sample = replace(plain_pair(noise(), noise(seed=1)), captions=Captions("a cat", "a cat"))
    assert DirectionalClip().expected(sample) == 0


def test_arrays_that_serve_all_rows_depend_on_the_original_alone():
    """They are kept once: a row's own would overwrite another's."""
    original = Seen([0, 1], pixels=noise())
    rows = [Seen([5], pixels=noise(seed=s), in_place=[None, 4]) for s in (1, 2)]
    for image in (original, *rows):
        image.perception = perception()
    for name, metric in metrics().items():
        if isinstance(metric, SetMetric) and not name.startswith("skin"):
            first, second = (metric.measure([pair(original, row)])[0].arrays for row in rows)
            shared = [key for key in first if key.startswith("original.")]
            assert shared, name
            assert all(np.array_equal(first[key], second[key]) for key in shared), name

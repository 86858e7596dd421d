"""KID's and FID's formulas, and what they are on features of images."""

import weakref
from collections.abc import Mapping
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from metrics.pairs import pair
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from unsafe2safe.core.config.compose import load
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.metrics.distributions import (
    FidEfficientNet,
    FidInception,
    KidEfficientNet,
    KidInception,
    frechet_distance,
    kernel_distance,
)
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.perception import Perception

KID, FID = KidEfficientNet(), FidEfficientNet()


def features(count, size=24, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(shift, 1.0, (count, size)) ** 2


def found(before, after):
    name = "efficientnet_lite0"
    return [
        {f"original.{name}": first, f"edited.{name}": second}
        for first, second in zip(before, after, strict=True)
    ]


def conclude(metric, before, after, samples=200):
    return metric.conclude(found(before, after), samples, np.random.default_rng(0))


@pytest.mark.parametrize("count", [2, 7, 700])
def test_kid_is_torchmetrics(count):
    before, after = features(count), features(count, shift=0.4, seed=1)
    value, apart = kernel_distance(before, after)
    expected = poly_mmd(torch.from_numpy(before), torch.from_numpy(after))
    assert value == pytest.approx(float(expected), abs=1e-4, rel=1e-6)
    name = "inception_v3"
    published = [
        {f"original.{name}": first, f"edited.{name}": second}
        for first, second in zip(before, after, strict=True)
    ]
    result = KidInception().conclude(published, 50, np.random.default_rng(0))
    assert result.value == pytest.approx(value)
    assert conclude(KID, before, after).details == pytest.approx(result.details)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j][:5000]
    if count < 100:
        k = [[(x @ y / 24 + 1) ** 3 for y in (*before, *after)] for x in (*before, *after)]
        terms = [k[i][j] + k[count + i][count + j] - 2 * k[i][count + j] for i, j in pairs]
        assert apart[-1] == pytest.approx(np.mean(terms))


@pytest.mark.parametrize("count", [3, 20, 24, 90])  # fewer images than features, and more
def test_fid_is_torchmetrics(count):
    before, after = features(count), features(count, shift=0.4, seed=1)
    tensors = [torch.from_numpy(part) for part in (before, after)]
    moments = [value for x in tensors for value in (x.mean(dim=0), torch.cov(x.T))]
    expected = float(_compute_fid(moments[0], moments[1], moments[2], moments[3]))
    assert frechet_distance(before, after) == pytest.approx(expected, abs=1e-4)
    assert conclude(FID, before, after).value == pytest.approx(expected, abs=1e-4)


def _moments(rows):
    tensor = torch.from_numpy(rows)
    return tensor.mean(dim=0), torch.cov(tensor.T)


@pytest.mark.parametrize(("counts"), [(700, 700), (700, 10), (10, 700), (300, 600)])
def test_fid_of_sets_unlike_in_size_and_of_features_that_depend_on_each_other(counts):
    before, after = (features(count, shift=0.4 * i, seed=i) for i, count in enumerate(counts))
    before[:, 5] = before[:, 3] - 2.0 * before[:, 4]
    after[:, [0, 9]] = 7.0
    expected = float(_compute_fid(*_moments(before + 100.0), *_moments(after + 100.0)))
    assert frechet_distance(before + 100.0, after + 100.0) == pytest.approx(expected, abs=1e-4)


class Once(Mapping):
    """An image's arrays that count how often and how many at a time are held."""

    held = most = 0

    def __init__(self, values):
        self._values = values

    def __getitem__(self, name):
        found = self._values[name].copy()
        Once.held += 1
        Once.most = max(Once.most, Once.held)
        weakref.finalize(found, Once.gone)
        return found

    @staticmethod
    def gone():
        Once.held -= 1

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)


@pytest.mark.parametrize("metric", [KID, FID])
def test_features_of_a_few_images_at_a_time_are_in_memory(metric):
    before, after = features(1000), features(1000, shift=0.5, seed=1)
    expected = conclude(metric, before, after)
    Once.held = Once.most = 0
    kept = [Once(arrays) for arrays in found(before, after)]
    assert metric.conclude(kept, 200, np.random.default_rng(0)) == expected
    assert 0 < Once.most < 400


@pytest.mark.parametrize("metric", [KID, FID])
def test_fewer_than_two_images_have_no_distance(metric):
    result = conclude(metric, features(1), features(1, seed=1))
    assert (result.value, result.n, result.n_not_applicable) == (None, 0, 1)
    assert metric.aggregate([], 10, np.random.default_rng(0)).value is None
    assert conclude(metric, features(2), features(2, seed=1)).value is not None


def test_equal_sets_are_at_zero():
    same = features(60)
    assert conclude(FID, same, same).value == pytest.approx(0.0, abs=1e-9)
    kid = conclude(KID, same, same)
    assert kid.value == pytest.approx(0.0, abs=1e-9)
    assert kid.interval == pytest.approx((0.0, 0.0), abs=1e-9)
    assert kid.details["as_published"] < 0.0  # it takes the sets for independent


def test_the_interval_of_kid_holds_the_truth_as_often_as_it_says():
    def draw(rng, count):
        return rng.normal(0, 1, (count, 8)), rng.normal(0.5, 1, (count, 8))

    truth = np.mean([kernel_distance(*draw(np.random.default_rng(s), 1500))[0] for s in range(4)])
    inside = 0
    for seed in range(60):
        result = conclude(KID, *draw(np.random.default_rng(100 + seed), 40))
        inside += result.interval[0] <= truth <= result.interval[1]
    assert inside >= 48  # of 60; 57 expected


def test_the_interval_of_fid_holds_its_value_and_narrows_with_the_set():
    widths = []
    for count in (40, 400):
        result = conclude(FID, features(count), features(count, shift=0.5, seed=1))
        low, high = result.interval
        assert low < result.value < high
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]
    assert conclude(FID, features(19), features(19, seed=1)).interval is None


def test_fid_says_that_it_is_biased_on_small_sets():
    assert conclude(FID, features(30), features(30, seed=1)).details["biased"] == 1.0
    assert "biased" in FID.definition
    assert "5,000" in FID.definition
    small = conclude(FID, features(30), features(30, seed=1)).value
    large = conclude(FID, features(3000), features(3000, seed=1)).value
    assert small > 3 * large  # of one distribution


def test_of_many_images_so_many_are_drawn_as_the_config_says():
    before, after = features(50), features(50, seed=1)
    result = conclude(KidEfficientNet(most=20), before, after)
    assert result.n == 20
    assert conclude(KidEfficientNet(most=20), before, after) == result


@cache
def perception():
    return Perception(load("evaluate").vision, 2)


@pytest.fixture(scope="module")
def photographs():
    names = ["astronaut.jpg", "cat.jpg", "coffee.jpg", "president_a.jpg"]
    return [
        ImageFeatures(decode_file(photos_folder() / name, name).pixels, perception())
        for name in names
    ]


def test_more_blur_is_a_greater_distance(photographs):
    values = {KID: [], FID: []}
    for sigma in (1.0, 4.0, 16.0):
        samples = [
            pair(one, ImageFeatures(cv2.GaussianBlur(one.pixels, (0, 0), sigma), perception()))
            for one in photographs
        ]
        for metric, told in values.items():
            scores = metric.measure(samples)
            told.append(metric.aggregate(scores, 10, np.random.default_rng(0)).value)
    for told in values.values():
        assert told == sorted(told)
        assert told[0] < 0.5 * told[-1]


def test_an_originals_features_serve_every_row_and_both_metrics(photographs, monkeypatch):
    counted = []
    real = perception().features.features
    monkeypatch.setattr(
        perception().features, "features", lambda images: counted.extend(images) or real(images)
    )
    one = ImageFeatures(photographs[0].pixels, perception())
    rows = [pair(one, ImageFeatures(one.pixels // divisor, perception())) for divisor in (2, 3)]
    for row in rows:
        for metric in (KID, FID):
            metric.measure([row])
    assert len(counted) == 3
    assert KID.measure(rows)[0].arrays.keys() == FID.measure(rows)[0].arrays.keys()


def test_a_missing_pair_is_missing(photographs):
    scores = KID.measure([pair(photographs[0], None)])
    assert (scores[0].missing, scores[0].arrays) == (1, {})


# -- Inception -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """torch-fidelity's network with random weights, and the file that holds them."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(NoTrainInceptionV3, "load_state_dict", lambda *_: None)
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
    torch.save(network.state_dict(), path)
    return network, path


def test_inceptions_features_are_torchmetrics(random_inception):
    network, path = random_inception
    metric = KidInception(weights=str(path))
    assert metric.unavailable() == ""
    images = [np.random.default_rng(i).integers(0, 256, (60 + i, 40, 3), np.uint8) for i in (0, 1)]
    samples = [
        pair(ImageFeatures(i, perception()), ImageFeatures(i // 2, perception())) for i in images
    ]
    arrays = [score.arrays for score in metric.measure(samples)]
    for image, made in zip(images, arrays, strict=True):
        for side, pixels in (("original", image), ("edited", image // 2)):
            tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
            expected = network(tensor)[0].numpy()
            assert np.abs(made[f"{side}.inception_v3"] - expected).max() < 1e-4


class Evil:
    def __reduce__(self):
        return (eval, ("open('pwned', 'w')",))


def test_weights_that_are_missing_damaged_or_code_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "not among the checkpoints" in FidInception().unavailable()
    assert "no file gone.pth" in FidInception(weights=str(tmp_path / "gone.pth")).unavailable()
    torch.save({"conv": Evil()}, tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("no tensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    for name, told in (
        ("code.pth", "cannot be read"), ("text.pth", "cannot be read"), ("other.pth", "is not"),
    ):  # fmt: skip
        said = FidInception(weights=str(tmp_path / name)).unavailable()
        assert told in said
        assert str(tmp_path) not in said
    assert not (tmp_path / "pwned").exists()

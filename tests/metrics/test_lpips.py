"""LPIPS on VGG-16: what torchmetrics computes, with weights that lie in a file."""

import numpy as np
import pytest
import torch
from metrics.pairs import box_mask, noise, plain_pair
from torchmetrics.functional.image.lpips import _NoTrainLpips

from unsafe2safe.metrics.perceptual import Lpips, LpipsInside, LpipsOutside


@pytest.fixture(scope="module")
def random_vgg(tmp_path_factory):
    """A network of the true class with random VGG weights, and the file that holds these."""
    torch.manual_seed(0)
    network = _NoTrainLpips(net="vgg", pnet_rand=True)
    tensors = {
        "features." + name.split(".", 2)[2]: tensor
        for name, tensor in network.state_dict().items()
        if name.startswith("net.slice")
    }
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({**tensors, "classifier.6.bias": torch.zeros(1000)}, path)
    return network, path


def measured(metric, *samples):
    return [score.values[0] for score in metric.measure(samples)]


def test_lpips_is_torchmetrics_with_the_weights_of_the_file(random_vgg):
    network, path = random_vgg
    metric = Lpips(weights=str(path))
    assert metric.unavailable() == ""
    pairs = [(noise(48, 64, seed=i), noise(48, 64, seed=i + 9)) for i in range(3)]
    pairs.append((noise(40, 40), noise(40, 40, seed=1)))  # another size in the batch
    found = measured(metric, *(plain_pair(*images) for images in pairs))
    for images, value in zip(pairs, found, strict=True):
        first, second = (
            torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in images
        )
        assert value == pytest.approx(float(network(first, second)), abs=1e-5)
    assert len({round(value, 7) for value in found}) == 4


def test_each_part_owns_its_change_and_the_network_is_built_once(random_vgg):
    _, path = random_vgg
    original, mask = noise(64, 64), box_mask(64, 64)
    inside = np.where(mask[..., None], 0, original).astype(np.uint8)
    metrics = [kind(weights=str(path)) for kind in (Lpips, LpipsInside, LpipsOutside)]
    assert len({id(metric._network) for metric in metrics}) == 1
    whole, within, without = (
        measured(metric, plain_pair(original, inside, mask))[0] for metric in metrics
    )
    assert whole == within > 0.0
    assert without == 0.0
    assert measured(metrics[0], plain_pair(original, original.copy(), mask)) == [0.0]


def test_images_longer_than_the_setting_are_reduced(random_vgg):
    _, path = random_vgg
    large = [np.repeat(np.repeat(noise(40, 40, seed=s), 3, axis=0), 3, axis=1) for s in (0, 1)]
    reduced = measured(Lpips(weights=str(path), long_side=40), plain_pair(*large))[0]
    small = measured(Lpips(weights=str(path)), plain_pair(noise(40, 40), noise(40, 40, seed=1)))[0]
    assert reduced == pytest.approx(small, abs=1e-5)


def test_weights_that_are_missing_or_of_another_network_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert "vgg16-397923af.pth is not among the checkpoints" in Lpips().unavailable()
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    assert "no VGG-16" in Lpips(weights=str(tmp_path / "other.pth")).unavailable()

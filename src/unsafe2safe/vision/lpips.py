"""LPIPS (Zhang et al. 2018) on VGG-16, as torchmetrics computes it, its network built once."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np

from unsafe2safe.core.devices import checked_device
from unsafe2safe.core.errors import UsageError
from unsafe2safe.vision.arrays import FloatArray, RgbImage, bounded, resized
from unsafe2safe.vision.local_weights import load_tensors, local_weights

log = logging.getLogger("unsafe2safe")

VGG16 = "vgg16-397923af.pth"  # torchvision's, trained on ImageNet
_BATCH = 4
_LEAST_SIDE = 32  # below, the network's pooling leaves nothing


class VggLpips:
    """Distances of pairs of images.

    ``weights`` is a file with torchvision's VGG-16, None the one in torch's hub folder; the small
    linear layers on top come with torchmetrics.
    """

    def __init__(self, weights: str | None, device: str = "cpu") -> None:
        self.weights, self.device = weights, device

    @cached_property
    def _network(self) -> Any:
        # the public class would fetch VGG-16 from the network
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        path = local_weights(self.weights, VGG16)
        tensors = load_tensors(path)
        if not {"features.0.weight", "features.28.weight"} <= tensors.keys():
            raise UsageError(f"weights: {path.name} is no VGG-16 of torchvision")
        network = _NoTrainLpips(net="vgg", pnet_rand=True)
        stages = {  # 'net.slice2.5.weight' is what torchvision calls 'features.5.weight'
            name: tensors[f"features.{name.split('.', 2)[2]}"]
            for name in network.state_dict()
            if name.startswith("net.slice")
        }
        try:
            network.load_state_dict(stages, strict=False)
        except RuntimeError:
            raise UsageError(f"weights: {path.name} is a network of other sizes") from None
        log.info("loaded model LPIPS, VGG-16 (%s)", self.device)
        return network.to(checked_device(self.device, "device"))

    def load(self) -> None:
        """Load the network now.

        Raises:
            UsageError: its weights or the device are missing.
        """
        _ = self._network

    def distance(
        self, images: Sequence[RgbImage], others: Sequence[RgbImage], long_side: int
    ) -> FloatArray:
        """(N,) distances of the pairs; the two of a pair have one size, (H, W, 3) uint8 RGB.

        Images longer than ``long_side`` pixels are reduced first.
        """
        import torch

        distances = np.zeros(len(images), np.float32)
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        pairs = []
        for index, (image, other) in enumerate(zip(images, others, strict=True)):
            pairs.append((_prepared(image, long_side), _prepared(other, long_side)))
            groups[pairs[-1][0].shape].append(index)
        for members in groups.values():
            for start in range(0, len(members), _BATCH):
                chunk = members[start : start + _BATCH]
                first, second = (
                    torch.from_numpy(np.stack([pairs[index][side] for index in chunk])).to(
                        self.device
                    )
                    for side in (0, 1)
                )
                with torch.inference_mode():
                    found = self._network(first, second).flatten()
                distances[chunk] = found.float().cpu().numpy()
        return distances


def _prepared(image: RgbImage, long_side: int) -> FloatArray:
    """(3, H, W) in [-1, 1]."""
    image = bounded(image, long_side)
    height, width = (max(side, _LEAST_SIDE) for side in image.shape[:2])
    pixels = resized(image, height, width).astype(np.float32)
    return pixels.transpose(2, 0, 1) / 127.5 - 1


@cache
def vgg_lpips(weights: str | None, device: str) -> VggLpips:
    """The one network of these settings in this process."""
    return VggLpips(weights, device)

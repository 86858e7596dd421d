"""Features of the Inception-v3 that FID and KID are defined on (by torch-fidelity)."""

from __future__ import annotations

import importlib.util
import io
import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np

from unsafe2safe.core.devices import checked_device
from unsafe2safe.core.errors import UsageError
from unsafe2safe.vision.arrays import FloatArray, RgbImage
from unsafe2safe.vision.local_weights import load_tensors, local_weights, weights_version

log = logging.getLogger("unsafe2safe")

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity publishes it
_BATCH = 16


class InceptionFeatures:
    """The 2048 numbers before the last layer, with torchmetrics' resizing to 299 x 299.

    ``weights`` is torch-fidelity's file, None the one in torch's hub folder.
    """

    def __init__(self, weights: str | None, device: str = "cpu") -> None:
        self.weights, self.device = weights, device

    @cached_property
    def _network(self) -> Any:
        if importlib.util.find_spec("torch_fidelity") is None:
            raise UsageError("torch-fidelity is missing: pip install 'unsafe2safe[inception]'")
        import torch
        from torchmetrics.image.fid import NoTrainInceptionV3

        path = local_weights(self.weights, INCEPTION)
        # torch-fidelity would run whatever the file's pickle says: it is given tensors alone
        checked = io.BytesIO()
        torch.save(load_tensors(path), checked)
        checked.seek(0)
        try:
            network = NoTrainInceptionV3(
                "inception-v3-compat",
                ["2048"],
                checked,  # type: ignore[arg-type]  # handed to torch.load
            )
        except RuntimeError:
            raise UsageError(f"weights: {path.name} is not torch-fidelity's Inception-v3") from None
        log.info("loaded model Inception-v3 (%s)", self.device)
        return network.to(checked_device(self.device, "device"))

    def load(self) -> None:
        """Load the network now.

        Raises:
            UsageError: a library, its weights or the device are missing.
        """
        _ = self._network

    @cached_property
    def version(self) -> str:
        """Tells these features from other weights'."""
        return f"inception_v3 {weights_version(self._network, self.device)}"

    def features(self, images: Sequence[RgbImage]) -> FloatArray:
        """(N, 2048) of images (H, W, 3) uint8 RGB of any sizes."""
        import torch

        found = np.zeros((len(images), 2048), np.float32)
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            groups[image.shape].append(index)
        for members in groups.values():
            for start in range(0, len(members), _BATCH):
                chunk = members[start : start + _BATCH]
                pixels = np.stack([images[index] for index in chunk]).transpose(0, 3, 1, 2)
                batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
                with torch.inference_mode():
                    found[chunk] = self._network(batch).float().cpu().numpy()
        return found


@cache
def inception_features(weights: str | None, device: str) -> InceptionFeatures:
    """The one network of these settings in this process."""
    return InceptionFeatures(weights, device)

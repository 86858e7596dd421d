"""Classes of image crops by a classifier of the transformers library."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unsafe2safe.core.devices import checked_device
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.pretrained import load
from unsafe2safe.vision.arrays import RgbImage

log = logging.getLogger("unsafe2safe")

_BATCH = 16


class ImageClasses:
    """A model for image classification from a hub id in the local cache, or a local folder."""

    def __init__(self, model: str, revision: str = "", device: str = "cpu") -> None:
        self.model, self.revision, self.device = model, revision, device

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        if not self.model:
            raise UsageError("no model is set")
        given: dict[str, Any] = {
            "revision": self.revision,
            "trust_remote_code": False,
            "local_files_only": True,
        }
        processor = load(AutoImageProcessor.from_pretrained, self.model, **given)
        model = load(
            AutoModelForImageClassification.from_pretrained,
            self.model,
            device_map=checked_device(self.device, "device"),
            **given,
        )
        log.info("loaded model %s (%s)", self.model, self.device)
        return model.float().eval(), processor

    def load(self) -> None:
        """Load the model now.

        Raises:
            UsageError: the model or the device is missing.
        """
        _ = self._loaded

    @property
    def names(self) -> tuple[str, ...]:
        """The model's classes, in order."""
        told: dict[int, str] = self._loaded[0].config.id2label
        return tuple(told[index] for index in sorted(told))

    def classify(self, crops: Sequence[RgbImage]) -> NDArray[np.int64]:
        """(N,) indices into :attr:`names` of crops (H, W, 3) uint8 RGB of any sizes."""
        import torch

        model, processor = self._loaded
        parts = [np.zeros(0, np.int64)]
        for start in range(0, len(crops), _BATCH):
            some = [np.ascontiguousarray(crop) for crop in crops[start : start + _BATCH]]
            inputs = processor(images=[Image.fromarray(crop) for crop in some], return_tensors="pt")
            with torch.inference_mode():
                logits = model(pixel_values=inputs["pixel_values"].to(model.device)).logits
            parts.append(logits.argmax(dim=1).cpu().numpy())
        return np.concatenate(parts)


@cache
def image_classes(model: str, revision: str, device: str) -> ImageClasses:
    """The one classifier of these settings in this process."""
    return ImageClasses(model, revision, device)

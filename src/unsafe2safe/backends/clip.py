"""How well a picture and a text agree, by a CLIP of the transformers library."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from unsafe2safe.backends.transformers_loading import load
from unsafe2safe.core.devices import checked_device
from unsafe2safe.vision.arrays import FloatArray, RgbImage

log = logging.getLogger("unsafe2safe")


class ClipSimilarity:
    """Cosine similarities by a ``CLIPModel`` from a hub id or a local folder; loaded on first use.

    Pictures are prepared as the model's own processor says (for the published ones: shorter side
    to 224 pixels, centre crop); texts are cut at the length that it reads.
    """

    def __init__(
        self,
        model: str,
        revision: str = "",
        device: str = "cpu",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        self.model, self.revision, self.device, self.dtype = model, revision, device, dtype

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import CLIPModel, CLIPProcessor

        given: dict[str, Any] = {"revision": self.revision, "trust_remote_code": False}
        processor = load(CLIPProcessor.from_pretrained, self.model, **given)
        model = load(
            CLIPModel.from_pretrained,
            self.model,
            dtype=self.dtype,
            device_map=checked_device(self.device, "pairs.filter.device"),
            **given,
        )
        log.info("loaded model %s (%s, %s)", self.model, self.device, self.dtype)
        return model.eval(), processor

    def load(self) -> None:
        """Load the model now, so that what is missing is told before any work.

        Raises:
            UsageError: the model or the device is missing.
        """
        _ = self._loaded

    def similarities(self, images: Sequence[RgbImage], texts: Sequence[str]) -> FloatArray:
        """(len(texts), len(images)) cosines in [-1, 1] of texts with images (H, W, 3) uint8 RGB."""
        import torch

        model, processor = self._loaded
        longest = model.config.text_config.max_position_embeddings
        inputs = processor(
            text=list(texts),
            images=[Image.fromarray(np.ascontiguousarray(image)) for image in images],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=longest,
        ).to(model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        with torch.inference_mode():
            found = model(**inputs)  # both embeddings come normalized
            cosines = found.text_embeds.float() @ found.image_embeds.float().T
        result: npt.NDArray[np.float32] = cosines.cpu().numpy()
        return result

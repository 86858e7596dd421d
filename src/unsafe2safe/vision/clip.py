"""How well a picture and a text agree, by a CLIP of the transformers library."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
from PIL import Image

from unsafe2safe.core.devices import checked_device
from unsafe2safe.core.pretrained import load
from unsafe2safe.vision.arrays import FloatArray, RgbImage
from unsafe2safe.vision.local_weights import weights_version

log = logging.getLogger("unsafe2safe")

Dtype = Literal["float32", "bfloat16", "float16"]
_BATCH = 16


class ClipEmbedder:
    """Embeddings by a ``CLIPModel`` from a hub id or a local folder; loaded on first use.

    Pictures are prepared as the model's own processor says (for the published ones: shorter side
    to 224 pixels, centre crop); texts are cut at the length that it reads. ``local_only`` never
    asks the hub; ``section`` is that of the settings, for errors.
    """

    def __init__(
        self,
        model: str,
        revision: str = "",
        device: str = "cpu",
        dtype: Dtype = "float32",
        *,
        section: str = "",
        local_only: bool = False,
    ) -> None:
        self.model, self.revision, self.device, self.dtype = model, revision, device, dtype
        self._section = f"{section}." if section else ""
        self._local_only = local_only

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import CLIPModel, CLIPProcessor

        given: dict[str, Any] = {
            "revision": self.revision,
            "trust_remote_code": False,
            "key": f"{self._section}model",
            "local_files_only": self._local_only,
        }
        processor = load(CLIPProcessor.from_pretrained, self.model, **given)
        model = load(
            CLIPModel.from_pretrained,
            self.model,
            dtype=self.dtype,
            device_map=checked_device(self.device, f"{self._section}device"),
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

    @cached_property
    def version(self) -> str:
        """Tells these embeddings of images from other models'."""
        model, processor = self._loaded
        told = weights_version(model, self.device, processor.image_processor.to_json_string())
        return f"clip {told}"

    def images(self, images: Sequence[RgbImage]) -> FloatArray:
        """(N, D) embeddings of length 1 of images (H, W, 3) uint8 RGB of any sizes."""
        import torch

        model, processor = self._loaded
        parts = []
        for start in range(0, len(images), _BATCH):
            some = [np.ascontiguousarray(image) for image in images[start : start + _BATCH]]
            pixels = processor(
                images=[Image.fromarray(image) for image in some], return_tensors="pt"
            )["pixel_values"]
            with torch.inference_mode():
                found = model.get_image_features(
                    pixel_values=pixels.to(model.device, model.dtype)
                ).pooler_output
            parts.append(found.float().cpu().numpy())
        return self._of_length_one(parts)

    def texts(self, texts: Sequence[str]) -> FloatArray:
        """(N, D) embeddings of length 1."""
        import torch

        model, processor = self._loaded
        parts = []
        for start in range(0, len(texts), _BATCH):
            read = processor(
                text=list(texts[start : start + _BATCH]),
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=model.config.text_config.max_position_embeddings,
            ).to(model.device)
            with torch.inference_mode():
                found = model.get_text_features(
                    input_ids=read["input_ids"], attention_mask=read["attention_mask"]
                ).pooler_output
            parts.append(found.float().cpu().numpy())
        return self._of_length_one(parts)

    def similarities(self, images: Sequence[RgbImage], texts: Sequence[str]) -> FloatArray:
        """(len(texts), len(images)) cosines in [-1, 1] of texts with images (H, W, 3) uint8 RGB."""
        cosines: FloatArray = self.texts(texts) @ self.images(images).T
        return cosines

    def _of_length_one(self, parts: Sequence[FloatArray]) -> FloatArray:
        if not parts:
            return np.zeros((0, self._loaded[0].config.projection_dim), np.float32)
        joined = np.concatenate(parts)
        scaled: FloatArray = joined / np.linalg.norm(joined, axis=1, keepdims=True)
        return scaled


@cache
def clip_embedder(model: str, revision: str, device: str, dtype: Dtype) -> ClipEmbedder:
    """The one embedder of these settings in this process, from local files alone."""
    return ClipEmbedder(model, revision, device, dtype, local_only=True)

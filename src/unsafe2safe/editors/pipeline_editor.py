"""What editors on a published diffusers pipeline share: weights from the hub or a folder, number
types and the device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.core.devices import checked_device
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base import Editor
from unsafe2safe.editors.base_weights import BaseWeights


@component
class PipelineEditor(Editor):
    """An editor on a diffusers pipeline that is taken as it is."""

    weights: str = Field(description="Hub id, or local folder, of the base's diffusers pipeline.")
    revision: str | None = Field(
        default=None, description="Commit, tag or branch on the hub; null: its main branch."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="bfloat16",
        description="Number type of the weights; with float16 the autoencoder stays in float32.",
    )
    device: str = Field(default="cuda", description="Torch device of edits: cpu, cuda, cuda:1.")

    @abstractmethod
    def pipeline_class(self) -> Any:
        """The diffusers class that ``weights`` must be of."""

    def left_out(self) -> Mapping[str, Any]:
        """Parts of the pipeline that are not loaded, as its constructor's arguments."""
        return {}

    def weights_content(self) -> Mapping[str, str]:
        """Id and revision, or of a folder a hash of samples of its files.

        Raises:
            UsageError: ``weights`` is no such folder, or holds another kind of pipeline.
        """
        if self._base.is_folder:
            self._base.check_kind(self.pipeline_class().__name__, self.name)
        return {"editor.weights": self._base.content()}

    @cached_property
    def _base(self) -> BaseWeights:
        return BaseWeights.of(self.weights, self.revision)

    def number_types(self) -> dict[str, torch.dtype]:
        """Number type of each part: autoencoders overflow in float16."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return {"default": dtype, "vae": torch.float32 if dtype is torch.float16 else dtype}

    def load_pipeline(self) -> Any:
        """A new pipeline on ``device``, in eval mode, without gradients.

        Raises:
            UsageError: weights or device are not there, or do not fit.
        """
        base, device = self._base, checked_device(self.device, "editor.device")
        if self.dtype == "float16" and device.type == "cpu":
            raise UsageError("editor.dtype=float16 needs a GPU; use float32 or bfloat16 on the CPU")
        kind = self.pipeline_class()
        base.check_kind(kind.__name__, self.name)
        pipeline = base.load(kind, dtype=self.number_types(), **self.left_out())
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).eval()
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline that edits, loaded on first use."""
        return self.load_pipeline()


def encode_image(vae: Any, image: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to the mode of its latents as the model sees them, float32."""
    posterior = vae.encode(image.to(vae.device, vae.dtype)).latent_dist
    latents: Tensor = (posterior.mode().float() - _shift(vae)) * vae.config.scaling_factor
    return latents


def decode_latents(vae: Any, latents: Tensor) -> NDArray[np.float32]:
    """One of what :func:`encode_image` gives, to (H, W, 3) in [0, 1] and a little beyond."""
    unscaled = latents / vae.config.scaling_factor + _shift(vae)
    image = vae.decode(unscaled.to(vae.dtype)).sample[0].permute(1, 2, 0)
    return cast(NDArray[np.float32], (image.float() / 2 + 0.5).cpu().numpy())


def _shift(vae: Any) -> float:
    return float(vae.config.get("shift_factor") or 0.0)

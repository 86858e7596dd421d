"""InstructPix2Pix on Stable Diffusion XL, from the hub or a folder.

Beside the tokens of two text encoders the UNet is told the pooled text of the second, and the sizes
and crop that it should take the picture to have had (Podell et al. 2023, section 2.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base import Pixels
from unsafe2safe.editors.library_logs import texts_unprinted
from unsafe2safe.editors.stable_diffusion import StableDiffusionEditor
from unsafe2safe.editors.text_embedding import TextEmbedding


@component
class SdxlIp2pEditor(StableDiffusionEditor):
    """InstructPix2Pix on Stable Diffusion XL: CLIP-L and CLIP-G tokens, CLIP-G pooled."""

    licence: str = Field(default="openrail++", description="Licence of the base weights.")
    resolution: int = Field(
        default=768, ge=64, multiple_of=64, description="Side of the edited square, pixels."
    )
    weights: str = Field(
        default="diffusers/sdxl-instructpix2pix-768",
        min_length=1,
        description="The base: a hub id, or a folder in diffusers' layout. A plain Stable "
        "Diffusion XL is widened to take the source image, and `conv_in` must be trained then.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="bfloat16",
        description="Of the frozen base. What is trained stays in float32, and so does the "
        "autoencoder beside float16, which needs trainer.precision=16-mixed to train.",
    )
    steps: int = Field(default=30, ge=1, description="Denoising steps of an edit.")
    text_guidance_scale: float = Field(
        default=3.0, gt=1, description="How strongly an edit follows the text."
    )
    batch_size: int = Field(default=1, ge=1, description="Images edited at once.")

    true_size: ClassVar[str | None] = "sdxl_ip2p"
    parts: ClassVar[tuple[str, ...]] = ("unet", "vae", "text_encoder", "text_encoder_2")
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    family: ClassVar[str] = "sdxl-instruct-pix2pix"
    trains_text: ClassVar[bool] = False
    pipeline_class: ClassVar[str] = "StableDiffusionXLInstructPix2PixPipeline"

    def loading(self) -> dict[str, Any]:
        # Diffusers would watermark edits where a further package happens to be installed.
        return {"add_watermarker": False, "is_cosxl_edit": self.source_scaled}

    def check_family(self, unet: Mapping[str, Any]) -> None:
        from diffusers import AutoencoderKL

        if unet.get("addition_embed_type") != "text_time":
            raise UsageError(
                f"editor.weights={self.weights} is not of the SDXL family; editor={self.name} "
                "takes Stable Diffusion XL"
            )
        vae = self._base.component_config(AutoencoderKL, "vae")
        if vae.get("latents_mean") is not None or vae.get("latents_std") is not None:
            raise UsageError(
                f"editor.weights={self.weights}: its autoencoder normalizes latents by channel, "
                f"as that of editor={self.name} does not"
            )
        self.check_scheduler()

    def check_scheduler(self) -> None:
        """Look at the scheduler's configuration.

        Raises:
            UsageError: the base was trained for another kind of noise levels.
        """
        if "sigma_data" in self._scheduler_config():
            raise UsageError(
                f"editor.weights={self.weights} has an EDM scheduler; if it is a CosXL, use "
                "editor=cosxl"
            )

    def _scheduler_config(self) -> Mapping[str, Any]:
        from diffusers import EDMEulerScheduler  # any scheduler's file is called the same

        return self._base.component_config(EDMEulerScheduler, "scheduler")

    def embed(self, pipeline: Any, texts: Sequence[str]) -> TextEmbedding:
        with texts_unprinted(pipeline):
            tokens, _, pooled, _ = pipeline.encode_prompt(
                prompt=list(texts),
                device=pipeline.text_encoder.device,
                do_classifier_free_guidance=False,
            )
        return TextEmbedding(tokens, pooled)

    def no_text(self, pipeline: Any, count: int = 1) -> TextEmbedding:
        nothing = super().no_text(pipeline, count)
        if not pipeline.config.force_zeros_for_empty_prompt or nothing.pooled is None:
            return nothing
        return TextEmbedding(torch.zeros_like(nothing.tokens), torch.zeros_like(nothing.pooled))

    def added_conditions(self, text: TextEmbedding) -> dict[str, Tensor] | None:
        """The pooled text, and (B, 6) of original size, crop and target size: the square's own."""
        side, pooled = float(self.resolution), text.pooled
        if pooled is None:
            raise ValueError("SDXL is told a pooled text")
        sizes = torch.tensor([side, side, 0, 0, side, side], dtype=pooled.dtype)
        return {"text_embeds": pooled, "time_ids": sizes.to(pooled.device).repeat(len(pooled), 1)}

    def pipeline_call(self, text: TextEmbedding, no_text: TextEmbedding) -> dict[str, Any]:
        return {
            **super().pipeline_call(text, no_text),
            "pooled_prompt_embeds": text.pooled,
            "negative_pooled_prompt_embeds": no_text.pooled,
            "height": self.resolution,
            "width": self.resolution,
        }

    def run(
        self,
        pipeline: Any,
        images: Sequence[Pixels],
        texts: Sequence[str],
        seeds: Sequence[int],
        text_guidance: float = 1.0,
        public_captions: Sequence[str] | None = None,
    ) -> NDArray[np.float32]:
        with _in_own_dtype(pipeline.unet):
            return super().run(pipeline, images, texts, seeds, text_guidance, public_captions)


@contextmanager
def _in_own_dtype(unet: Any) -> Iterator[None]:
    """Inside the block ``unet`` takes latents of any dtype: the pipeline gives it the source's in
    the autoencoder's, which may be another."""

    def cast(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (arguments[0].to(unet.dtype), *arguments[1:])

    hook = unet.register_forward_pre_hook(cast)
    try:
        yield
    finally:
        hook.remove()

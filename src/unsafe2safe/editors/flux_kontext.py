"""FLUX.1 Kontext on diffusers' FluxKontextPipeline.

The source's latents are packed like the target's and follow them on the token axis, with the first
position id 1 in place of 0 (Labs et al. 2025, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.editors.base import Pixels
from unsafe2safe.editors.instruct_pix2pix import encode_moments, to_model
from unsafe2safe.editors.library_logs import texts_unprinted
from unsafe2safe.editors.text_embedding import TextEmbedding
from unsafe2safe.editors.text_memory import embed_each
from unsafe2safe.editors.token_editor import TokenEditor

# The guidance that a guidance-distilled model is told in training: none beside its condition.
TRAINED_GUIDANCE = 1.0


class FluxEditor(TokenEditor):
    """What editors on FLUX.1 have in common: texts embedded by CLIP (pooled) and T5 (tokens), and
    latents that are shifted and scaled."""

    parts: ClassVar[tuple[str, ...]] = ("transformer", "vae", "text_encoder", "text_encoder_2")

    def encode_texts(
        self,
        pipeline: Any,
        texts: Sequence[str],
        images: Tensor | None = None,  # noqa: ARG002
    ) -> TextEmbedding:
        with texts_unprinted(pipeline):
            tokens, pooled, _ = pipeline.encode_prompt(
                prompt=list(texts),
                prompt_2=None,
                device=pipeline.text_encoder.device,
                max_sequence_length=self.text_tokens,
            )
        return TextEmbedding(tokens, pooled)

    def encode_images(self, pipeline: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        vae = pipeline.vae
        mean, deviation = encode_moments(vae, images.to(vae.device, vae.dtype))
        shift, scale = vae.config.shift_factor, vae.config.scaling_factor
        return (mean.float() - shift) * scale, deviation.float() * scale

    def shift_mu(self, pipeline: Any, height: int, width: int) -> float:
        return shift_by_tokens(pipeline.scheduler, (height // 2) * (width // 2))


def shift_by_tokens(scheduler: Any, tokens: int) -> float:
    """How far pipelines of FLUX.1 and Qwen-Image shift the noise levels of so many tokens."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    config = scheduler.config
    return float(
        calculate_shift(
            tokens,
            config.get("base_image_seq_len", 256),
            config.get("max_image_seq_len", 4096),
            config.get("base_shift", 0.5),
            config.get("max_shift", 1.15),
        )
    )


@component
class FluxKontextEditor(FluxEditor):
    """Edits with FLUX.1 Kontext."""

    targets: tuple[str, ...] = Field(
        default=(
            "attn.to_q",
            "attn.to_k",
            "attn.to_v",
            "attn.to_out.0",
            "attn.add_q_proj",
            "attn.add_k_proj",
            "attn.add_v_proj",
            "attn.to_add_out",
            "ff.net.0.proj",
            "ff.net.2",
            "ff_context.net.0.proj",
            "ff_context.net.2",
            "proj_mlp",
        ),
        min_length=1,
        description="Modules that get a LoRA update, by the end of their name.",
    )

    family: ClassVar[str] = "flux-kontext"
    pipeline_class: ClassVar[str] = "FluxKontextPipeline"

    def predict(
        self, pipeline: Any, noisy: Tensor, source: Tensor, timesteps: Tensor, text: TextEmbedding
    ) -> Tensor:
        transformer, dtype = pipeline.transformer, text.tokens.dtype
        batch, channels, height, width = noisy.shape
        packed = [
            pipeline._pack_latents(latents.to(dtype), batch, channels, height, width)
            for latents in (noisy, source)
        ]
        ids = pipeline._prepare_latent_image_ids(
            batch, height // 2, width // 2, noisy.device, dtype
        )
        source_ids = ids.clone()
        source_ids[..., 0] = 1
        guidance = None
        if transformer.config.guidance_embeds:
            guidance = torch.full((batch,), TRAINED_GUIDANCE, device=noisy.device)
        predicted = transformer(
            hidden_states=torch.cat(packed, dim=1),
            timestep=timesteps.to(dtype) / pipeline.scheduler.config.num_train_timesteps,
            guidance=guidance,
            pooled_projections=text.pooled,
            encoder_hidden_states=text.tokens,
            txt_ids=torch.zeros(text.tokens.shape[1], 3, device=noisy.device, dtype=dtype),
            img_ids=torch.cat([ids, source_ids]),
            return_dict=False,
        )[0][:, : packed[0].shape[1]]
        side = pipeline.vae_scale_factor
        unpacked = pipeline._unpack_latents(predicted, height * side, width * side, side)
        return cast(Tensor, unpacked)

    def run(
        self,
        pipeline: Any,
        images: Sequence[Pixels],
        texts: Sequence[str],
        seeds: Sequence[int],
        text_guidance: float = 1.0,
        public_captions: Sequence[str] | None = None,  # noqa: ARG002
    ) -> NDArray[np.float32]:
        # On the CPU whatever the device, so that a seed means the same noise everywhere.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with torch.no_grad(), texts_unprinted(pipeline):
            embed = partial(self.encode_texts, pipeline)
            text = embed_each(pipeline, texts, embed, self.text_tokens)
            edited = pipeline(
                prompt_embeds=text.tokens,
                pooled_prompt_embeds=text.pooled,
                image=(to_model(images) / 2 + 0.5).to(pipeline.device),
                height=self.resolution,
                width=self.resolution,
                max_area=self.resolution**2,
                _auto_resize=False,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance(text_guidance),
                generator=generators,
                output_type="np",
            ).images
        return cast(NDArray[np.float32], edited)

"""FLUX.2 [klein] on diffusers' Flux2KleinPipeline.

Latents are patches of 2 x 2, normalized by the autoencoder's own batch statistics; the source's
tokens follow the target's with the time id 10 in place of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.editors.base import Pixels
from unsafe2safe.editors.instruct_pix2pix import encode_moments
from unsafe2safe.editors.text_embedding import TextEmbedding
from unsafe2safe.editors.text_memory import embed_each
from unsafe2safe.editors.token_editor import TokenEditor


@component
class Flux2KleinEditor(TokenEditor):
    """Edits with FLUX.2 [klein], texts embedded by layers of Qwen3."""

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
            "attn.to_qkv_mlp_proj",
            "attn.to_out",
        ),
        min_length=1,
        description="Modules that get a LoRA update, by the end of their name.",
    )
    resolution: int = Field(
        default=1024,
        ge=64,
        le=1024,
        multiple_of=16,
        description="Side of the edited square, pixels.",
    )
    text_layers: tuple[int, ...] = Field(
        default=(9, 18, 27),
        min_length=1,
        description="Hidden states of the text encoder that make up a token's embedding.",
    )

    parts: ClassVar[tuple[str, ...]] = ("transformer", "vae", "text_encoder")
    family: ClassVar[str] = "flux2-klein"
    pipeline_class: ClassVar[str] = "Flux2KleinPipeline"

    def encode_texts(
        self,
        pipeline: Any,
        texts: Sequence[str],
        images: Tensor | None = None,  # noqa: ARG002
    ) -> TextEmbedding:
        tokens, _ = pipeline.encode_prompt(
            prompt=list(texts),
            device=pipeline.text_encoder.device,
            max_sequence_length=self.text_tokens,
            text_encoder_out_layers=self.text_layers,
        )
        return TextEmbedding(tokens)

    def encode_images(self, pipeline: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        vae = pipeline.vae
        moments = encode_moments(vae, images.to(vae.device, vae.dtype))
        mean, deviation = (pipeline._patchify_latents(moment.float()) for moment in moments)
        centre = vae.bn.running_mean.float().view(1, -1, 1, 1)
        variance = vae.bn.running_var.float().view(1, -1, 1, 1) + vae.config.batch_norm_eps
        return (mean - centre) / variance.sqrt(), deviation / variance.sqrt()

    def predict(
        self, pipeline: Any, noisy: Tensor, source: Tensor, timesteps: Tensor, text: TextEmbedding
    ) -> Tensor:
        dtype, device = text.tokens.dtype, noisy.device
        packed = [pipeline._pack_latents(latents.to(dtype)) for latents in (noisy, source)]
        source_ids = pipeline._prepare_image_ids([source[:1]]).expand(len(noisy), -1, -1)
        ids = torch.cat([pipeline._prepare_latent_ids(noisy), source_ids], dim=1)
        predicted = pipeline.transformer(
            hidden_states=torch.cat(packed, dim=1),
            timestep=timesteps.to(dtype) / pipeline.scheduler.config.num_train_timesteps,
            guidance=None,
            encoder_hidden_states=text.tokens,
            txt_ids=pipeline._prepare_text_ids(text.tokens).to(device),
            img_ids=ids.to(device),
            return_dict=False,
        )[0][:, : packed[0].shape[1]]
        return cast(Tensor, predicted.transpose(1, 2).reshape(noisy.shape))

    def shift_mu(self, pipeline: Any, height: int, width: int) -> float:  # noqa: ARG002
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        # It depends on the steps of an edit as well: trained are the levels that edits visit.
        return float(compute_empirical_mu(height * width, self.steps))

    def run(
        self,
        pipeline: Any,
        images: Sequence[Pixels],
        texts: Sequence[str],
        seeds: Sequence[int],
        text_guidance: float = 1.0,
        public_captions: Sequence[str] | None = None,  # noqa: ARG002
    ) -> NDArray[np.float32]:
        edited = []
        with torch.no_grad():
            embed = partial(self.encode_texts, pipeline)
            settings = self.text_tokens, self.text_layers
            no_text = embed_each(pipeline, [""], embed, settings)
            # One by one: several images given at once are all sources of each edit.
            for image, text, seed in zip(images, texts, seeds, strict=True):
                result = pipeline(
                    image=[Image.fromarray(np.ascontiguousarray(image))],
                    prompt_embeds=embed_each(pipeline, [text], embed, settings).tokens,
                    negative_prompt_embeds=no_text.tokens,
                    height=self.resolution,
                    width=self.resolution,
                    num_inference_steps=self.steps,
                    guidance_scale=self.guidance(text_guidance),
                    generator=torch.Generator().manual_seed(seed),
                    max_sequence_length=self.text_tokens,
                    text_encoder_out_layers=self.text_layers,
                    output_type="np",
                )
                edited.append(result.images[0])
        return np.stack(edited)

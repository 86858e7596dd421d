"""Text-to-image flow models behind one interface: latents, embedded texts, times, velocities.

Latents are (1, C, h, w) float32, scaled as the transformer sees them; a time is the share of noise
in them, from 1 (noise alone) to 0 (the image).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.library_logs import texts_unprinted


@dataclass(frozen=True, eq=False)
class EmbeddedText:
    """A text as a transformer takes it: (B, L, D) states, (B, P) pooled, its guidance."""

    states: Tensor
    pooled: Tensor
    guidance: float


class FlowModel(ABC):
    """One family of pipelines; it holds nothing but the pipeline it is of."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    @property
    def side_multiple(self) -> int:
        """Sides of pictures are multiples of this many pixels: 16 with the published weights."""
        return int(self.pipeline.vae_scale_factor) * 2

    @abstractmethod
    def check_side(self, longest: int) -> None:
        """Refuse pictures that the model has no positions for.

        Raises:
            UsageError: says what is possible.
        """

    @abstractmethod
    def embed(self, text: str, guidance: float) -> EmbeddedText:
        """Embed one text; nothing of it is printed."""

    @abstractmethod
    def times(self, steps: int, latents: Tensor) -> Tensor:
        """(steps + 1,) float32, falling from the noisiest time to 0, as its pipeline has them."""

    @abstractmethod
    def velocity(self, latents: Tensor, text: EmbeddedText, time: Tensor) -> Tensor:
        """The guided velocity dz/dt at ``time``, (1, C, h, w) float32."""

    def _set_times(self, tokens: int, steps: int, **settings: Any) -> Tensor:
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        scheduler = self.pipeline.scheduler
        if scheduler.config.get("use_dynamic_shifting"):
            settings["mu"] = calculate_shift(
                tokens,
                scheduler.config.get("base_image_seq_len", 256),
                scheduler.config.get("max_image_seq_len", 4096),
                scheduler.config.get("base_shift", 0.5),
                scheduler.config.get("max_shift", 1.15),
            )
        scheduler.set_timesteps(steps, **settings)
        times: Tensor = scheduler.sigmas.float()
        return times


class StableDiffusion3(FlowModel):
    """Stable Diffusion 3 and 3.5, with classifier-free guidance against the empty text."""

    def check_side(self, longest: int) -> None:
        config = self.pipeline.transformer.config
        most = config.pos_embed_max_size * config.patch_size * self.pipeline.vae_scale_factor
        if longest > most:
            raise UsageError(f"editor.longest_side={longest}: these weights go up to {most} pixels")

    def embed(self, text: str, guidance: float) -> EmbeddedText:
        """Rows: the empty text, then ``text``."""
        pipeline = self.pipeline
        with texts_unprinted(pipeline):
            states, nothing, pooled, pooled_nothing = pipeline.encode_prompt(
                [text], None, None, device=pipeline.device, negative_prompt=[""]
            )
        return EmbeddedText(
            torch.cat([nothing, states]), torch.cat([pooled_nothing, pooled]), guidance
        )

    def times(self, steps: int, latents: Tensor) -> Tensor:
        patch = self.pipeline.transformer.config.patch_size
        return self._set_times(latents[0, 0].numel() // patch**2, steps)

    def velocity(self, latents: Tensor, text: EmbeddedText, time: Tensor) -> Tensor:
        transformer = self.pipeline.transformer
        scale = self.pipeline.scheduler.config.num_train_timesteps
        unguided, guided = transformer(
            hidden_states=torch.cat([latents, latents]).to(transformer.dtype),
            timestep=(time * scale).to(latents.device).expand(2),
            encoder_hidden_states=text.states,
            pooled_projections=text.pooled,
            return_dict=False,
        )[0].float().chunk(2)  # fmt: skip
        velocity: Tensor = unguided + text.guidance * (guided - unguided)
        return velocity


class Flux(FlowModel):
    """FLUX.1-dev, whose guidance is an input of the transformer."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        if not pipeline.transformer.config.guidance_embeds:
            raise UsageError(
                "editor.weights have no guidance (as FLUX.1-schnell), without which source and "
                "target text pull equally; use FLUX.1-dev"
            )

    def check_side(self, longest: int) -> None:
        """Positions are rotations here, without an end."""

    def embed(self, text: str, guidance: float) -> EmbeddedText:
        pipeline = self.pipeline
        with texts_unprinted(pipeline):
            states, pooled, _ = pipeline.encode_prompt([text], None, device=pipeline.device)
        return EmbeddedText(states, pooled, guidance)

    def times(self, steps: int, latents: Tensor) -> Tensor:
        sigmas = np.linspace(1.0, 1 / steps, steps)
        return self._set_times(latents[0, 0].numel() // 4, steps, sigmas=sigmas)

    def velocity(self, latents: Tensor, text: EmbeddedText, time: Tensor) -> Tensor:
        pipeline, transformer = self.pipeline, self.pipeline.transformer
        batch, channels, height, width = latents.shape
        place = {"device": latents.device, "dtype": transformer.dtype}
        packed = transformer(
            hidden_states=pipeline._pack_latents(latents, batch, channels, height, width).to(
                **place
            ),
            timestep=time.to(**place).expand(batch),
            guidance=torch.full([batch], text.guidance, device=latents.device),
            pooled_projections=text.pooled,
            encoder_hidden_states=text.states,
            txt_ids=torch.zeros(text.states.shape[1], 3, **place),
            img_ids=pipeline._prepare_latent_image_ids(
                batch, height // 2, width // 2, latents.device, transformer.dtype
            ),
            return_dict=False,
        )[0]
        factor = pipeline.vae_scale_factor
        unpacked: Tensor = pipeline._unpack_latents(packed, height * factor, width * factor, factor)
        return unpacked.float()

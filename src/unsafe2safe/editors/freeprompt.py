"""Free-Prompt-Editing: a target text drawn with the source image's self-attention.

Liu et al. 2024, "Towards understanding cross and self-attention in Stable Diffusion for text-guided
image editing", the algorithm for real images: the image is inverted, and while the target is
denoised from the same noise its self-attention maps are those of the inverted image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.editors.base import Canvas, EditRequest, Pixels
from unsafe2safe.editors.instruct_pix2pix import encode_text, restore, square, to_model
from unsafe2safe.editors.pipeline_editor import PipelineEditor, decode_latents, encode_image

# Maps of layers with more than this share of the latents' positions are left alone: at 512 px those
# of more than 32 x 32 positions, as published.
_REPLACED_POSITIONS = 0.25
# What both directions must agree on, as Stable Diffusion 1 was published with.
_DDIM = {
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}


@contextmanager
def source_self_attention(unet: Any, positions: int) -> Iterator[None]:
    """Within, the last of the rows [source, without text, with text] attends as the first does.

    Queries and keys are replaced, which replaces the attention map they make; values stay.
    ``positions`` are those of the latents, height times width.
    """

    def replace(_module: Any, _inputs: Any, states: Tensor) -> Tensor | None:
        if states.shape[1] > _REPLACED_POSITIONS * positions:
            return None
        return torch.cat([states[:2], states[:1]])

    hooks = [
        module.register_forward_hook(replace)
        for name, module in unet.named_modules()
        if name.endswith(("attn1.to_q", "attn1.to_k"))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@component
class FreePromptEditor(PipelineEditor):
    """Draws the public caption in the layout of a square copy of the image.

    Nothing is random: the noise is the image's own, found by DDIM inversion.
    """

    resolution: int = Field(
        default=512, ge=8, multiple_of=8, description="Side of the edited square, pixels."
    )
    steps: int = Field(
        default=50, ge=1, le=1000, description="Denoising steps, and steps of the inversion."
    )
    guidance_scale: float = Field(
        default=7.5, ge=1, description="How strongly an edit follows the public caption."
    )
    self_attention_replace: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="Share of the steps, from the first, in which self-attention is the source's.",
    )
    source_text: Literal["empty", "private_caption"] = Field(
        default="empty", description="Text under which the image is inverted."
    )

    answers_to: ClassVar[frozenset[str]] = frozenset({"guidance"})  # it draws no noise

    @property
    def reads_private_caption(self) -> bool:
        return self.source_text == "private_caption"

    @property
    def canvas(self) -> Canvas:
        return Canvas(self.resolution, square=True)

    def pipeline_class(self) -> Any:
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline

    def left_out(self) -> Mapping[str, Any]:
        """The safety checker, which would look at a picture that is verified anyway."""
        return {
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }

    def replaced_steps(self, text_guidance: float) -> int:
        """Steps with the source's self-attention: the fewer, the more strongly the text counts."""
        return int(self.steps * self.self_attention_replace / text_guidance)

    def invert(self, latents: Tensor, text: Tensor) -> dict[int, Tensor]:
        """DDIM inversion without guidance: the latents of each timestep, the noisiest last.

        ``latents`` are (1, C, h, w) float32, ``text`` (1, L, D).
        """
        from diffusers import DDIMInverseScheduler

        scheduler = DDIMInverseScheduler.from_config(self.pipeline.scheduler.config, **_DDIM)
        scheduler.set_timesteps(self.steps)
        found = {}
        for timestep in scheduler.timesteps.tolist():
            output = self._predict(latents, timestep, text)
            latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
            found[timestep] = latents
        return found

    def edit_latents(
        self, source: Tensor, source_text: str, target_text: str, text_guidance: float = 1.0
    ) -> Tensor:
        """Edit scaled latents (1, C, h, w) float32."""
        from diffusers import DDIMScheduler

        unet = self.pipeline.unet
        texts = encode_text(self.pipeline, [source_text, "", target_text])
        inverted = self.invert(source, texts[:1])
        scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config, **_DDIM)
        scheduler.set_timesteps(self.steps)
        timesteps = scheduler.timesteps.tolist()
        latents, replaced = inverted[timesteps[0]], self.replaced_steps(text_guidance)
        for index, timestep in enumerate(timesteps):
            if index < replaced:
                rows = torch.cat([inverted[timestep], latents, latents])
                with source_self_attention(unet, latents[0, 0].numel()):
                    output = self._predict(rows, timestep, texts)[1:]
            else:
                output = self._predict(torch.cat([latents, latents]), timestep, texts[1:])
            without, towards = output.chunk(2)
            guided = without + self.guidance_scale * text_guidance * (towards - without)
            latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        return latents

    def _predict(self, latents: Tensor, timestep: int, texts: Tensor) -> Tensor:
        unet = self.pipeline.unet
        output: Tensor = unet(
            latents.to(unet.dtype), timestep, encoder_hidden_states=texts, return_dict=False
        )[0]
        return output.to(latents.dtype)

    def edit(self, requests: Sequence[EditRequest]) -> list[Pixels]:
        """Edit one request after the other.

        The more strongly it is to follow its text, the less it keeps of the layout.

        Raises:
            ValueError: a request holds no private caption, and ``source_text`` asks for it.
        """
        with torch.inference_mode():
            return [self._edit(request) for request in requests]

    def _edit(self, request: EditRequest) -> Pixels:
        if self.reads_private_caption and not request.private_caption.strip():
            raise ValueError("a request without the private caption that source_text asks for")
        vae = self.pipeline.vae
        edited = self.edit_latents(
            encode_image(vae, to_model([square(request.image, self.resolution)])),
            request.private_caption if self.reads_private_caption else "",
            request.public_caption,
            request.text_guidance,
        )
        return restore(decode_latents(vae, edited), *request.image.shape[:2])

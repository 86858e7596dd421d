"""FlowEdit: edits by the difference of two velocities, without inversion or training.

Kulikov et al. 2024, "FlowEdit: Inversion-free text-based editing using pre-trained flow models",
algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import ConfigError
from unsafe2safe.editors.base import Canvas, EditRequest, Pixels
from unsafe2safe.editors.flow_models import FlowModel, Flux, StableDiffusion3
from unsafe2safe.editors.instruct_pix2pix import restore, to_model
from unsafe2safe.editors.pipeline_editor import PipelineEditor, decode_latents, encode_image
from unsafe2safe.editors.text_memory import remembered

Velocity = Callable[[Tensor, Tensor], Tensor]  # latents, time


def flow_edit(
    source: Tensor,
    source_velocity: Velocity,
    target_velocity: Velocity,
    times: Tensor,
    noise: Callable[[], Tensor],
    *,
    n_max: int,
    n_min: int,
    n_avg: int,
) -> Tensor:
    """Algorithm 1 of FlowEdit.

    ``source`` are latents of any shape; ``times`` (T + 1,) fall from t_T to t_0 = 0. From step
    ``n_max`` down to ``n_min`` the edit Z moves by the mean over ``n_avg`` draws of noise of
    V_target(Z + Z_source - X) - V_source(Z_source), where Z_source = (1 - t) X + t noise. The last
    ``n_min`` steps sample the target from there, as SDEdit does.
    """
    steps = len(times) - 1
    edit = source.clone()
    for index in range(steps - n_max, steps - n_min):
        time, step = times[index], times[index + 1] - times[index]
        difference = torch.zeros_like(source)
        for _ in range(n_avg):
            noisy = (1 - time) * source + time * noise()
            # The difference first: where edit and source are equal, both get the very same input.
            moved = noisy + (edit - source)
            difference += (target_velocity(moved, time) - source_velocity(noisy, time)) / n_avg
        edit = edit + step * difference
    if n_min == 0:
        return edit
    time = times[steps - n_min]
    moved = (1 - time) * source + time * noise() + (edit - source)
    for index in range(steps - n_min, steps):
        time, step = times[index], times[index + 1] - times[index]
        moved = moved + step * target_velocity(moved, time)
    return moved


@component
class FlowEditEditor(PipelineEditor):
    """Moves the image by what the model sees differently in the private and the combined caption.

    The picture is stretched, usually by less than a hundredth, to sides the model takes, rather
    than cropped: a strip that was cut away could only come back unedited.
    """

    family: Literal["sd3", "flux"] = Field(
        default="sd3", description="Of the base: Stable Diffusion 3 or FLUX.1."
    )
    steps: int = Field(default=50, ge=1, description="Time steps between noise and image.")
    n_max: int = Field(
        default=33, ge=0, description="Step to begin at: the more, the more an edit changes."
    )
    n_min: int = Field(
        default=0, ge=0, description="Last steps that sample from the target text alone."
    )
    n_avg: int = Field(default=1, ge=1, description="Draws of noise that a step averages over.")
    source_guidance_scale: float = Field(
        default=3.5, ge=0, description="How strongly the source's velocity follows its text."
    )
    target_guidance_scale: float = Field(
        default=13.5, ge=0, description="How strongly the target's velocity follows its text."
    )
    longest_side: int = Field(
        default=1536, ge=16, description="Longest side at which pictures are edited, pixels."
    )

    def __post_init__(self) -> None:
        if not self.n_min <= self.n_max <= self.steps:
            raise ConfigError(
                f"editor.n_min={self.n_min}, editor.n_max={self.n_max} and "
                f"editor.steps={self.steps} must not fall"
            )

    @property
    def reads_private_caption(self) -> bool:
        return True

    @property
    def canvas(self) -> Canvas:
        """Its multiple is the model's, which is loaded for that."""
        return Canvas(self.longest_side, self.model.side_multiple)

    def pipeline_class(self) -> Any:
        from diffusers import FluxPipeline, StableDiffusion3Pipeline

        return StableDiffusion3Pipeline if self.family == "sd3" else FluxPipeline

    @cached_property
    def model(self) -> FlowModel:
        """The model behind the pipeline, loaded on first use.

        Raises:
            UsageError: weights or device are not there, or do not fit the settings.
        """
        kind = StableDiffusion3 if self.family == "sd3" else Flux
        model = kind(self.pipeline)
        model.check_side(self.longest_side)
        return model

    def begin_step(self, text_guidance: float) -> int:
        """``n_max`` of an attempt: the steps that are left out, divided by ``text_guidance``."""
        return self.steps - int((self.steps - self.n_max) / text_guidance)

    def edit_latents(
        self,
        source: Tensor,
        source_text: str,
        target_text: str,
        seed: int,
        text_guidance: float = 1.0,
    ) -> Tensor:
        """Edit scaled latents (1, C, h, w) float32; all noise comes from ``seed``."""
        model = self.model
        before, after = (
            remembered(model, (text, guidance), partial(model.embed, text, guidance))
            for text, guidance in (
                (source_text, self.source_guidance_scale),
                (target_text, self.target_guidance_scale * text_guidance),
            )
        )
        # On the CPU whatever the device, so that a seed means the same noise everywhere.
        generator = torch.Generator().manual_seed(seed)
        return flow_edit(
            source,
            lambda latents, time: model.velocity(latents, before, time),
            lambda latents, time: model.velocity(latents, after, time),
            model.times(self.steps, source).to(source.device),
            lambda: torch.randn(source.shape, generator=generator).to(source.device),
            n_max=self.begin_step(text_guidance),
            n_min=self.n_min,
            n_avg=self.n_avg,
        )

    def edit(self, requests: Sequence[EditRequest]) -> list[Pixels]:
        """Edit one request after the other.

        The more strongly it is to follow its text, the noisier the step it begins at.

        Raises:
            ValueError: a request holds no private caption.
        """
        with torch.inference_mode():
            return [self._edit(request) for request in requests]

    def _edit(self, request: EditRequest) -> Pixels:
        if not request.private_caption.strip():
            raise ValueError("a request without the private caption that FlowEdit starts from")
        model, vae = self.model, self.pipeline.vae
        fitted = fit(request.image, self.longest_side, model.side_multiple)
        edited = self.edit_latents(
            encode_image(vae, to_model([fitted])),
            request.private_caption,
            request.target_caption,
            request.seed,
            request.text_guidance,
        )
        return restore(decode_latents(vae, edited), *request.image.shape[:2])


def fit(pixels: Pixels, longest: int, multiple: int) -> Pixels:
    """(H, W, 3) uint8 brought to a longest side of ``longest``, both sides to the nearest multiple
    of ``multiple``."""
    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    sides = [max(round(side * scale / multiple), 1) * multiple for side in (width, height)]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    resized = image.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.uint8)

"""The tiny editor: InstructPix2Pix's own classes at toy size, 64 px, for machines without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.instruct_pix2pix import InstructPix2PixEditor
from unsafe2safe.editors.tiny_model import PredictionType, build_pipeline


@component
class TinyEditor(InstructPix2PixEditor):
    """InstructPix2Pix at 64 px. Without ``weights`` its base is random and edits are not usable."""

    resolution: int = Field(
        default=64, ge=16, multiple_of=8, description="Side of the edited square, pixels."
    )
    text_guidance_scale: float = Field(
        default=2.5, gt=1, description="How strongly an edit follows the text."
    )
    image_guidance_scale: float = Field(
        default=1.3, ge=1, description="How strongly an edit keeps to the source image."
    )
    init_seed: int = Field(
        default=0, ge=0, description="Seed of the base's weights where `weights` gives none."
    )
    weights: Path | None = Field(
        default=None,
        description="Folder of a StableDiffusionInstructPix2PixPipeline; null: drawn at random.",
    )
    prediction_type: PredictionType = Field(
        default="epsilon",
        description="What a base without `weights` predicts; with `weights` its scheduler says.",
    )

    def load_base(self) -> Any:
        """A new pipeline, from ``weights`` or drawn from ``init_seed``, in eval mode.

        Raises:
            UsageError: ``weights`` is no such folder.
        """
        if self.weights is None:
            pipeline = build_pipeline(self.init_seed, self.prediction_type)
        else:
            pipeline = _load_folder(self.weights)
        for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            module.requires_grad_(False).eval()
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _load_folder(folder: Path) -> Any:
    from diffusers import StableDiffusionInstructPix2PixPipeline

    try:
        return StableDiffusionInstructPix2PixPipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"editor.weights={folder}: {str(error).splitlines()[0]}") from None

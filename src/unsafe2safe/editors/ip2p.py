"""InstructPix2Pix on Stable Diffusion 1.x at its true size, from the hub or a folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.stable_diffusion import StableDiffusionEditor


@component
class Ip2pEditor(StableDiffusionEditor):
    """InstructPix2Pix (Brooks et al. 2023); with ``caption_branch=safe`` the paper's editor."""

    licence: str = Field(
        default="creativeml-openrail-m", description="Licence of the base weights."
    )
    weights: str = Field(
        default="timbrooks/instruct-pix2pix",
        min_length=1,
        description="The base: a hub id, or a folder in diffusers' layout. A plain Stable "
        "Diffusion 1.x is widened to take the source image, and `conv_in` must be trained then.",
    )
    revision: str | None = Field(
        default=None,
        description="Commit, tag or branch of the hub repository; null: a pinned commit for the "
        "default weights, main for others. Of no account for a folder.",
    )

    true_size: ClassVar[str | None] = "ip2p"
    quantizable: ClassVar[bool] = True
    pipeline_class: ClassVar[str] = "StableDiffusionInstructPix2PixPipeline"
    # The commits that the editor was written for.
    pinned: ClassVar[Mapping[str, str]] = {
        "timbrooks/instruct-pix2pix": "31519b5cb02a7fd89b906d88731cd4d6a7bbf88d"
    }

    def loading(self) -> dict[str, Any]:
        # Edits are published after verification only; a checker would paint pictures black.
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    def check_family(self, unet: Mapping[str, Any]) -> None:
        if unet.get("addition_embed_type") is not None:
            raise UsageError(
                f"editor.weights={self.weights} is of the SDXL family; editor={self.name} takes "
                "Stable Diffusion 1.x"
            )

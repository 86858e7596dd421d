"""The tiny editor: InstructPix2Pix's own classes at toy size, 64 px, for machines without a GPU."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.editors.base_weights import BaseWeights, drop_weights, files_digest
from unsafe2safe.editors.caption_branch import BRANCH_FILE
from unsafe2safe.editors.instruct_pix2pix import InstructPix2PixEditor
from unsafe2safe.editors.tiny_model import build_pipeline, empty_part

_PACKAGED = "tiny"  # in unsafe2safe.assets


@component
class TinyEditor(InstructPix2PixEditor):
    """InstructPix2Pix at 64 px, with the weights shipped in the package."""

    resolution: int = Field(
        default=64, ge=16, multiple_of=8, description="Side of the edited square, pixels."
    )
    steps: int = Field(default=4, ge=1, description="Denoising steps of an edit.")
    text_guidance_scale: float = Field(
        default=1.5, gt=1, description="How strongly an edit follows the text."
    )
    image_guidance_scale: float = Field(
        default=1.1, ge=1, description="How strongly an edit keeps to the source image."
    )
    weights: Path | None = Field(
        default=None,
        description="Folder of a StableDiffusionInstructPix2PixPipeline; null: the one shipped in "
        "the package.",
    )
    init_seed: int | None = Field(
        default=None,
        ge=0,
        description="Begin from random weights drawn from this seed, whose edits are not usable; "
        "null: from `weights`.",
    )
    prediction_type: Literal["epsilon", "v_prediction"] | None = Field(
        default=None,
        description="What a base drawn from `init_seed` predicts, null: epsilon; of `weights` "
        "their scheduler says it.",
    )

    slow_encoders: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.init_seed is not None and self.weights is not None:
            raise ConfigError("editor.init_seed and editor.weights: give one of them")
        if self.init_seed is None and self.prediction_type is not None:
            raise ConfigError(
                "editor.prediction_type is for a random base (editor.init_seed); the scheduler "
                "beside the weights says what they predict"
            )

    def load_base(self, without: Collection[str] = ()) -> Any:
        """A new pipeline, from ``weights`` or drawn from ``init_seed``, in eval mode.

        Raises:
            UsageError: ``weights`` is no such folder, or the package holds none.
        """
        self.check_loadable()
        if self.init_seed is not None:
            pipeline = build_pipeline(self.init_seed, self.prediction_type or "epsilon")
            for part in without:
                drop_weights(pipeline, part)
        else:
            pipeline = _load_folder(self._weights_folder(), without)
        for part in self.parts:
            if part not in without:
                getattr(pipeline, part).requires_grad_(False).eval()
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def empty_part(self, part: str) -> nn.Module:
        if self.init_seed is not None:
            return empty_part(part)
        return BaseWeights.of(str(self._weights_folder()), None).empty_part(part)

    def weights_content(self) -> Mapping[str, str]:
        if self.init_seed is not None:
            return {}
        return {"editor.weights": weights_digest(self._weights_folder())}

    def shipped_branch(self) -> Path | None:
        """``caption_branch.safetensors`` beside the weights, where there is one."""
        if self.init_seed is not None:
            return None
        path = self._weights_folder() / BRANCH_FILE
        return path if path.is_file() else None

    def _weights_folder(self) -> Path:
        if self.weights is not None:
            return self.weights
        folder = packaged_weights()
        if not folder.is_dir():
            raise UsageError(
                f"the package holds no weights of editor={self.name} ({folder}); give "
                "editor.weights=FOLDER, or editor.init_seed=0 for a random base to try things with"
            )
        return folder


def packaged_weights() -> Path:
    """Where the shipped weights lie, whether or not they do."""
    return Path(str(resources.files("unsafe2safe.assets") / _PACKAGED))


def weights_digest(folder: Path) -> str:
    """A hash of all safetensors of ``folder``."""
    return files_digest(folder, folder.rglob("*.safetensors"))


def _load_folder(folder: Path, without: Collection[str]) -> Any:
    from diffusers import StableDiffusionInstructPix2PixPipeline

    try:
        return StableDiffusionInstructPix2PixPipeline.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            **(BaseWeights.of(str(folder), None).left_out(without) if without else {}),
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"editor.weights={folder}: {str(error).splitlines()[0]}") from None

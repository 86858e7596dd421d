"""CosXL Edit: a Stable Diffusion XL that was tuned to predict velocities over continuous noise
levels, from its single file, the hub or a folder.

Unlike other InstructPix2Pix bases it is shown the source's latents scaled.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base_weights import BaseWeights
from unsafe2safe.editors.sdxl_ip2p import SdxlIp2pEditor
from unsafe2safe.editors.single_file import SUFFIX, SingleFile

# What CosXL was trained for; its file may say the bounds, by these names.
_SIGMA_MIN, _SIGMA_MAX, _SIGMA_DATA = 0.002, 120.0, 1.0
_SIGMA_MIN_NAME, _SIGMA_MAX_NAME = "edm_vpred.sigma_min", "edm_vpred.sigma_max"


@component
class CosxlEditor(SdxlIp2pEditor):
    """CosXL Edit (Stability AI 2024); no commercial use."""

    licence: str = Field(
        default="stabilityai-non-commercial-research-community-license",
        description="Licence of the base weights.",
    )
    commercial: bool = Field(
        default=False, description="Whether that licence allows commercial use; told by the run."
    )
    resolution: int = Field(
        default=1024, ge=64, multiple_of=64, description="Side of the edited square, pixels."
    )
    weights: str = Field(
        default="stabilityai/cosxl/cosxl_edit.safetensors",
        min_length=1,
        description="The base: a safetensors file, as a path or as owner/name/file of the hub; or "
        "a hub id or a folder in diffusers' layout. One that takes no source image, as "
        "cosxl.safetensors, is widened, and `conv_in` must be trained then.",
    )
    layout: str = Field(
        default="diffusers/sdxl-instructpix2pix-768",
        min_length=1,
        description="Where a single file's configurations and tokenizers are: a hub id, or a "
        "folder in diffusers' layout. Its weights are not read.",
    )
    layout_revision: str | None = Field(
        default=None, description="Commit, tag or branch of `layout` on the hub; null: main."
    )
    steps: int = Field(default=20, ge=1, description="Denoising steps of an edit.")
    text_guidance_scale: float = Field(
        default=5.0, gt=1, description="How strongly an edit follows the text."
    )

    true_size: ClassVar[str | None] = "cosxl"
    family: ClassVar[str] = "cosxl-edit"
    source_scaled: ClassVar[bool] = True
    predicts: ClassVar[str | None] = "edm_v_prediction"

    def loading(self) -> dict[str, Any]:
        settings = super().loading()
        if isinstance(self._base, SingleFile):
            settings["scheduler"] = _scheduler(self._base)
        return settings

    def check_scheduler(self) -> None:
        if isinstance(self._base, SingleFile):
            return
        config = self._scheduler_config()
        if "sigma_data" not in config or config.get("prediction_type") != "v_prediction":
            raise UsageError(
                f"editor.weights={self.weights} has no EDM scheduler of velocities "
                f"({config.get('_class_name')}), as CosXL has; for other SDXL bases use "
                "editor=sdxl_ip2p"
            )

    @cached_property
    def _base(self) -> BaseWeights | SingleFile:
        if not self.weights.endswith(SUFFIX):
            return BaseWeights.of(self.weights, self.revision)
        layout = BaseWeights.of(self.layout, self.layout_revision, key="editor.layout")
        return SingleFile.of(self.weights, self.revision, layout)


def _scheduler(file: SingleFile) -> Any:
    from diffusers import EDMEulerScheduler

    return EDMEulerScheduler(
        sigma_min=file.number(_SIGMA_MIN_NAME) or _SIGMA_MIN,
        sigma_max=file.number(_SIGMA_MAX_NAME) or _SIGMA_MAX,
        sigma_data=_SIGMA_DATA,
        sigma_schedule="exponential",
        prediction_type="v_prediction",
    )

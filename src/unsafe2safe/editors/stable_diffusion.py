"""InstructPix2Pix editors on published weights of Stable Diffusion: where the base comes from, in
which number types, and what must be trained of it."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import nn

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base_weights import BaseWeights
from unsafe2safe.editors.instruct_pix2pix import InstructPix2PixEditor
from unsafe2safe.editors.lora_targets import is_target
from unsafe2safe.editors.single_file import SingleFile

_log = logging.getLogger(__name__)


@component
class StableDiffusionEditor(InstructPix2PixEditor):
    """Edits with a Stable Diffusion whose UNet takes the source's latents as further channels."""

    resolution: int = Field(
        default=512, ge=64, multiple_of=64, description="Side of the edited square, pixels."
    )
    weights: str = Field(
        min_length=1, description="The base: a hub id, or a folder in diffusers' layout."
    )
    revision: str | None = Field(
        default=None, description="Commit, tag or branch of the hub repository; null: main."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Of the frozen base. What is trained stays in float32, and so does the "
        "autoencoder beside float16, which needs trainer.precision=16-mixed to train.",
    )

    side_step: ClassVar[int] = 64
    # The diffusers pipeline, by name: importing it here would load torch's heavy friends.
    pipeline_class: ClassVar[str]
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    # Commits by hub id, where a default is pinned to one.
    pinned: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def loading(self) -> dict[str, Any]:
        """Arguments of the pipeline beside its weights."""

    @abstractmethod
    def check_family(self, unet: Mapping[str, Any]) -> None:
        """Look at configurations alone; ``unet`` is that of the UNet.

        Raises:
            UsageError: the base is of another family.
        """

    def load_base(self, without: Collection[str] = ()) -> Any:
        """A new pipeline from ``weights``, in eval mode, its ``conv_in`` widened if need be.

        Raises:
            UsageError: there is no such base, it is of another family, or it cannot be trained
                with these settings.
        """
        import diffusers

        self.check_loadable()
        self._check_trainable()
        self._tell_base()
        dtype: torch.dtype = getattr(torch, self.dtype)
        loaded = [part for part in self.parts if part not in without]
        dtypes = {"default": dtype, **dict.fromkeys(loaded, dtype)}
        if dtype == torch.float16 and "vae" in loaded:
            _log.info(
                "editor.dtype=float16: the autoencoder stays in float32; it overflows in float16"
            )
            dtypes["vae"] = torch.float32
        kind, settings = getattr(diffusers, self.pipeline_class), self.loading()
        if isinstance(self._base, SingleFile):  # none of those editors can be quantized
            pipeline = self._base.load(kind, dtypes, without, **settings)
        else:
            settings |= self._base.left_out(without)
            pipeline = self._base.load_quantized(
                kind, self.quantize, self.parts[0], dtype=dtypes, **settings
            )
        for part in loaded:
            module = getattr(pipeline, part)
            if module is None:
                raise UsageError(f"editor.weights={self.weights} has no {part}")
            if module.dtype != dtypes[part]:
                module.to(dtype=dtypes[part])
            module.requires_grad_(False).eval()
        if "unet" in loaded and self.widened:
            widen_conv_in(pipeline.unet)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _tell_base(self) -> None:
        _log.log(
            logging.INFO if self.commercial else logging.WARNING,
            "editor=%s: base %s, licence %s (%s)",
            self.name,
            self._base.told,
            self.licence,
            "commercial use allowed" if self.commercial else "no commercial use",
        )

    def load_pipeline(self) -> Any:
        """A new pipeline with ``adapter``, if there is one.

        Raises:
            UsageError: the base cannot edit without an adapter; the adapter is damaged or belongs
                to another editor or base.
        """
        if self.adapter is None and self.widened:
            raise UsageError(
                f"editor.weights={self.weights} does not take a source image before it is "
                "fine-tuned: give adapter=RUN_FOLDER of train.py, or an InstructPix2Pix base"
            )
        return super().load_pipeline()

    @property
    def base_dtype(self) -> str:
        return self.dtype

    def settings_on_card(self) -> dict[str, str]:
        return {**super().settings_on_card(), "base_dtype": self.base_dtype}

    def weights_content(self) -> Mapping[str, str]:
        read = (*self.parts, *self.tokenizers, "scheduler")
        return {"editor.weights": self._base.content(read)}

    @cached_property
    def _base(self) -> BaseWeights | SingleFile:
        return BaseWeights.of(self.weights, self.revision, self.pinned)

    @property
    def widened(self) -> bool:
        """Whether the base's UNet takes latents alone, so that ``conv_in`` is widened.

        Raises:
            UsageError: there is no such base, or its UNet is of another family.
        """
        config = self._unet_config
        taken, latents = config.get("in_channels", 4), config.get("out_channels", 4)
        if taken not in (latents, 2 * latents):
            raise UsageError(
                f"editor.weights={self.weights}: its UNet has {taken} input channels; "
                f"editor={self.name} takes {2 * latents}, or {latents} to widen them"
            )
        return bool(taken == latents)

    @cached_property
    def _unet_config(self) -> Mapping[str, Any]:
        from diffusers import UNet2DConditionModel

        config = self._base.component_config(UNet2DConditionModel, "unet")
        self.check_family(config)
        return config

    def _check_trainable(self) -> None:
        """What is asked of training; edits with an adapter were asked when it was trained."""
        widened = self.widened  # a base of another family is told before its weights are read
        if self.trainable == "full" and self.dtype != "float32":
            raise UsageError(
                f"editor.trainable=full trains in float32: editor.dtype={self.dtype} would only "
                "round the weights that it begins from"
            )
        if self.adapter is not None or self.trainable == "full":
            return
        lora = self.trainable == "lora"
        if widened and not (lora and any(is_target("conv_in", t) for t in self.targets)):
            raise UsageError(
                f"editor.weights={self.weights} has no input channels for the source image; the "
                "new ones begin at zero and must be trained: add conv_in to editor.targets"
            )
        self.check_targets()

    def empty_part(self, part: str) -> nn.Module:
        if part != "unet":
            return self._base.empty_part(part)
        from diffusers import UNet2DConditionModel

        with torch.device("meta"):
            return cast(nn.Module, UNet2DConditionModel.from_config(self._unet_config))


@torch.no_grad()
def widen_conv_in(unet: Any) -> None:
    """Give the first convolution of ``unet`` as many input channels again, all zero, for the
    source's latents (Brooks et al. 2023, section 3.2)."""
    plain = unet.conv_in
    wide = nn.Conv2d(
        2 * plain.in_channels,
        plain.out_channels,
        plain.kernel_size,
        plain.stride,
        plain.padding,
        bias=plain.bias is not None,
        device=plain.weight.device,
        dtype=plain.weight.dtype,
    )
    wide.weight.zero_()
    wide.weight[:, : plain.in_channels].copy_(plain.weight)
    if wide.bias is not None:
        wide.bias.copy_(plain.bias)
    unet.conv_in = wide.requires_grad_(False)
    unet.register_to_config(in_channels=wide.in_channels)

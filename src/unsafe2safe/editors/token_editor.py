"""Editors on flow-matching transformers that see the source image as further tokens.

A family says how it embeds texts and pictures and how it predicts; loading, adapters, batches and
training (:mod:`unsafe2safe.training.token_task`) are the same for all.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unsafe2safe.core.config.components import component
from unsafe2safe.core.devices import checked_device
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.editors.adapter_card import AdapterCard, adapter_folder, check_card, read_card
from unsafe2safe.editors.attention import check_attention, set_attention
from unsafe2safe.editors.base import EditRequest, Pixels
from unsafe2safe.editors.base_weights import BaseWeights, first_line
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.instruct_pix2pix import restore, square
from unsafe2safe.editors.lora_loading import load_lora
from unsafe2safe.editors.text_embedding import TextEmbedding

_log = logging.getLogger(__name__)


@component
class TokenEditor(TrainableEditor):
    """Edits a square copy of the image by a text and brings it back to the image's own size."""

    weights: str = Field(description="Hub id of the base, or the folder of its pipeline.")
    revision: str | None = Field(
        default=None,
        description="Branch, tag or commit on the hub; a commit makes runs repeatable. null: the "
        "newest.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="bfloat16",
        description="Of the base's weights; LoRA weights stay in fp32. float16, which not every "
        "editor takes: the autoencoder stays in fp32, training needs trainer.precision=16-mixed, "
        "and its adapters are bound to it.",
    )
    resolution: int = Field(
        default=1024, ge=16, multiple_of=16, description="Side of the edited square, pixels."
    )
    steps: int = Field(default=28, ge=1, description="Denoising steps of an edit.")
    guidance_scale: float = Field(
        default=2.5, ge=1, description="How strongly an edit follows the text."
    )
    text_tokens: int = Field(
        default=512, ge=8, le=512, description="Texts are cut or padded to so many tokens."
    )
    batch_size: int = Field(default=1, ge=1, description="Images edited at once.")
    device: str = Field(default="cpu", description="Torch device of edits: cpu, cuda, cuda:1.")

    source_conditioning: ClassVar[Literal["channel", "token", "none"]] = "token"
    quantizable: ClassVar[bool] = True
    predicts: ClassVar[str | None] = "flow_prediction"
    fingerprint_dtype: ClassVar[str | None] = "bfloat16"  # so that it is the same for each `dtype`
    side_step: ClassVar[int] = 16
    # The diffusers pipeline, by name: importing it here would load torch's heavy friends.
    pipeline_class: ClassVar[str]
    # Whether its autoencoder may be in another dtype than the rest.
    takes_float16: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.trainable == "branch":
            raise ConfigError(f"editor.trainable=branch: editor={self.name} has no caption branch")
        if self.dtype == "float16" and not self.takes_float16:
            raise ConfigError(f"editor.dtype=float16: editor={self.name} takes bfloat16 or float32")
        if self.trainable == "full" and self.dtype != "float32":
            raise ConfigError("editor.trainable=full trains in fp32 and needs editor.dtype=float32")

    @abstractmethod
    def encode_texts(
        self, pipeline: Any, texts: Sequence[str], images: Tensor | None = None
    ) -> TextEmbedding:
        """The texts as the pipeline itself embeds them; where ``text_sees_source``, each beside its
        source of ``images``, (B, 3, R, R) in [-1, 1]."""

    @abstractmethod
    def encode_images(self, pipeline: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, R, R) in [-1, 1] to mean and standard deviation (B, C, h, w) of its latents, as
        the denoiser sees them."""

    @abstractmethod
    def predict(
        self, pipeline: Any, noisy: Tensor, source: Tensor, timesteps: Tensor, text: TextEmbedding
    ) -> Tensor:
        """(B, C, h, w) the velocity that the denoiser predicts for ``noisy`` beside ``source``,
        latents of the same shape, at ``timesteps`` (B,), as in the base's own training."""

    @abstractmethod
    def shift_mu(self, pipeline: Any, height: int, width: int) -> float:
        """How far the pipeline shifts its noise levels for latents of that size."""

    def weights_content(self) -> Mapping[str, str]:
        """As :meth:`Editor.weights_content`.

        Raises:
            UsageError: ``weights`` is a folder without such a pipeline, or no folder and no hub id.
        """
        if self._base.is_folder:
            self.pipeline_name()
        return {"editor.weights": self._base.content()}

    def pipeline_name(self) -> str:
        """The diffusers class of ``weights``, by its index, a small file.

        Raises:
            UsageError: it is none that this editor takes, or there is no such base.
        """
        return self._base.check_kind(self.pipeline_class, self.name)

    def number_types(self) -> Any:
        """What the base is loaded in; its autoencoder overflows in float16."""
        dtype = getattr(torch, self.dtype)
        return {"default": dtype, "vae": torch.float32} if dtype == torch.float16 else dtype

    @cached_property
    def _base(self) -> BaseWeights:
        return BaseWeights.of(self.weights, self.revision)

    def empty_part(self, part: str) -> nn.Module:
        return self._base.empty_part(part)

    def load_base(self, without: Collection[str] = ()) -> Any:
        """A new pipeline of ``weights`` without adapter, in eval mode.

        Raises:
            UsageError: it is not there, or is another pipeline.
        """
        import diffusers

        kind = getattr(diffusers, self.pipeline_name())
        if not self.commercial:
            tell_licence(self.name, self.licence)
        self.check_loadable()
        pipeline = self._base.load_quantized(
            kind,
            self.quantize,
            self.parts[0],
            dtype=self.number_types(),
            **self._base.left_out(without),
        )
        for name in self.parts:
            if name not in without:
                getattr(pipeline, name).requires_grad_(False).eval()
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def load_pipeline(self) -> Any:
        pipeline = self.load_base()
        if self.adapter is not None:
            folder = adapter_folder(self.adapter)
            card = read_card(folder)
            check_card(card, folder, self, self.base_fingerprint(pipeline))
            try:
                self._load_adapter(pipeline, card, folder)
            except (OSError, ValueError, RuntimeError) as error:
                raise UsageError(f"{folder}: {first_line(error)}") from None
        self.denoiser(pipeline).requires_grad_(False).eval()
        return pipeline

    def _load_adapter(self, pipeline: Any, card: AdapterCard, folder: Path) -> None:
        if card.trainable == "lora":
            load_lora(pipeline, self.parts[0], folder)
            return
        name = self.parts[0]
        trained = type(self.denoiser(pipeline)).from_pretrained(
            folder / name,
            use_safetensors=True,
            local_files_only=True,
            dtype=getattr(torch, self.dtype),
        )
        pipeline.register_modules(**{name: trained})

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline that edits, loaded on first use."""
        device = checked_device(self.device, "editor.device")
        dtype = getattr(torch, self.dtype)
        check_attention(
            self.attention, "editor.attention", dispatched=True, device=device, dtype=dtype
        )
        pipeline = self.load_pipeline().to(device)
        if self.attention is not None:
            set_attention(self.denoiser(pipeline), self.attention)
        return pipeline

    @property
    def base_dtype(self) -> str:
        return self.dtype

    def guidance(self, text_guidance: float) -> float:
        """The scale where the text is to be followed ``text_guidance`` times as strongly."""
        return self.guidance_scale * text_guidance

    def _edit(self, requests: Sequence[EditRequest], batch: Sequence[int]) -> list[Pixels]:
        chosen = [requests[index] for index in batch]
        images = self.run(
            self.pipeline,
            [square(request.image, self.resolution) for request in chosen],
            [
                self.text_of(r.public_caption, r.edit_instruction, r.combined_caption)
                for r in chosen
            ],
            [request.seed for request in chosen],
            chosen[0].text_guidance,
        )
        return [
            restore(image, *request.image.shape[:2])
            for image, request in zip(images, chosen, strict=True)
        ]


@cache  # so that it is told once
def tell_licence(editor: str, licence: str) -> None:
    """Warn that what this editor gives, and what is trained on it, is not for commercial use."""
    _log.warning(
        "editor=%s: its base is under the licence %s, which allows no commercial use",
        editor,
        licence,
    )

"""The InstructPix2Pix family on diffusers' StableDiffusionInstructPix2PixPipeline.

The source image enters through four further input channels of the UNet, as the unscaled mode of
its latents; the target's latents are sampled and scaled (Brooks et al. 2023, section 3.2).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.adapter_card import AdapterCard, adapter_folder, check_card, read_card
from unsafe2safe.editors.attention import check_attention
from unsafe2safe.editors.base import EditRequest, Pixels
from unsafe2safe.editors.branch_attention import BranchKind
from unsafe2safe.editors.caption_branch import (
    BRANCH_FILE,
    add_caption_branch,
    load_caption_branch,
)
from unsafe2safe.editors.concealment import concealed, hidden_in_square
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.lora_loading import load_lora
from unsafe2safe.editors.precision import resolve_precision
from unsafe2safe.editors.text_embedding import TextEmbedding
from unsafe2safe.editors.text_memory import embed_each


def square(pixels: Pixels, resolution: int) -> Pixels:
    """(H, W, 3) uint8 to (resolution, resolution, 3) uint8, stretched: no pixel is cut away."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    resized = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.uint8)


def to_model(pixels: Sequence[Pixels]) -> Tensor:
    """Squares (R, R, 3) uint8 to one (B, 3, R, R) float32 tensor in [-1, 1]."""
    stacked = torch.from_numpy(np.stack([np.ascontiguousarray(square_) for square_ in pixels]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def restore(image: NDArray[np.float32], height: int, width: int) -> Pixels:
    """(R, R, 3) float in [0, 1] to (height, width, 3) uint8."""
    if not np.isfinite(image).all():
        raise ValueError("the editor gave values that are not finite")
    whole = Image.fromarray(np.rint(image.clip(0, 1) * 255).astype(np.uint8))
    return np.asarray(whole.resize((width, height), Image.Resampling.LANCZOS), dtype=np.uint8)


def tokenize(pipeline: Any, texts: Sequence[str]) -> Tensor:
    """(B, L) int64 token ids, each text cut or padded to the tokenizer's length L."""
    tokens = pipeline.tokenizer(
        list(texts),
        padding="max_length",
        max_length=pipeline.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return cast(Tensor, tokens.input_ids)


def embed_tokens(pipeline: Any, tokens: Tensor) -> Tensor:
    """(B, N L, D) last hidden states of the pipeline's CLIP text encoder, which reads N texts of
    each row of ``tokens`` (B, N L) apart."""
    encoder, length = pipeline.text_encoder, pipeline.tokenizer.model_max_length
    parts = [encoder(part.to(encoder.device))[0] for part in torch.split(tokens, length, dim=1)]
    return torch.cat(parts, dim=1)


def encode_text(pipeline: Any, texts: Sequence[str]) -> Tensor:
    """(B, L, D) last hidden states of the pipeline's CLIP text encoder."""
    return embed_tokens(pipeline, tokenize(pipeline, texts))


def encode_moments(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, R, R) in [-1, 1] to mean and standard deviation of its unscaled latents."""
    posterior = vae.encode(images).latent_dist
    return posterior.mean, posterior.std


def _encode(vae: Any, images: Tensor) -> Tensor:
    """(B, 3, R, R) in [-1, 1] to the mode of its unscaled latents, in the autoencoder's dtype."""
    return encode_moments(vae, images.to(vae.device, vae.dtype))[0]


def _decode(vae: Any, latents: Tensor) -> NDArray[np.float32]:
    """Scaled latents to (B, R, R, 3) in [0, 1]."""
    pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
    shown = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
    return cast(NDArray[np.float32], shown)


def lay_channels_last(unet: Any) -> None:
    """Lay the weights of ``unet`` out channels last: convolutions are a quarter faster this way
    round, on CPUs and on GPUs."""
    unet.to(memory_format=torch.channels_last)
    for name, parameter in unet.named_parameters():
        if ".lora_" in name:  # peft's DoRA takes views of its convolutions' usual layout
            parameter.data = parameter.data.contiguous()


@component
class InstructPix2PixEditor(TrainableEditor):
    """Edits a square copy of the image by a text and brings it back to the image's own size."""

    steps: int = Field(default=20, ge=1, description="Denoising steps of an edit.")
    # Guidance at or below 1 (text) or below 1 (image) silently turns guidance off in diffusers.
    text_guidance_scale: float = Field(
        default=7.5, gt=1, description="How strongly an edit follows the text."
    )
    image_guidance_scale: float = Field(
        default=1.5, ge=1, description="How strongly an edit keeps to the source image."
    )
    source: Literal["full", "blur", "blank"] = Field(
        default="full",
        description="What of the source image the editor sees: all; or its masked regions "
        "`blur`red, which leaves their colours, or `blank`, which leaves nothing to copy.",
    )
    caption_branch: Literal["none"] | BranchKind = Field(
        default="none",
        description="`gated`: a cross-attention of its own for the public caption beside the "
        "text's, with a gate per layer that begins closed; `safe`: the same as Safe Cross "
        "Attention, whose map is fused with the text's.",
    )
    text_encoder_targets: tuple[str, ...] = Field(
        default=(),
        description="Layers of the text encoder that get a LoRA update too, as `targets`; empty: "
        "it stays as it is. Where data uses words that the base was not trained on.",
    )
    batch_size: int = Field(default=8, ge=1, description="Images edited at once.")
    device: str = Field(default="cpu", description="Torch device of edits: cpu, cuda, cuda:1.")
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        default="32-true",
        description="Of edits, as `trainer.precision`. bf16-mixed takes half the time where the "
        "processor computes in bf16, and many times as long where it does not; with `auto` a "
        "machine's edits are not another's to the last bit.",
    )

    source_conditioning: ClassVar[Literal["channel", "token", "none"]] = "channel"
    parts: ClassVar[tuple[str, ...]] = ("unet", "vae", "text_encoder")
    family: ClassVar[str] = "instruct-pix2pix"
    dispatched_attention: ClassVar[bool] = False
    # Whether its text encoder can be trained: SDXL's two, with a pooled text, stay as they are.
    trains_text: ClassVar[bool] = True
    # Whether the source's latents are scaled as the target's are.
    source_scaled: ClassVar[bool] = False

    @abstractmethod
    def load_base(self, without: Collection[str] = ()) -> Any:
        """A new InstructPix2Pix pipeline of diffusers without adapter or branch, in eval mode."""

    def check_loadable(self) -> None:
        super().check_loadable()
        if self.text_encoder_targets and not self.trains_text:
            raise UsageError(f"editor.text_encoder_targets: editor={self.name} cannot train texts")
        if self.quantize != "none" and self.caption_branch != "none":
            raise UsageError(
                f"editor.quantize={self.quantize} and editor.caption_branch={self.caption_branch} "
                "do not go together: the branch begins as a copy of layers that would be packed"
            )

    def lay_out(self, pipeline: Any) -> None:
        lay_channels_last(pipeline.unet)

    def shipped_branch(self) -> Path | None:
        """The caption branch that comes with the base, where one does."""
        return None

    def settings_on_card(self) -> dict[str, str]:
        """Settings that an adapter is bound to."""
        return {
            **super().settings_on_card(),
            "caption_branch": self.caption_branch,
            "source": self.source,
        }

    def lora_targets(self) -> dict[str, tuple[str, ...]]:
        if not self.text_encoder_targets:
            return super().lora_targets()
        return {**super().lora_targets(), "text_encoder": self.text_encoder_targets}

    def encoded_anew(self) -> str | None:
        if self.trainable == "lora" and self.text_encoder_targets:
            return "editor.text_encoder_targets: the text encoder is trained"
        return super().encoded_anew()

    @property
    def hides_source(self) -> bool:
        return self.source != "full"

    def embedded_texts(
        self, public_caption: str, edit_instruction: str, combined_caption: str | None = None
    ) -> tuple[str, ...]:
        text = super().embedded_texts(public_caption, edit_instruction, combined_caption)
        return text if self.caption_branch == "none" else (*text, public_caption)

    def add_branch(self, pipeline: Any) -> None:
        """With a ``caption_branch``: add the base's branch, or a new one, to ``pipeline``.

        Raises:
            UsageError: the model cannot have one, or the shipped branch is not of this model.
        """
        if self.caption_branch != "none":
            tokens = pipeline.tokenizer.model_max_length
            add_caption_branch(pipeline.unet, tokens, self.shipped_branch(), self.caption_branch)

    def load_pipeline(self) -> Any:
        """A new pipeline with ``adapter``, if there is one.

        Raises:
            UsageError: the adapter is damaged or belongs to another editor or base.
        """
        if self.adapter is None:
            pipeline = self.load_base()
            self.add_branch(pipeline)
        else:
            folder = adapter_folder(self.adapter)
            card = read_card(folder)
            check_card(card, folder, self)  # told before any weight is loaded
            pipeline = self.load_base()
            check_card(card, folder, self, self.base_fingerprint(pipeline))
            try:
                self._load_adapter(pipeline, card, folder)
            except (OSError, ValueError, RuntimeError) as error:
                raise UsageError(f"{folder}: {str(error).splitlines()[0]}") from None
        for name in self.parts:
            getattr(pipeline, name).requires_grad_(False).eval()
        return pipeline

    def _load_adapter(self, pipeline: Any, card: AdapterCard, folder: Path) -> None:
        weights = card.weights_folder(folder)
        if card.trainable == "full":
            pipeline.unet = type(pipeline.unet).from_pretrained(
                weights / self.parts[0], use_safetensors=True, local_files_only=True
            )
        self.add_branch(pipeline)  # before LoRA, whose layers would hide those it is copied from
        if card.trainable == "lora":
            load_lora(pipeline, self.parts[0], weights)
        if card.caption_branch != "none":
            load_caption_branch(pipeline.unet, folder / BRANCH_FILE)

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline that edits, loaded on first use."""
        check_attention(
            self.attention,
            "editor.attention",
            dispatched=False,
            device=torch.device(self.device),
            dtype=torch.float32,
        )
        pipeline = self.load_pipeline().to(self.device)
        self.lay_out(pipeline)
        return pipeline

    def encode_texts(
        self, pipeline: Any, texts: Sequence[str], public_captions: Sequence[str]
    ) -> TextEmbedding:
        """(B, L, D) embedded texts; with a caption branch (B, 2L, D), the captions behind them."""
        text = embed_each(pipeline, texts, partial(self.embed, pipeline))
        if self.caption_branch == "none":
            return text
        captions = embed_each(pipeline, public_captions, partial(self.embed, pipeline))
        return TextEmbedding(torch.cat([text.tokens, captions.tokens], dim=1), text.pooled)

    def embed(self, pipeline: Any, texts: Sequence[str]) -> TextEmbedding:
        """(B, L, D) texts as the pipeline itself embeds them."""
        return TextEmbedding(encode_text(pipeline, texts))

    def tokens_of(
        self, pipeline: Any, texts: Sequence[str], public_captions: Sequence[str]
    ) -> TextEmbedding:
        """What a text encoder that is trained embeds at every step: ids (B, L) or (B, 2L)."""
        tokens = tokenize(pipeline, texts)
        if self.caption_branch != "none":
            tokens = torch.cat([tokens, tokenize(pipeline, public_captions)], dim=1)
        return TextEmbedding(tokens)

    def no_text(self, pipeline: Any, count: int = 1) -> TextEmbedding:
        """What stands for a dropped text, (count, ...): in training what it is in guidance."""
        return self.encode_texts(pipeline, [""] * count, [""] * count)

    def added_conditions(self, text: TextEmbedding) -> dict[str, Tensor] | None:  # noqa: ARG002
        """What the UNet is told beside the tokens of ``text``; None: nothing."""
        return None

    def pipeline_call(self, text: TextEmbedding, no_text: TextEmbedding) -> dict[str, Any]:
        """The pipeline's arguments for these texts."""
        return {"prompt_embeds": text.tokens, "negative_prompt_embeds": no_text.tokens}

    def seen_source(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """What the editor sees of 8-bit sources: (B, 3, R, R) in [-1, 1], as ``images`` are.

        ``mask`` is (B, 1, R, R), more than 0 where something sensitive is.

        Raises:
            UsageError: something is to be hidden and nobody knows where (``mask`` is None).
        """
        if self.source == "full":
            return images
        if mask is None:
            raise UsageError(f"editor.source={self.source} needs pairs that come with masks")
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        hidden = (mask > 0)[:, 0]
        seen = [
            concealed(square_.numpy(), hidden_.numpy(), self.source)
            for square_, hidden_ in zip(pixels.cpu(), hidden.cpu(), strict=True)
        ]
        return torch.where(hidden[:, None], to_model(seen).to(images), images)

    def run(
        self,
        pipeline: Any,
        images: Sequence[Pixels],
        texts: Sequence[str],
        seeds: Sequence[int],
        text_guidance: float = 1.0,
        public_captions: Sequence[str] | None = None,
    ) -> NDArray[np.float32]:
        """Edit squares (R, R, 3) uint8 with ``pipeline``; gives (B, R, R, 3) in [0, 1].

        Each item has its own noise generator, so that its batch does not change its noise.
        ``public_captions`` are what a caption branch reads; None: empty ones.
        """
        # On the CPU whatever the device, so that a seed means the same noise everywhere.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        nothing = [""] * len(texts)
        kind = torch.device(pipeline.device).type
        mixed = resolve_precision(self.precision, kind) == "bf16-mixed"
        # The pipeline takes one dtype for all its parts: another autoencoder's is our affair.
        apart = pipeline.vae.dtype != pipeline.unet.dtype
        source = to_model(images) / 2 + 0.5
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=mixed):
            if apart:
                source = _encode(pipeline.vae, to_model(images))
            text = self.encode_texts(pipeline, texts, public_captions or nothing)
            edited = pipeline(
                **self.pipeline_call(text, self.no_text(pipeline, len(texts))),
                image=source.to(pipeline.device, pipeline.unet.dtype),
                num_inference_steps=self.steps,
                guidance_scale=self.text_guidance_scale * text_guidance,
                image_guidance_scale=self.image_guidance_scale,
                generator=generators,
                output_type="latent" if apart else "np",
            ).images
            if apart:
                edited = _decode(pipeline.vae, edited)
        return cast(NDArray[np.float32], edited)

    def _edit(self, requests: Sequence[EditRequest], batch: Sequence[int]) -> list[Pixels]:
        chosen = [requests[index] for index in batch]
        images = self.run(
            self.pipeline,
            [self._seen_square(request) for request in chosen],
            [
                self.text_of(r.public_caption, r.edit_instruction, r.combined_caption)
                for r in chosen
            ],
            [request.seed for request in chosen],
            chosen[0].text_guidance,
            [request.public_caption for request in chosen],
        )
        return [
            restore(image, *request.image.shape[:2])
            for image, request in zip(images, chosen, strict=True)
        ]

    def _seen_square(self, request: EditRequest) -> Pixels:
        pixels = square(request.image, self.resolution)
        return concealed(pixels, hidden_in_square(request.mask, self.resolution), self.source)

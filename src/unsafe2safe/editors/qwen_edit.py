"""Qwen-Image-Edit on diffusers' QwenImageEditPipeline and QwenImageEditPlusPipeline.

The source is seen twice: as tokens behind the edit's, and by the text encoder, Qwen2.5-VL. The Plus
form (2509 and later) sees further pictures in the same two ways.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base import Pixels
from unsafe2safe.editors.flow_sampling import sample_latents
from unsafe2safe.editors.flux_kontext import shift_by_tokens
from unsafe2safe.editors.instruct_pix2pix import encode_moments, to_model
from unsafe2safe.editors.text_cutting import cut_to_tokens
from unsafe2safe.editors.text_embedding import TextEmbedding
from unsafe2safe.editors.token_editor import TokenEditor

_PLUS = "QwenImageEditPlusPipeline"
# The side of the square that each form's text encoder sees, as its pipeline has it.
_TEXT_IMAGE_SIDES: Mapping[str, int] = {"QwenImageEditPipeline": 1024, _PLUS: 384}
# What Qwen's own guidance takes for no text.
_NO_TEXT = " "


@component
class QwenEditEditor(TokenEditor):
    """Edits with Qwen-Image-Edit; which form it is, the base says."""

    targets: tuple[str, ...] = Field(
        default=(
            "attn.to_q",
            "attn.to_k",
            "attn.to_v",
            "attn.to_out.0",
            "attn.add_q_proj",
            "attn.add_k_proj",
            "attn.add_v_proj",
            "attn.to_add_out",
            "img_mlp.net.0.proj",
            "img_mlp.net.2",
        ),
        min_length=1,
        description="Modules that get a LoRA update, by the end of their name; those of the last "
        "block that only make text are left out.",
    )
    text_tokens: int = Field(default=512, ge=8, le=1024, description="Texts are cut to so many.")
    text_image_side: int | None = Field(
        default=None,
        ge=32,
        multiple_of=32,
        description="Side of the square that the text encoder sees of a picture, pixels; null: the "
        "pipeline's own, 1024, in the Plus form 384.",
    )
    references: tuple[Path, ...] = Field(
        default=(),
        description="Picture files that the Plus form is shown with every edit, behind the source: "
        "`Picture 2`, `Picture 3` in its texts.",
    )

    parts: ClassVar[tuple[str, ...]] = ("transformer", "vae", "text_encoder")
    family: ClassVar[str] = "qwen-image-edit"
    pipeline_class: ClassVar[str] = "QwenImageEditPipeline"
    text_sees_source: ClassVar[bool] = True
    takes_float16: ClassVar[bool] = True

    def pipeline_name(self) -> str:
        kind = self._base.check_kind(tuple(_TEXT_IMAGE_SIDES), self.name)
        if self.references and kind != _PLUS:
            raise UsageError(
                f"editor.references: editor.weights={self.weights} is a {kind}, which sees the "
                f"source alone; a {_PLUS} sees further pictures"
            )
        return kind

    def weights_content(self) -> Mapping[str, str]:
        """As :meth:`Editor.weights_content`, and what the references show.

        Raises:
            UsageError: as for :class:`TokenEditor`; or a reference cannot be read.
        """
        content = dict(super().weights_content())
        if self.references:
            digest = blake2b(digest_size=8)
            for picture in self._pictures:
                digest.update(f"{picture.size}".encode() + picture.tobytes())
            content["editor.references"] = digest.hexdigest()
        return content

    @cached_property
    def _pictures(self) -> tuple[Image.Image, ...]:
        try:
            return tuple(Image.open(path).convert("RGB") for path in self.references)
        except (OSError, UnidentifiedImageError) as error:
            raise UsageError(f"editor.references: {error}") from None

    def load_base(self, without: Collection[str] = ()) -> Any:
        _ = self._pictures  # told before any weight is loaded
        return super().load_base(without)

    def encoded_anew(self) -> str | None:
        if self.references:
            return "editor.references are encoded while it is trained"
        return super().encoded_anew()

    def encode_texts(
        self, pipeline: Any, texts: Sequence[str], images: Tensor | None = None
    ) -> TextEmbedding:
        """The texts beside their sources, one by one: each has pictures of its own.

        Raises:
            ValueError: there are no ``images``.
        """
        if images is None:
            raise ValueError("Qwen-Image-Edit embeds no text without its source")
        plus = type(pipeline).__name__ == _PLUS
        side = self.text_image_side or _TEXT_IMAGE_SIDES[type(pipeline).__name__]
        embedded = []
        for text, source in zip(texts, _to_pictures(images), strict=True):
            shown = [
                pipeline.image_processor.resize(picture, *_size(picture, side))
                for picture in (source, *self._pictures)
            ]
            tokens, _ = pipeline.encode_prompt(
                prompt=[cut_to_tokens(pipeline.tokenizer, text, self.text_tokens) or _NO_TEXT],
                image=shown if plus else shown[0],
                device=pipeline.text_encoder.device,
            )
            embedded.append(TextEmbedding(tokens))
        return TextEmbedding.stacked(embedded)

    def encode_images(self, pipeline: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        vae = pipeline.vae
        frames = images.unsqueeze(2).to(vae.device, vae.dtype)  # the autoencoder is one of videos
        mean, deviation = (moment.float()[:, :, 0] for moment in encode_moments(vae, frames))
        centre, spread = (_of_channels(values, mean) for values in _statistics(vae))
        return (mean - centre) / spread, deviation / spread

    def predict(
        self, pipeline: Any, noisy: Tensor, source: Tensor, timesteps: Tensor, text: TextEmbedding
    ) -> Tensor:
        return _unpacked(pipeline, self._velocity(pipeline, noisy, source, timesteps, text), noisy)

    def _velocity(
        self, pipeline: Any, noisy: Tensor, source: Tensor, timesteps: Tensor, text: TextEmbedding
    ) -> Tensor:
        """(B, N, D) packed velocities."""
        dtype, batch = text.tokens.dtype, len(noisy)
        seen = [noisy, source]
        seen += [one.expand(batch, -1, -1, -1) for one in self._references(pipeline, noisy.device)]
        packed = [pipeline._pack_latents(one.to(dtype).contiguous(), *one.shape) for one in seen]
        mask = text.mask
        if mask is not None and bool(mask.all()):
            mask = None
        predicted = pipeline.transformer(
            hidden_states=torch.cat(packed, dim=1),
            timestep=timesteps.to(dtype) / pipeline.scheduler.config.num_train_timesteps,
            encoder_hidden_states=text.tokens,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, one.shape[2] // 2, one.shape[3] // 2) for one in seen]] * batch,
            return_dict=False,
        )[0]
        return cast(Tensor, predicted[:, : packed[0].shape[1]])

    @cached_property
    def _known_references(self) -> WeakKeyDictionary[Any, list[Tensor]]:
        return WeakKeyDictionary()

    def _references(self, pipeline: Any, device: torch.device) -> list[Tensor]:
        """(1, C, h, w) latents of each reference, encoded once, about as large as the source."""
        known = self._known_references
        if pipeline.vae not in known:
            with torch.no_grad():
                known[pipeline.vae] = [
                    self.encode_images(
                        pipeline,
                        pipeline.image_processor.preprocess(
                            picture, *_size(picture, self.resolution)
                        ),
                    )[0]
                    for picture in self._pictures
                ]
        return [latents.to(device) for latents in known[pipeline.vae]]

    def shift_mu(self, pipeline: Any, height: int, width: int) -> float:
        return shift_by_tokens(pipeline.scheduler, (height // 2) * (width // 2))

    def run(
        self,
        pipeline: Any,
        images: Sequence[Pixels],
        texts: Sequence[str],
        seeds: Sequence[int],
        text_guidance: float = 1.0,
        public_captions: Sequence[str] | None = None,  # noqa: ARG002
    ) -> NDArray[np.float32]:
        pictures, guidance = to_model(images), self.guidance(text_guidance)
        with torch.no_grad():
            text = self.encode_texts(pipeline, texts, pictures)
            no_text = None
            if guidance > 1:
                no_text = self.encode_texts(pipeline, [""] * len(texts), pictures)
            source, _ = self.encode_images(pipeline, pictures)

            def velocity(noisy: Tensor, times: Tensor) -> Tensor:
                told = self._velocity(pipeline, noisy, source, times, text)
                if no_text is not None:
                    untold = self._velocity(pipeline, noisy, source, times, no_text)
                    # what guidance adds may turn a token's velocity, not lengthen it
                    guided = untold + guidance * (told - untold)
                    told = guided * (_length(told) / _length(guided))
                return _unpacked(pipeline, told, noisy)

            latents = sample_latents(
                pipeline.scheduler,
                velocity,
                source.shape[1:],
                seeds,
                steps=self.steps,
                shift_mu=self.shift_mu(pipeline, *source.shape[2:]),
                device=source.device,
                dtype=text.tokens.dtype,
            )
            centre, spread = (_of_channels(one, latents) for one in _statistics(pipeline.vae))
            frames = (latents.to(pipeline.vae.dtype) * spread + centre).unsqueeze(2)
            decoded = pipeline.vae.decode(frames.to(pipeline.vae.dtype), return_dict=False)[0]
            edited = pipeline.image_processor.postprocess(decoded[:, :, 0], output_type="np")
        return cast(NDArray[np.float32], edited)

    def never_learning(self, denoiser: Any) -> tuple[str, ...]:
        """What of the last block makes text, which nobody reads behind it."""
        from diffusers import QwenImageTransformer2DModel

        if not isinstance(denoiser, QwenImageTransformer2DModel):
            return ()  # another model that mode=plan was asked for
        last = f"transformer_blocks.{len(denoiser.transformer_blocks) - 1}"
        parts = ("attn.add_q_proj", "attn.norm_added_q", "attn.to_add_out", "txt_mlp")
        return tuple(f"{last}.{part}" for part in parts)

    def edits_otherwise(self) -> str:
        own = _TEXT_IMAGE_SIDES["QwenImageEditPipeline"]
        if self.resolution == own and self.text_image_side is None:
            return ""
        return (
            f"Plain diffusers shows the source at {own} px whatever the size of the edit; this "
            f"adapter saw it at\n{self.resolution} px, as Unsafe2Safe shows it."
        )


def _to_pictures(images: Tensor) -> list[Image.Image]:
    """(B, 3, R, R) in [-1, 1] to pictures of 8 bits."""
    pixels = ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return [Image.fromarray(one) for one in pixels.cpu().numpy()]


def _size(picture: Image.Image, side: int) -> tuple[int, int]:
    """Height and width of about ``side`` x ``side`` pixels in the proportions of ``picture``."""
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions

    width, height = calculate_dimensions(side * side, picture.width / picture.height)
    return int(height), int(width)


def _statistics(vae: Any) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of each channel of the latents."""
    return vae.config.latents_mean, vae.config.latents_std


def _of_channels(values: Sequence[float], latents: Tensor) -> Tensor:
    return torch.tensor(values, device=latents.device).view(1, -1, 1, 1)


def _unpacked(pipeline: Any, tokens: Tensor, latents: Tensor) -> Tensor:
    """(B, N, D) tokens in the shape of ``latents`` (B, C, h, w)."""
    height, width = (size * pipeline.vae_scale_factor for size in latents.shape[2:])
    unpacked = pipeline._unpack_latents(tokens, height, width, pipeline.vae_scale_factor)
    return cast(Tensor, unpacked[:, :, 0])


def _length(tokens: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    return length

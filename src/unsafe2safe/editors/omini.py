"""OminiControl on FLUX.1 [dev]: the source as tokens of a branch of their own.

The base is a text-to-image model; what it learns from pairs is a LoRA that acts on the source's
tokens alone (:mod:`unsafe2safe.editors.condition_branch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.editors.adapter_card import AdapterCard
from unsafe2safe.editors.base import Pixels
from unsafe2safe.editors.condition_branch import (
    LORA_FILE,
    Conditioned,
    add_condition_lora,
    load_condition_lora,
    never_learning,
    save_condition_lora,
    velocity_beside_condition,
)
from unsafe2safe.editors.flow_sampling import sample_latents
from unsafe2safe.editors.flux_kontext import TRAINED_GUIDANCE, FluxEditor
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.editors.library_logs import texts_unprinted
from unsafe2safe.editors.lora_targets import lora_config
from unsafe2safe.editors.text_cutting import cut_to_tokens
from unsafe2safe.editors.text_embedding import TextEmbedding
from unsafe2safe.editors.text_memory import embed_each


@component
class OminiEditor(FluxEditor):
    """Edits with FLUX.1 [dev] beside a condition branch; of no use without an adapter."""

    targets: tuple[str, ...] = Field(
        default=(
            "x_embedder",
            "norm1.linear",
            "attn.to_q",
            "attn.to_k",
            "attn.to_v",
            "attn.to_out.0",
            "ff.net.2",
            "proj_mlp",
            "proj_out",
        ),
        min_length=1,
        description="Modules that get a LoRA update, by the end of their name.",
    )
    clip_tokens: int = Field(
        default=73, ge=1, description="Texts are cut to so many of CLIP's tokens."
    )
    condition_offset: tuple[int, int] = Field(
        default=(0, 0),
        description="Rows and columns, of 16 pixels, by which the source's tokens lie beside the "
        "edit's; 0, 0: each lies on the place that it shows.",
    )
    independent_condition: bool = Field(
        default=False,
        description="The source's tokens attend to each other only, not to text and edit.",
    )

    family: ClassVar[str] = "omini-control"
    pipeline_class: ClassVar[str] = "FluxPipeline"
    lora_file: ClassVar[str | None] = LORA_FILE
    takes_float16: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trainable == "full":
            raise ConfigError(
                f"editor.trainable=full: editor={self.name} trains a LoRA on the condition branch, "
                "beside a base that stays as it is"
            )

    def encode_texts(
        self, pipeline: Any, texts: Sequence[str], images: Tensor | None = None
    ) -> TextEmbedding:
        cut = [cut_to_tokens(pipeline.tokenizer, text, self.clip_tokens) for text in texts]
        return super().encode_texts(pipeline, cut, images)

    def predict(
        self, pipeline: Any, noisy: Tensor, source: Tensor, timesteps: Tensor, text: TextEmbedding
    ) -> Tensor:
        return self._velocity(pipeline, noisy, source, timesteps, text, TRAINED_GUIDANCE)

    def _velocity(
        self,
        pipeline: Any,
        noisy: Tensor,
        source: Tensor,
        timesteps: Tensor,
        text: TextEmbedding,
        guidance: float,
    ) -> Tensor:
        transformer, dtype = pipeline.transformer, text.tokens.dtype
        batch, channels, height, width = noisy.shape
        packed, condition = (
            pipeline._pack_latents(latents.to(dtype), batch, channels, height, width)
            for latents in (noisy, source)
        )
        ids = pipeline._prepare_latent_image_ids(
            batch, height // 2, width // 2, noisy.device, dtype
        )
        takes_guidance = transformer.config.guidance_embeds
        given = Conditioned(
            condition=condition,
            noisy_ids=ids,
            condition_ids=ids + ids.new_tensor([0, *self.condition_offset]),
            text=text.tokens,
            pooled=cast(Tensor, text.pooled),
            times=timesteps.to(dtype) / pipeline.scheduler.config.num_train_timesteps,
            guidance=noisy.new_full((batch,), guidance) if takes_guidance else None,
            # whatever an edit asks of the picture: the branch stays as it was trained
            condition_guidance=noisy.new_full((batch,), TRAINED_GUIDANCE)
            if takes_guidance
            else None,
            independent=self.independent_condition,
        )
        predicted = velocity_beside_condition(transformer, packed, given)
        side = pipeline.vae_scale_factor
        return cast(Tensor, pipeline._unpack_latents(predicted, height * side, width * side, side))

    def run(
        self,
        pipeline: Any,
        images: Sequence[Pixels],
        texts: Sequence[str],
        seeds: Sequence[int],
        text_guidance: float = 1.0,
        public_captions: Sequence[str] | None = None,  # noqa: ARG002
    ) -> NDArray[np.float32]:
        with torch.no_grad(), texts_unprinted(pipeline):
            embed = partial(self.encode_texts, pipeline)
            text = embed_each(pipeline, texts, embed, self.text_tokens)
            source, _ = self.encode_images(pipeline, to_model(images))
            guidance, shape = self.guidance(text_guidance), source.shape[1:]
            latents = sample_latents(
                pipeline.scheduler,
                lambda noisy, times: self._velocity(
                    pipeline, noisy, source, times, text, guidance
                ).to(noisy),
                shape,
                seeds,
                steps=self.steps,
                shift_mu=self.shift_mu(pipeline, *shape[1:]),
                device=source.device,
                dtype=text.tokens.dtype,
            )
            vae = pipeline.vae
            unscaled = latents / vae.config.scaling_factor + vae.config.shift_factor
            decoded = vae.decode(unscaled.to(vae.dtype), return_dict=False)[0]
            edited = pipeline.image_processor.postprocess(decoded, output_type="np")
        return cast(NDArray[np.float32], edited)

    def load_pipeline(self) -> Any:
        """A new pipeline with ``adapter``.

        Raises:
            UsageError: there is no adapter, or it is damaged or belongs to another editor or base.
        """
        if self.adapter is None:
            raise UsageError(
                f"editor={self.name} does not see the source image before it is fine-tuned: give "
                "adapter=RUN_FOLDER of train.py"
            )
        return super().load_pipeline()

    def _load_adapter(self, pipeline: Any, card: AdapterCard, folder: Path) -> None:
        transformer = self.denoiser(pipeline)
        # dataclasses.replace keeps every setting but those of the LoRA
        trained = replace(
            cast(Any, self),
            rank=card.rank,
            alpha=card.alpha,
            targets=card.targets,
            use_rslora=card.use_rslora,
            use_dora=card.use_dora,
            dropout=0.0,
        )
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and not wanted
            add_condition_lora(transformer, lora_config(trained, transformer))
        for name, parameter in transformer.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
        load_condition_lora(transformer, folder / LORA_FILE)

    def settings_on_card(self) -> dict[str, Any]:
        return {
            **super().settings_on_card(),
            "condition_offset": self.condition_offset,
            "independent_condition": self.independent_condition,
        }

    def never_learning(self, denoiser: Any) -> tuple[str, ...]:
        return never_learning(denoiser)

    def add_lora(self, denoiser: Any, config: Any) -> None:
        add_condition_lora(denoiser, config)

    def save_lora(self, denoiser: Any, folder: Path) -> None:
        save_condition_lora(denoiser, folder / LORA_FILE)

    def edits_otherwise(self) -> str:
        return (
            f"`{LORA_FILE}` holds\na LoRA that acts on the source's tokens alone, which diffusers "
            "does not know. On all tokens it would\nbe another model."
        )

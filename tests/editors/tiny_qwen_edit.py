"""Qwen-Image-Edit's own classes with random weights at toy size, saved as diffusers saves them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from editors.tiny_klein import qwen_tokenizer

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import compose_config
from unsafe2safe.editors.qwen_edit import QwenEditEditor

SIDE = 32
WIDTH = 32  # of the text encoder
LATENT_CHANNELS = 4
SCALE = 4  # pixels of a latent

SMALL = {
    "resolution": SIDE,
    "text_image_side": SIDE,
    "steps": 2,
    "rank": 2,
    "dtype": "float32",
    "batch_size": 2,
}

_VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_MEANS = [-0.7, 0.3, 0.1, -0.2]
_DEVIATIONS = [2.8, 1.4, 0.6, 1.1]


def qwen_edit(**settings: Any) -> QwenEditEditor:
    """``editor=qwen_edit`` at toy size."""
    values = compose_config("train", ["editor=qwen_edit"])["editor"]
    return build(dict(values) | SMALL | settings, "editor", QwenEditEditor)


def save_tiny_qwen_edit(folder: Path, *, plus: bool = False, zero_cond_t: bool = False) -> Path:
    """A QwenImageEditPipeline in ``folder``, or a QwenImageEditPlusPipeline.

    ``zero_cond_t``: its transformer modulates source tokens as clean ones, as the later Plus does.
    """
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPipeline,
        QwenImageEditPlusPipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLProcessor,
    )
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens(list(_VISION), special_tokens=True)
    find = tokenizer.convert_tokens_to_ids
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                tie_word_embeddings=False,
                text_config={
                    "vocab_size": len(tokenizer),
                    "hidden_size": WIDTH,
                    "intermediate_size": WIDTH,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "bos_token_id": None,
                    "eos_token_id": None,
                    "rope_parameters": {
                        "rope_type": "default",
                        "rope_theta": 1e4,
                        "mrope_section": [2, 3, 3],
                    },
                },
                vision_config={
                    "depth": 1,
                    "hidden_size": WIDTH,
                    "intermediate_size": WIDTH,
                    "num_heads": 2,
                    "out_hidden_size": WIDTH,
                    "fullatt_block_indexes": [0],
                },
                image_token_id=find("<|image_pad|>"),
                video_token_id=find("<|video_pad|>"),
                vision_start_token_id=find("<|vision_start|>"),
                vision_end_token_id=find("<|vision_end|>"),
            )
        )
        for parameter in text_encoder.parameters():
            if parameter.ndim > 1:  # so that what it says depends on picture and words
                parameter.data.normal_(0.0, 0.3)
        (QwenImageEditPlusPipeline if plus else QwenImageEditPipeline)(
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True, shift_terminal=0.02, max_image_seq_len=8192
            ),
            vae=AutoencoderKLQwenImage(
                base_dim=8,
                z_dim=LATENT_CHANNELS,
                dim_mult=[1, 1, 1],
                num_res_blocks=1,
                temperal_downsample=[False, True],
                latents_mean=_MEANS,
                latents_std=_DEVIATIONS,
            ),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            processor=Qwen2VLProcessor(
                Qwen2VLImageProcessor(size={"shortest_edge": 28**2, "longest_edge": 1003520}),
                tokenizer,
                Qwen2VLVideoProcessor(),
                chat_template=tokenizer.chat_template,
            ),
            transformer=QwenImageTransformer2DModel(
                in_channels=4 * LATENT_CHANNELS,
                out_channels=LATENT_CHANNELS,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=WIDTH,
                axes_dims_rope=(4, 4, 8),
                zero_cond_t=zero_cond_t,
            ),
        ).save_pretrained(folder)
    return folder


@contextmanager
def pictures_of_that_size(side: int = SIDE) -> Iterator[None]:
    """Inside the block, diffusers' pipelines show pictures of ``side`` x ``side`` pixels where they
    would of 1024 x 1024 or 384 x 384."""
    from diffusers.pipelines.qwenimage import (
        pipeline_qwenimage_edit as edit,
    )
    from diffusers.pipelines.qwenimage import (
        pipeline_qwenimage_edit_plus as plus,
    )

    own = edit.calculate_dimensions
    with (
        patch.object(edit, "calculate_dimensions", lambda _, ratio: own(side * side, ratio)),
        patch.object(plus, "CONDITION_IMAGE_SIZE", side * side),
        patch.object(plus, "VAE_IMAGE_SIZE", side * side),
    ):
        yield

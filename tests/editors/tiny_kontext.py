"""FLUX.1 Kontext's own classes with random weights at toy size, saved as diffusers saves them."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import compose_config
from unsafe2safe.editors.flux_kontext import FluxKontextEditor
from unsafe2safe.editors.tiny_tokenizer import MAX_TOKENS, build_tokenizer

SIDE = 32
WIDTH = 32  # of both text encoders
LATENT_CHANNELS = 4
TEXT_TOKENS = 16

SMALL = {
    "resolution": SIDE,
    "steps": 2,
    "text_tokens": TEXT_TOKENS,
    "rank": 2,
    "dtype": "float32",
    "batch_size": 2,
}


def kontext(**settings: Any) -> FluxKontextEditor:
    """``editor=kontext`` at toy size."""
    values = compose_config("train", ["editor=kontext"])["editor"]
    return build(dict(values) | SMALL | settings, "editor", FluxKontextEditor)


def save_tiny_kontext(
    folder: Path,
    *,
    guidance: bool = True,
    dynamic: bool = True,
    kind: str = "FluxKontextPipeline",
    single_layers: int = 1,
) -> Path:
    """A FluxKontextPipeline in ``folder``, or of another ``kind`` with the same parts.

    ``guidance``: its transformer takes a guidance scale.
    """
    import diffusers
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxTransformer2DModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    clip_tokens, t5_tokens = build_tokenizer(), t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        getattr(diffusers, kind)(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=dynamic, shift=3.0),
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(8, 16),
                norm_num_groups=4,
                latent_channels=LATENT_CHANNELS,
                sample_size=SIDE,
                scaling_factor=0.7,
                shift_factor=0.1,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(clip_tokens),
                    hidden_size=WIDTH,
                    intermediate_size=WIDTH,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    max_position_embeddings=MAX_TOKENS,
                    projection_dim=WIDTH,
                    bos_token_id=clip_tokens.bos_token_id,
                    eos_token_id=clip_tokens.eos_token_id,
                    pad_token_id=clip_tokens.pad_token_id,
                )
            ),
            tokenizer=clip_tokens,
            text_encoder_2=T5EncoderModel(
                T5Config(
                    vocab_size=len(t5_tokens),
                    d_model=WIDTH,
                    d_kv=16,
                    d_ff=WIDTH,
                    num_layers=1,
                    num_heads=2,
                )
            ),
            tokenizer_2=t5_tokens,
            transformer=FluxTransformer2DModel(
                patch_size=1,
                in_channels=4 * LATENT_CHANNELS,
                num_layers=1,
                num_single_layers=single_layers,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=WIDTH,
                pooled_projection_dim=WIDTH,
                guidance_embeds=guidance,
                axes_dims_rope=(4, 4, 8),
            ),
        ).save_pretrained(folder)
    return folder


def t5_tokenizer() -> Any:
    """A T5 tokenizer that knows letters."""
    from transformers import T5TokenizerFast

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -3.0) for letter in string.ascii_letters + string.punctuation]
    return T5TokenizerFast(vocab=[*special, *letters], extra_ids=0)

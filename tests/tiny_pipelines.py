"""Text-to-image pipelines of the true classes at toy size, with random weights, in folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from unsafe2safe.editors.tiny_tokenizer import MAX_TOKENS, build_tokenizer

_WIDTH = 16
_LETTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,'"


def save_sd3(folder: Path) -> Path:
    """A StableDiffusion3Pipeline with a VAE of factor 2, for pictures up to 64 px."""
    torch.manual_seed(3)
    tokenizer = build_tokenizer()
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
            attention_head_dim=8, num_attention_heads=2, joint_attention_dim=2 * _WIDTH,
            caption_projection_dim=16, pooled_projection_dim=2 * _WIDTH, pos_embed_max_size=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=CLIPTextModelWithProjection(_clip(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(_clip(tokenizer)),
        tokenizer_2=tokenizer,
        text_encoder_3=T5EncoderModel(_t5()),
        tokenizer_3=_t5_tokenizer(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_flux(folder: Path) -> Path:
    """A FluxPipeline with guidance, and the published schedule."""
    torch.manual_seed(4)
    tokenizer = build_tokenizer()
    FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=2 * _WIDTH, pooled_projection_dim=_WIDTH,
            guidance_embeds=True, axes_dims_rope=(2, 2, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
        ),
        vae=_vae(shift_factor=0.1, scaling_factor=0.4),
        text_encoder=CLIPTextModel(_clip(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(_t5()),
        tokenizer_2=_t5_tokenizer(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_sd1(folder: Path) -> Path:
    """A StableDiffusionPipeline with self-attention at two resolutions, and SD 1.5's schedule."""
    torch.manual_seed(5)
    tokenizer = build_tokenizer()
    StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32),
            layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2, cross_attention_dim=_WIDTH,
            attention_head_dim=2, norm_num_groups=4,
        ),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
            skip_prk_steps=True, set_alpha_to_one=False,
        ),
        vae=_vae(scaling_factor=0.18215),
        text_encoder=CLIPTextModel(_clip(tokenizer)),
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def change_setting(path: Path, key: str, value: Any) -> None:
    """Set one key of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def _vae(**settings: float) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=2,
        sample_size=32, **settings,
    )  # fmt: skip


def _clip(tokenizer: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=_WIDTH, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=MAX_TOKENS, projection_dim=_WIDTH,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def _t5() -> T5Config:
    return T5Config(
        vocab_size=len(_LETTERS) + 3, d_model=2 * _WIDTH, d_kv=8, d_ff=32, num_layers=1,
        num_heads=2,
    )  # fmt: skip


def _t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=[*pieces, *((letter, -1.0) for letter in _LETTERS)], extra_ids=0)

"""Stable Diffusion XL at toy size: random weights of the true classes, in folders as diffusers
saves them, and in one file as Stability AI publishes CosXL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_bases import SIDE

from unsafe2safe.editors.tiny_tokenizer import MAX_TOKENS, build_tokenizer

WIDTHS = (16, 24)  # of the two text encoders
POOLED = 20


def small_unet(in_channels: int) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1),
        cross_attention_dim=sum(WIDTHS),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=POOLED + 6 * 8,
    )


def edm_scheduler() -> Any:
    """CosXL's own."""
    from diffusers import EDMEulerScheduler

    return EDMEulerScheduler(
        sigma_min=0.002,
        sigma_max=120.0,
        sigma_data=1.0,
        sigma_schedule="exponential",
        prediction_type="v_prediction",
    )


def write_xl(folder: Path, in_channels: int = 8, kind: str = "epsilon", zeros: bool = True) -> Path:
    """A pipeline as diffusers/sdxl-instructpix2pix-768 is one; with 4 ``in_channels`` as plain
    Stable Diffusion XL is one. ``kind``: what its scheduler expects, ``epsilon``,
    ``v_prediction``, or ``cosxl``. ``zeros``: whether an empty text counts as zeros."""
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLInstructPix2PixPipeline,
        StableDiffusionXLPipeline,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(in_channels)
        parts = {
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(8, 8, 8, 8),
                layers_per_block=1,
                norm_num_groups=4,
                sample_size=SIDE,
                scaling_factor=0.13025,
            ),
            "text_encoder": CLIPTextModel(_clip(tokenizer, WIDTHS[0])),
            "text_encoder_2": CLIPTextModelWithProjection(_clip(tokenizer, WIDTHS[1])),
            "unet": small_unet(in_channels),
        }
    scheduler = edm_scheduler()
    if kind != "cosxl":
        scheduler = EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
            prediction_type=kind,
        )
    taken = in_channels == 8
    pipeline = StableDiffusionXLInstructPix2PixPipeline if taken else StableDiffusionXLPipeline
    pipeline(
        **parts,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def _clip(tokenizer: Any, width: int) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=POOLED,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def write_single_file(base: Path, path: Path, sigma_max: float = 120.0) -> Path:
    """The weights of the folder ``base`` as one file in Stability AI's layout."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    load = {"use_safetensors": True, "local_files_only": True}
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet", **load)
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae", **load)
    clip_l = CLIPTextModel.from_pretrained(base / "text_encoder")
    clip_g = CLIPTextModelWithProjection.from_pretrained(base / "text_encoder_2")
    weights = {
        **{f"model.diffusion_model.{_unet(n, unet)}": v for n, v in unet.state_dict().items()},
        **_vae(vae),
        **{
            f"conditioner.embedders.0.transformer.text_model.{n.removeprefix('text_model.')}": v
            for n, v in clip_l.state_dict().items()
        },
        **{f"conditioner.embedders.1.model.{n}": v for n, v in _open_clip(clip_g).items()},
        "edm_vpred.sigma_min": torch.tensor(0.002),
        "edm_vpred.sigma_max": torch.tensor(sigma_max),
    }
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return path


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _unet(name: str, unet: Any) -> str:
    """The name of a weight in Stability AI's layout."""
    for ours, theirs in _ENDS.items():
        if name.startswith(f"{ours}."):
            return theirs + name[len(ours) :]
    layers = unet.config.layers_per_block
    parts = name.split(".")
    if parts[0] == "mid_block":
        index = 2 * int(parts[2]) + (parts[1] == "attentions")
        place, rest = f"middle_block.{index}", parts[3:]
    else:
        block, kind, layer, rest = int(parts[1]), parts[2], int(parts[3]), parts[4:]
        down = parts[0] == "down_blocks"
        start = (layers + 1) * block + (1 if down else 0)
        side = "input_blocks" if down else "output_blocks"
        if kind in ("downsamplers", "upsamplers"):
            has_attention = "CrossAttn" in unet.config.up_block_types[block]
            within = "0.op" if down else f"{2 if has_attention else 1}.conv"
            return f"{side}.{start + layers}.{within}.{rest[-1]}"
        place = f"{side}.{start + layer}.{1 if kind == 'attentions' else 0}"
    if rest[0] in _RESNET and "attentions" not in parts:
        rest = [_RESNET[rest[0]], *rest[1:]]
    return ".".join([place, *rest])


def _vae(vae: Any) -> dict[str, torch.Tensor]:
    blocks = len(vae.config.block_out_channels)
    renamed = {}
    for ours, weight in vae.state_dict().items():
        parts, value = ours.split("."), weight
        if parts[1] in ("down_blocks", "up_blocks"):
            down = parts[1] == "down_blocks"
            block = int(parts[2]) if down else blocks - 1 - int(parts[2])
            inner = (
                ["block", *parts[4:]]
                if parts[3] == "resnets"
                else ["downsample" if down else "upsample", *parts[5:]]
            )
            parts = [parts[0], "down" if down else "up", str(block), *inner]
        elif parts[1] == "mid_block":
            if parts[2] == "attentions":
                layer = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v"}
                at = "proj_out" if parts[4] == "to_out" else layer[parts[4]]
                parts = [parts[0], "mid", "attn_1", at, parts[-1]]
                if value.ndim == 2:
                    value = value[:, :, None, None]
            else:
                parts = [parts[0], "mid", f"block_{int(parts[3]) + 1}", *parts[4:]]
        theirs = ".".join(parts).replace("conv_norm_out", "norm_out")
        theirs = theirs.replace("conv_shortcut", "nin_shortcut")
        renamed[f"first_stage_model.{theirs}"] = value
    return renamed


def _open_clip(encoder: Any) -> dict[str, torch.Tensor]:
    named = {n.removeprefix("text_model."): v for n, v in encoder.state_dict().items()}
    weights = {
        "token_embedding.weight": named["embeddings.token_embedding.weight"],
        "positional_embedding": named["embeddings.position_embedding.weight"],
        "text_projection": named["text_projection.weight"].T,
    }
    for end in ("weight", "bias"):
        weights[f"ln_final.{end}"] = named[f"final_layer_norm.{end}"]
        for layer in range(encoder.config.num_hidden_layers):
            ours, theirs = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
            projections = [named[f"{ours}self_attn.{kind}_proj.{end}"] for kind in "qkv"]
            weights[f"{theirs}attn.in_proj_{end}"] = torch.cat(projections)
            for left, right in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                weights[f"{theirs}{right}.{end}"] = named[f"{ours}{left}.{end}"]
    return weights

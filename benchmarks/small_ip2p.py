"""An InstructPix2Pix of random weights, in Stable Diffusion 1.5's proportions at a fifth its width.

At 128 pixels its autoencoder, text encoder and UNet share a training step about as they do at the
true size and 256 pixels: by count of FLOPs 58, 2 and 40 %, there 50, 1 and 49 %. So the bound of
what a cache can gain is 2.5 times here and 2.0 times there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TEXT_TOKENS = 77


@dataclass(frozen=True)
class Size:
    """``side`` is that of the square, pixels; the widths are of each block."""

    side: int
    unet: tuple[int, ...]
    unet_layers: int
    vae: tuple[int, ...]
    vae_layers: int
    text_width: int
    groups: int


TRUE_PROPORTIONS = Size(128, (64, 128, 256, 256), 2, (32, 64, 128, 128), 2, 256, 32)
# At 64 pixels the innermost attention has one token, and nothing to learn.
SMALL = Size(128, (8, 8, 16, 16), 1, (4, 4, 8, 8), 1, 24, 4)


def save_base(size: Size, folder: Path) -> None:
    """The pipeline, as ``editor.weights`` names one."""
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerAncestralDiscreteScheduler,
        StableDiffusionInstructPix2PixPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    from unsafe2safe.editors.tiny_tokenizer import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = TEXT_TOKENS
    StableDiffusionInstructPix2PixPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=size.vae, layers_per_block=size.vae_layers,
            norm_num_groups=size.groups, sample_size=size.side,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(  # two layers: as small a part of a step as CLIP-L's twelve are
                vocab_size=len(tokenizer), hidden_size=size.text_width,
                intermediate_size=4 * size.text_width, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=TEXT_TOKENS, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            )
        ),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=size.side // 8, in_channels=8, out_channels=4,
            block_out_channels=size.unet, layers_per_block=size.unet_layers,
            cross_attention_dim=size.text_width, attention_head_dim=min(8, size.unet[0]),
            norm_num_groups=size.groups,
        ),
        scheduler=EulerAncestralDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def pictures(count: int, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[str]]:
    """Sources and targets, (count, side, side, 3) each, and an edit instruction for each."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    sources = coarse.repeat(side // 8, axis=1).repeat(side // 8, axis=2)
    texts = [f"give person {index} red hair" for index in range(count)]
    return sources, np.ascontiguousarray(sources[..., ::-1]), texts


def save_pairs(count: int, side: int, folder: Path) -> None:
    """The same as a folder that ``pairs`` names."""
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Picture

    sources, targets, texts = pictures(count, side)
    kinds = {"source": Image(), "target": Image(), "edit_instruction": Value("string")}
    content = {
        "source": [Picture.fromarray(pixels) for pixels in sources],
        "target": [Picture.fromarray(pixels) for pixels in targets],
        "edit_instruction": texts,
    }
    folder.mkdir(parents=True)
    Dataset.from_dict(content, features=Features(kinds)).to_parquet(str(folder / "train.parquet"))

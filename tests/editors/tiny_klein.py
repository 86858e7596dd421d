"""FLUX.2 [klein]'s own classes with random weights at toy size, saved as diffusers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import compose_config
from unsafe2safe.editors.flux2_klein import Flux2KleinEditor

SIDE = 64  # the least that the pipeline takes
WIDTH = 16  # of the text encoder
LAYERS = (0, 1, 2)
LATENT_CHANNELS = 4
TEXT_TOKENS = 48

SMALL = {
    "resolution": SIDE,
    "steps": 2,
    "text_tokens": TEXT_TOKENS,
    "text_layers": LAYERS,
    "rank": 2,
    "dtype": "float32",
}

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }} {{ message.content }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def klein(**settings: Any) -> Flux2KleinEditor:
    """``editor=flux2_klein`` at toy size."""
    values = compose_config("train", ["editor=flux2_klein"])["editor"]
    return build(dict(values) | SMALL | settings, "editor", Flux2KleinEditor)


def save_tiny_klein(folder: Path) -> Path:
    """A Flux2KleinPipeline in ``folder``."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = qwen_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(4, 8, 8),
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=LATENT_CHANNELS,
            sample_size=SIDE,
        )
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2.0)
        Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=vae,
            text_encoder=Qwen3ForCausalLM(
                Qwen3Config(
                    vocab_size=len(tokenizer),
                    hidden_size=WIDTH,
                    intermediate_size=WIDTH,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    num_key_value_heads=1,
                    head_dim=8,
                )
            ),
            tokenizer=tokenizer,
            transformer=Flux2Transformer2DModel(
                in_channels=4 * LATENT_CHANNELS,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=len(LAYERS) * WIDTH,
                timestep_guidance_channels=16,
                axes_dims_rope=(4, 4, 4, 4),
                guidance_embeds=False,
            ),
        ).save_pretrained(folder)
    return folder


def qwen_tokenizer() -> Any:
    """Qwen's tokenizer over single bytes, with a chat template."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2TokenizerFast

    tokens = [*sorted(ByteLevel.alphabet()), *_SPECIAL]
    tokenizer = Qwen2TokenizerFast(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        additional_special_tokens=list(_SPECIAL[1:]),
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer

"""ViT, masked autoencoder and BLIP-2 of the true classes at toy size, saved as their users do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from backends.tiny_models import tokenizer

SIDE = 32
_ENCODER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": SIDE, "patch_size": 8,
}  # fmt: skip


def vit(folder: Path) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        ViTForImageClassification(ViTConfig(**_ENCODER, num_labels=7)).save_pretrained(folder)
    return folder


def masked_autoencoder(folder: Path) -> Path:
    """As facebook/vit-mae-base is one: an encoder with a decoder, and no head."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    decoder = {
        "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        ViTMAEForPreTraining(ViTMAEConfig(**_ENCODER, **decoder)).save_pretrained(folder)
    return folder


def _opt(vocabulary: int, tokens: Any) -> dict[str, Any]:
    return {
        "model_type": "opt", "vocab_size": vocabulary, "hidden_size": 32, "ffn_dim": 48,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128,
        "word_embed_proj_dim": 32, "pad_token_id": tokens.pad_token_id,
        "bos_token_id": tokens.pad_token_id, "eos_token_id": tokens.eos_token_id,
    }  # fmt: skip


def _t5(vocabulary: int, tokens: Any) -> dict[str, Any]:
    return {
        "model_type": "t5", "vocab_size": vocabulary, "d_model": 32, "d_kv": 16, "d_ff": 48,
        "num_layers": 2, "num_heads": 2, "pad_token_id": tokens.pad_token_id,
        "eos_token_id": tokens.eos_token_id, "decoder_start_token_id": tokens.pad_token_id,
    }  # fmt: skip


def blip2(folder: Path, *, encoder_decoder: bool = False) -> Path:
    """With an OPT, or with a T5 as the flan-t5 ones have."""
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessor,
    )

    tokens = tokenizer()
    sides = {"height": SIDE, "width": SIDE}
    processor = Blip2Processor(BlipImageProcessor(size=sides), tokens, num_query_tokens=4)
    config = Blip2Config(
        vision_config=_ENCODER,
        qformer_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "encoder_hidden_size": 32, "vocab_size": len(tokens),
        },
        text_config=(_t5 if encoder_decoder else _opt)(len(tokens), tokens),
        num_query_tokens=4,
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Blip2ForConditionalGeneration(config)
        with torch.no_grad():  # else nothing depends on the image at this size
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

"""A CLIP of the true class at toy size, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_clip import CLIPImageProcessor

from unsafe2safe.editors.tiny_tokenizer import build_tokenizer


def save_tiny_clip(folder: Path) -> Path:
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text = {
        **layers, "vocab_size": len(tokenizer), "max_position_embeddings": 16,
        "num_attention_heads": 2, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {**layers, "image_size": 32, "patch_size": 8, "num_attention_heads": 2}
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    ).save_pretrained(folder)
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessor(**sides), tokenizer).save_pretrained(folder)
    return folder

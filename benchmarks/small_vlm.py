"""A Qwen3-VL of random weights, small but not a toy: looking at an image costs what it should,
a good part of answering a question about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from backends import tiny_models as tiny
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    PreTrainedTokenizerBase,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

SIDE = 448  # pixels; 196 tokens
CHARACTERS_PER_TOKEN = 4.5  # of English, with the tokenizers of real models


def tokenizer(prompts: Sequence[str]) -> PreTrainedTokenizerBase:
    """The tests' tokenizer of bytes, with merges until ``prompts`` have as many tokens as a real
    tokenizer would give them: of bytes alone, reading the prompt would outweigh all else."""
    for merges in range(50, 3000, 50):
        learned = Tokenizer(BPE())
        learned.pre_tokenizer = ByteLevel(add_prefix_space=False)
        alphabet = sorted(ByteLevel.alphabet())
        size = len(alphabet) + merges
        trainer = BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        learned.train_from_iterator(prompts, trainer)
        length = sum(len(learned.encode(prompt).ids) for prompt in prompts)
        if length * CHARACTERS_PER_TOKEN <= sum(map(len, prompts)):
            break
    pairs = json.loads(learned.to_str())["model"]["merges"]
    with (
        patch.object(tiny, "MERGES", [pair if isinstance(pair, str) else " ".join(pair)
                                      for pair in pairs]),
        patch.object(tiny, "VOCABULARY", tiny.VOCABULARY + merges),
    ):  # fmt: skip
        return tiny.tokenizer()


def build(folder: Path, prompts: Sequence[str]) -> Path:
    """Save the model and its processor in ``folder``: the same weights on every call."""
    tokens = tokenizer(prompts)
    find = tokens.convert_tokens_to_ids
    config = Qwen3VLConfig(
        vision_config={
            "depth": 4, "hidden_size": 192, "intermediate_size": 768, "num_heads": 4,
            "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "out_hidden_size": 256, "num_position_embeddings": 784,
            "deepstack_visual_indexes": [0],
        },
        text_config={
            **tiny.TEXT_SIZES, **tiny._ids(tokens), "vocab_size": len(tokens),
            "hidden_size": 256, "intermediate_size": 768,
            "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 64,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [12, 10, 10],
            },
        },
        image_token_id=find("<|image_pad|>"),
        video_token_id=find("<|video_pad|>"),
        vision_start_token_id=find("<|vision_start|>"),
        vision_end_token_id=find("<|vision_end|>"),
    )  # fmt: skip
    sizes = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    patches = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, "size": sizes}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(**patches),
        tokens,
        Qwen3VLVideoProcessor(**patches),
        chat_template=tiny.template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = Qwen3VLForConditionalGeneration(config)
    return tiny._save(model, processor, folder)

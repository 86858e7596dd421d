"""Vision-language and language models of true classes at toy size, with random weights.

Each family is saved with ``save_pretrained``, so that tests load it through the code users run.
The tokenizer has a token for each byte, so it can spell any JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.clip.image_processing_clip import CLIPImageProcessor
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.idefics3.image_processing_idefics3 import Idefics3ImageProcessor
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
    "<img>", "</img>", "<IMG_CONTEXT>", "<video>",
    "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
]  # fmt: skip
# Some tokens of more than one letter, among them ones that close a string and go on.
MERGES = ["t h", "th e", "a n", "an d", "Ġ the", '" ,', '", Ġ', '" :', '": Ġ', "Ã ©"]
VOCABULARY = 320
TEXT_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
_TURN = (
    "{%- for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{%- if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{%- endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def template(image: str) -> str:
    return _TURN.replace("IMAGE", image)


def tokenizer() -> PreTrainedTokenizerBase:
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    for merge in MERGES:
        vocabulary[merge.replace(" ", "")] = len(vocabulary)
    made = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[tuple(merge.split()) for merge in MERGES],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    made.add_special_tokens({"extra_special_tokens": SPECIAL}, replace_extra_special_tokens=False)
    made.chat_template = template("")
    return made


def _ids(tokens: PreTrainedTokenizerBase) -> dict[str, int]:
    return {
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
        "bos_token_id": None,
    }


def _save(model: torch.nn.Module, processor: object, folder: Path) -> Path:
    # Weights of a usual size make answers depend on the image and the words; the default
    # initialisation at this width answers everything alike.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.35)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def internvl(folder: Path) -> Path:
    tokens = tokenizer()
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": [28, 28], "patch_size": [7, 7],
        },
        text_config={"model_type": "qwen2", **TEXT_SIZES, **_ids(tokens)},
        image_token_id=tokens.context_image_token_id,
        image_seq_length=4,
    )  # fmt: skip
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=False),
        tokens,
        InternVLVideoProcessor(size={"height": 28, "width": 28}),
        image_seq_length=4,
        chat_template=template("<IMG_CONTEXT>\n"),
    )
    return _save(InternVLForConditionalGeneration(config), processor, folder)


def qwen3_vl(folder: Path) -> Path:
    tokens = tokenizer()
    find = tokens.convert_tokens_to_ids
    config = Qwen3VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
            "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "out_hidden_size": 32, "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
        },
        text_config={
            **TEXT_SIZES, **_ids(tokens), "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2],
            },
        },
        image_token_id=find("<|image_pad|>"),
        video_token_id=find("<|video_pad|>"),
        vision_start_token_id=find("<|vision_start|>"),
        vision_end_token_id=find("<|vision_end|>"),
    )  # fmt: skip
    sizes = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    patches = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "size": sizes}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(**patches),
        tokens,
        Qwen3VLVideoProcessor(**patches),
        chat_template=template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return _save(Qwen3VLForConditionalGeneration(config), processor, folder)


def idefics3(folder: Path) -> Path:
    tokens = tokenizer()
    config = Idefics3Config(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
        },
        text_config={"model_type": "llama", **TEXT_SIZES, **_ids(tokens)},
        scale_factor=2,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        pad_token_id=tokens.pad_token_id,
    )  # fmt: skip
    processor = Idefics3Processor(
        Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        tokens,
        image_seq_len=4,
        chat_template=template("<image>"),
    )
    return _save(Idefics3ForConditionalGeneration(config), processor, folder)


def llava(folder: Path) -> Path:
    tokens = tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            image_size=28, patch_size=7,
        ),
        text_config={"model_type": "llama", **TEXT_SIZES, **_ids(tokens)},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokens,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    return _save(LlavaForConditionalGeneration(config), processor, folder)


def qwen3(folder: Path) -> Path:
    tokens = tokenizer()
    config = Qwen3Config(**TEXT_SIZES, **_ids(tokens), head_dim=16)
    return _save(Qwen3ForCausalLM(config), tokens, folder)


VLM_FAMILIES: dict[str, Callable[[Path], Path]] = {
    "internvl": internvl,
    "qwen3_vl": qwen3_vl,
    "idefics3": idefics3,
    "llava": llava,
}


def build(family: str, folder: Path) -> Path:
    """The folder of a random model of ``family``: the same weights on every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return {**VLM_FAMILIES, "qwen3": qwen3}[family](folder)

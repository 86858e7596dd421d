"""LoRA updates by diffusers' own loader, in the precision that they were trained in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from unsafe2safe.editors.library_logs import quiet

_TEXT_ENCODER = "text_encoder"


def load_lora(pipeline: Any, part: str, folder: Path) -> None:
    """Add the LoRA in ``folder`` to ``part`` of ``pipeline``, and to its text encoder where the
    folder holds updates of it.

    Raises:
        OSError, ValueError, RuntimeError: it is not there or does not fit.
    """
    with quiet("diffusers.loaders.lora_base"):  # it misses updates of the text encoder
        pipeline.load_lora_weights(str(folder), use_safetensors=True)
    for name in (part, _TEXT_ENCODER):
        module = getattr(pipeline, name, None)
        if module is None or not getattr(module, "peft_config", None):
            continue
        if module.dtype != torch.float32:
            _restore_precision(module, name, folder)


def _restore_precision(module: Any, part: str, folder: Path) -> None:
    """Diffusers rounds a LoRA to the base's dtype as it loads it: put what was trained back."""
    from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    stored = load_file(folder / LORA_WEIGHT_NAME_SAFE)
    for name, parameter in module.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    begin = f"{part}."
    trained = {n.removeprefix(begin): value for n, value in stored.items() if n.startswith(begin)}
    set_peft_model_state_dict(module, trained, adapter_name=next(iter(module.peft_config)))

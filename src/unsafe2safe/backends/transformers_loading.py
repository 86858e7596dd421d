"""Weights and processors from the hub or a folder, with one-line errors for what is missing."""

from __future__ import annotations

import importlib.util
from typing import Any

from unsafe2safe.core.devices import checked_device
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.pretrained import load


def load_weights(
    model_class: Any,
    name: str,
    *,
    revision: str,
    dtype: str,
    device: str,
    attn_implementation: str,
    quantization: str,
    trust_remote_code: bool,
) -> Any:
    """The model in evaluation mode on its device.

    Raises:
        UsageError: the model, the device or a library is missing.
    """
    settings: dict[str, Any] = {"dtype": dtype, "device_map": device_map(device)}
    if attn_implementation:
        settings["attn_implementation"] = attn_implementation
    if quantization != "none":
        settings["quantization_config"] = quantization_config(quantization, dtype)
    model = load(
        model_class.from_pretrained,
        name,
        revision=revision,
        trust_remote_code=trust_remote_code,
        **settings,
    )
    return model.eval()


def device_map(device: str) -> Any:
    """What ``from_pretrained`` calls so.

    Raises:
        UsageError: no such device here.
    """
    if device == "auto":
        return "auto"
    return {"": str(checked_device(device, "device", "cpu, cuda, cuda:1 or auto"))}


def quantization_config(quantization: str, dtype: str) -> Any:
    """The bitsandbytes settings of ``int8`` or ``nf4``; arithmetic in ``dtype``.

    Raises:
        UsageError: bitsandbytes is not installed.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            f"quantization={quantization} needs bitsandbytes; "
            "pip install 'unsafe2safe[quantized]', or set quantization=none"
        )
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else getattr(torch, dtype),
    )

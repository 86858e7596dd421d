"""Weights and processors from the hub or a folder, with one-line errors for what is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unsafe2safe.core.devices import checked_device
from unsafe2safe.core.errors import UsageError


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


def load(
    read: Callable[..., Any], name: str, *, revision: str, trust_remote_code: bool, **settings: Any
) -> Any:
    """``read(name, ...)`` for a hub id or a local folder, read as data unless code is trusted.

    Raises:
        UsageError: one line that says what is missing, and what to do.
    """
    folder = Path(name).expanduser()
    local = folder.exists()
    if not local and name.startswith(("/", "./", "../", "~")):
        raise UsageError(f"model={name}: no such folder")
    if local and not (folder / "config.json").is_file():
        raise UsageError(f"model={name}: the folder holds no model (no config.json)")
    if revision and not local:
        settings["revision"] = revision
    try:
        return read(str(folder) if local else name, trust_remote_code=trust_remote_code, **settings)
    except ImportError as error:
        raise UsageError(f"model={name}: a library is missing: {_first_line(error)}") from None
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(_explain(name, local, error)) from None


def _explain(name: str, local: bool, error: Exception) -> str:
    said = str(error)
    if "trust_remote_code" in said:
        return (
            f"model={name} brings Python code of its own; choose a form that transformers knows "
            "(often the one ending in -hf), or set trust_remote_code=true if you trust its authors"
        )
    if local:
        return f"model={name}: transformers cannot load this folder: {_first_line(error)}"
    if isinstance(error, OSError):
        return (
            f"model={name} is not in the local cache and the hub gave no answer or does not know "
            f"it; download it once with `hf download {name}`, or set model to a local folder"
        )
    return f"model={name}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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

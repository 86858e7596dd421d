"""How the denoiser is computed while it trains: recomputed blocks, compiled blocks, attention."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unsafe2safe.core.config.schema_train import Trainer
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.attention import set_attention


def check_compiler(settings: Trainer, device_type: str) -> None:
    """Refuse ``trainer.compile`` where nothing can compile; told before any weight is loaded.

    Raises:
        UsageError: torch.compile has no C++ compiler on the CPU.
    """
    named = os.environ.get("CXX", "")
    found = any(shutil.which(name) for name in (named, "g++", "clang++") if name)
    if settings.compile and device_type == "cpu" and not found:
        raise UsageError(
            f"trainer.compile={settings.compile} needs a C++ compiler on the CPU (g++ or CXX=...)"
        )


@contextmanager
def as_configured(denoiser: Any, settings: Trainer) -> Iterator[None]:
    """Inside the block ``denoiser`` computes as ``settings`` say; afterwards plainly again, so that
    what is exported is proven as it is used.

    Raises:
        UsageError: its class does not name the blocks that are to be compiled.
    """
    if denoiser is None:
        yield
        return
    if settings.attention is not None:
        set_attention(denoiser, settings.attention)
    if settings.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    compiled = _compile(denoiser, settings)
    try:
        yield
    finally:
        for module in compiled:
            module._compiled_call_impl = None  # torch has no name for undoing Module.compile
        if settings.gradient_checkpointing:
            denoiser.disable_gradient_checkpointing()
        if settings.attention is not None:
            set_attention(denoiser, None)


def _compile(denoiser: Any, settings: Trainer) -> list[nn.Module]:
    if not settings.compile:
        return []
    if settings.compile == "whole":
        denoiser.compile()
    else:
        try:
            denoiser.compile_repeated_blocks()
        except ValueError as error:
            raise UsageError(
                f"trainer.compile=blocks: {str(error).splitlines()[0]} trainer.compile=whole "
                "compiles all of it"
            ) from None
    # Other shapes than before are compiled anew, up to this number, then no more: batches of text
    # and of pictures have one shape each in a run, blocks of one class may have several.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    return [module for module in denoiser.modules() if module._compiled_call_impl is not None]

"""Which numbers a device computes with: what ``precision=auto`` comes to, and a warning where a
processor would take many times as long."""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal

import torch

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
Resolved = Literal["32-true", "bf16-mixed", "16-mixed"]

_log = logging.getLogger(__name__)


def computes_in_bf16(device_type: str) -> bool:
    """Whether a device (``cpu``, ``cuda``, ``mps``) has bfloat16 arithmetic of its own.

    Torch emulates it elsewhere: convolutions on a CPU without it take some twenty times as long.
    """
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type == "cpu":
        # x86: avx512_bf16, amx_bf16; ARM names its own alike.
        return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)
    return False


@cache  # so that it warns once
def resolve_precision(precision: Precision, device_type: str) -> Resolved:
    """``auto`` is bf16-mixed on a device that computes in bfloat16, else 32-true.

    Another choice is kept; one that the device can only emulate is warned of.
    """
    native = computes_in_bf16(device_type)
    if precision == "auto":
        return "bf16-mixed" if native else "32-true"
    if precision == "bf16-mixed" and not native:
        _log.warning(
            "precision=bf16-mixed: this %s has no bfloat16 arithmetic and emulates it, which can "
            "take many times as long; precision=auto would compute in fp32 here",
            device_type,
        )
    return precision

"""Which kernels compute attention, through diffusers' attention backends."""

from __future__ import annotations

from typing import Any

import torch

from unsafe2safe.core.config.components import nearest
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.library_logs import quiet

NATIVE = "native"


def check_attention(
    name: str | None,
    key: str,
    *,
    dispatched: bool,
    device: torch.device,
    dtype: torch.dtype,
    training: bool = False,
) -> None:
    """Refuse a backend that cannot be what ``key`` asks for; told before any weight is loaded.

    ``dispatched``: the denoiser computes attention through diffusers' backends, as transformers
    do and UNets do not. The backend is tried on a few numbers of ``dtype`` on ``device``.

    Raises:
        UsageError: unknown, not installed, not for this device or these numbers, without a
            backward pass though it is to train, or code of the hub's.
    """
    if name is None:
        return
    from diffusers.models.attention_dispatch import AttentionBackendName

    known = [str(backend.value) for backend in AttentionBackendName]
    if name not in known:
        raise UsageError(f"{key}={name} is no attention backend{nearest(name, known)}")
    if name.endswith("_hub"):
        raise UsageError(f"{key}={name} would run code from the hub; use an installed backend")
    if not dispatched and name != NATIVE:
        raise UsageError(
            f"{key}={name}: UNets take torch's own attention ({NATIVE}) alone; the other backends "
            "are for editors on transformers"
        )
    if fault := _fault(name, device, dtype, training):
        raise UsageError(f"{key}={name} cannot be used on {device.type} in {dtype}: {fault}")


def _fault(name: str, device: torch.device, dtype: torch.dtype, training: bool) -> str | None:
    from diffusers.models import attention_dispatch

    parts = [torch.ones(1, 16, 2, 64, device=device, dtype=dtype) for _ in range(3)]
    try:
        backend = attention_dispatch.AttentionBackendName(name)
        attention_dispatch._check_attention_backend_requirements(backend)
        with torch.set_grad_enabled(training):
            attended = attention_dispatch.dispatch_attention_fn(
                *(part.requires_grad_(training) for part in parts), backend=backend
            )
        if training:
            attended.sum().backward()
    except Exception as error:  # a library's own, of any kind
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    return None


def set_attention(denoiser: Any, name: str | None) -> None:
    """Compute the attention of ``denoiser`` by ``name``; None: by what diffusers chooses."""
    from diffusers.models.attention_dispatch import attention_backend

    # The call also sets a default for every other model of this process; the block takes it back.
    with quiet("diffusers.models.modeling_utils"), attention_backend(NATIVE):
        if name is None:
            denoiser.reset_attention_backend()
        else:
            denoiser.set_attention_backend(name)

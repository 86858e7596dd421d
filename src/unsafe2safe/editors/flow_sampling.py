"""Denoising of editors whose diffusers pipeline cannot do what they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def sample_latents(
    scheduler: Any,
    velocity: Callable[[Tensor, Tensor], Tensor],
    shape: Sequence[int],
    seeds: Sequence[int],
    *,
    steps: int,
    shift_mu: float,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """(B, *shape) latents from each seed's noise, as the pipelines of FLUX and Qwen-Image step.

    ``velocity`` is given latents and timesteps (B,) of ``scheduler``.
    """
    from diffusers.utils.torch_utils import randn_tensor

    # On the CPU whatever the device, so that a seed means the same noise everywhere.
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    latents: Tensor = randn_tensor((len(seeds), *shape), generators, device, dtype)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), device=device, mu=shift_mu)
    scheduler.set_begin_index(0)
    for time in scheduler.timesteps:
        predicted = velocity(latents, time.expand(len(seeds)))
        latents = scheduler.step(predicted, time, latents, return_dict=False)[0]
    return latents

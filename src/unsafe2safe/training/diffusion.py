"""The randomness that every diffusion task draws in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from unsafe2safe.core.errors import UsageError
from unsafe2safe.objectives.base import Objective
from unsafe2safe.objectives.conditioning import Dropped, drop_conditions
from unsafe2safe.training.draws import SampleKey, draw_normal, draw_uniform


@dataclass(frozen=True, eq=False)
class DiffusionDraws:
    """Noise (B, C, h, w), the objective's times (B,), and which samples lose which condition."""

    noise: Tensor
    timesteps: Tensor
    dropped: Dropped


def mask_weights(mask: Tensor | None, latents: Tensor, mask_weight: float) -> Tensor | None:
    """(B, 1, h, w) what each place of ``latents`` (B, C, h, w) counts: 1, and under the mask
    (B, 1, H, W) ``mask_weight`` more; None where that is 0.

    Raises:
        UsageError: nobody knows where the mask is.
    """
    if not mask_weight:
        return None
    if mask is None:
        raise UsageError(f"task.mask_weight={mask_weight} needs pairs that come with masks")
    covered = adaptive_max_pool2d(mask.to(latents.device), latents.shape[-2:])
    return 1 + mask_weight * covered


def draw_diffusion(
    seed: int,
    keys: Sequence[SampleKey],
    shape: Sequence[int],
    objective: Objective,
    scheduler: Any,
    device: torch.device,
    shift_mu: float | None = None,
) -> DiffusionDraws:
    """The draws of a step over latents (B, *shape); each sample's depend on its own key only.

    ``shift_mu``: see :meth:`Objective.times`.
    """
    dropped = drop_conditions(
        draw_uniform(seed, keys, "dropout"),
        objective.text_dropout,
        objective.image_dropout,
        objective.both_dropout,
    )
    uniform = draw_uniform(seed, keys, "timestep")
    return DiffusionDraws(
        noise=draw_normal(seed, keys, "noise", shape).to(device),
        timesteps=objective.times(uniform, scheduler, shift_mu).to(device),
        dropped=Dropped(dropped.text.to(device), dropped.image.to(device)),
    )

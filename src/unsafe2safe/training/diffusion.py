"""The randomness that every diffusion task draws in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unsafe2safe.objectives.base import Objective
from unsafe2safe.objectives.conditioning import Dropped, drop_conditions
from unsafe2safe.training.draws import SampleKey, draw_normal, draw_uniform


@dataclass(frozen=True, eq=False)
class DiffusionDraws:
    """Noise (B, C, h, w), the objective's times (B,), and which samples lose which condition."""

    noise: Tensor
    timesteps: Tensor
    dropped: Dropped


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

"""The randomness that every diffusion task draws in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unsafe2safe.objectives.base import Objective, timesteps_from_uniform
from unsafe2safe.objectives.conditioning import Dropped, drop_conditions
from unsafe2safe.training.draws import SampleKey, draw_normal, draw_uniform


@dataclass(frozen=True, eq=False)
class DiffusionDraws:
    """Noise (B, C, h, w), timesteps (B,), and which samples lose which condition."""

    noise: Tensor
    timesteps: Tensor
    dropped: Dropped


def draw_diffusion(
    seed: int,
    keys: Sequence[SampleKey],
    shape: Sequence[int],
    objective: Objective,
    num_train_timesteps: int,
    device: torch.device,
) -> DiffusionDraws:
    """The draws of a step over latents (B, *shape); each sample's depend on its own key only."""
    dropped = drop_conditions(
        draw_uniform(seed, keys, "dropout"),
        objective.text_dropout,
        objective.image_dropout,
        objective.both_dropout,
    )
    uniform = draw_uniform(seed, keys, "timestep")
    return DiffusionDraws(
        noise=draw_normal(seed, keys, "noise", shape).to(device),
        timesteps=timesteps_from_uniform(uniform, num_train_timesteps, objective.timestep_shift).to(
            device
        ),
        dropped=Dropped(dropped.text.to(device), dropped.image.to(device)),
    )

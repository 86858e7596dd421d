"""The model predicts the velocity (Salimans and Ho 2022)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.objectives.base import DiscreteObjective, PredictionType, velocity


@component
class Velocity(DiscreteObjective):
    """Squared error of the predicted velocity."""

    prediction_type: ClassVar[PredictionType] = "v_prediction"

    def target(self, latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
        return velocity(latents, noise, alphas_cumprod)

    def min_snr_weight(self, snr: Tensor, gamma: float) -> Tensor:
        """min(SNR, gamma) / (SNR + 1) (Hang et al. 2023, section 3.4)."""
        return torch.clamp(snr, max=gamma) / (snr + 1)

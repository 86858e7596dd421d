"""The model predicts the noise (Ho et al. 2020, eq. 14)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.objectives.base import DiscreteObjective, PredictionType


@component
class Epsilon(DiscreteObjective):
    """Squared error of the predicted noise."""

    prediction_type: ClassVar[PredictionType] = "epsilon"

    def target(self, latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:  # noqa: ARG002
        return noise

    def min_snr_weight(self, snr: Tensor, gamma: float) -> Tensor:
        """min(SNR, gamma) / SNR (Hang et al. 2023, section 3.4)."""
        return torch.clamp(snr, max=gamma) / snr

"""The model predicts the way from picture to noise (rectified flow, Liu et al. 2023).

x_t = (1 - sigma) x_0 + sigma e; the target is e - x_0. Densities and weightings are those of
Esser et al. 2024, section 3.1, over the training schedule of a FlowMatchEulerDiscreteScheduler.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.objectives.base import Objective, PredictionType, per_sample_mse

Density = Literal["uniform", "logit_normal", "mode"]

_LEAST_UNIFORM = 2.0**-53  # of a double in [0, 1): keeps quantiles finite
_MOST_MODE_SCALE = 2 / (math.pi - 2)


def standard_normal(uniform: Tensor) -> Tensor:
    """(B,) values in [0, 1) to (B,) float64 standard normal ones, by their quantile."""
    normal: Tensor = torch.special.ndtri(uniform.double().clamp(_LEAST_UNIFORM, 1 - _LEAST_UNIFORM))
    return normal


def mode_density(uniform: Tensor, scale: float) -> Tensor:
    """1 - u - s (cos^2(pi u / 2) - 1 + u) (Esser et al. 2024, eq. 20); (B,) in [0, 1]."""
    return 1 - uniform - scale * (torch.cos(math.pi * uniform / 2).square() - 1 + uniform)


@component
class FlowMatching(Objective):
    """Squared error of the predicted velocity e - x_0."""

    density: Density = Field(
        default="logit_normal",
        description="How often each noise level is trained: `uniform`, or `logit_normal` or `mode` "
        "(Esser et al. 2024), which favour the middle.",
    )
    logit_mean: float = Field(
        default=0.0, description="`density=logit_normal`: mean; above 0 noisier levels."
    )
    logit_std: float = Field(
        default=1.0, gt=0, description="`density=logit_normal`: standard deviation."
    )
    mode_scale: float = Field(
        default=1.29,
        ge=-1,
        le=_MOST_MODE_SCALE,
        description="`density=mode`: weight of the middle; 0: uniform.",
    )
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = Field(
        default="none",
        description="What a noise level counts in the loss: all the same, 1 / sigma^2, or cosmap "
        "(Esser et al. 2024, eq. 22).",
    )

    prediction_type: ClassVar[PredictionType] = "flow_prediction"

    def for_base(self, prediction_type: str, base: str) -> Objective:
        if prediction_type == self.prediction_type and self.snr_gamma is not None:
            raise UsageError(
                "objective.snr_gamma: min-SNR is for epsilon and v; objective=flow has "
                "objective.weighting and objective.density"
            )
        return super().for_base(prediction_type, base)

    def times(self, uniform: Tensor, scheduler: Any, shift_mu: float | None = None) -> Tensor:
        """(B,) float32 noise levels sigma of the scheduler's training schedule, in (0, 1].

        Raises:
            ValueError: the scheduler shifts by resolution and ``shift_mu`` is not given.
        """
        steps = scheduler.config.num_train_timesteps
        drawn = self._density(uniform.double())
        sigmas = ((drawn * steps).floor() + 1).clamp(max=steps) / steps
        if scheduler.config.get("use_dynamic_shifting"):
            if shift_mu is None:
                raise ValueError("this scheduler shifts by resolution and needs shift_mu")
            sigmas = scheduler.time_shift(shift_mu, 1.0, sigmas)
        else:
            sigmas = _shifted(sigmas, scheduler.config.get("shift", 1.0))
        return _shifted(sigmas, self.timestep_shift).float()

    def _density(self, uniform: Tensor) -> Tensor:
        if self.density == "logit_normal":
            return torch.sigmoid(self.logit_mean + self.logit_std * standard_normal(uniform))
        if self.density == "mode":
            return mode_density(1 - uniform, self.mode_scale).clamp(0, 1)
        return uniform

    def model_input(
        self, latents: Tensor, noise: Tensor, times: Tensor, scheduler: Any
    ) -> tuple[Tensor, Tensor]:
        sigmas = times.to(latents)[:, None, None, None]
        noisy = (1 - sigmas) * latents + sigmas * noise
        return noisy, times * scheduler.config.num_train_timesteps

    def loss(
        self,
        prediction: Tensor,
        latents: Tensor,
        noise: Tensor,
        times: Tensor,
        scheduler: Any,  # noqa: ARG002
        weight: Tensor | None = None,
    ) -> Tensor:
        from diffusers.training_utils import compute_loss_weighting_for_sd3

        counts: Tensor = compute_loss_weighting_for_sd3(self.weighting, sigmas=times)
        return counts * per_sample_mse(prediction, noise - latents, weight)


def _shifted(sigmas: Tensor, shift: float) -> Tensor:
    """S sigma / (1 + (s - 1) sigma) (Esser et al. 2024, eq. 23)."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)

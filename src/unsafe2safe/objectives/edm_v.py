"""EDM with a model that predicts the velocity, over continuous noise levels (CosXL).

x = x_0 + sigma e. The model is shown c_in x and c_noise, and its output F counts as
D = c_skip x + c_out F (Karras et al. 2022, table 1); with v_prediction diffusers' EDMEulerScheduler
takes c_out with the opposite sign. The published loss weight 1 / c_out^2 on D makes that of F one.

Levels are drawn along the continuous cosine schedule, sigma = sigma_data tan(pi u / 2), as
k-diffusion's ``rand_v_diffusion`` draws them, or log-normally (Karras et al. 2022, table 1).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.objectives.base import Objective, PredictionType, per_sample_mse
from unsafe2safe.objectives.flow import standard_normal


@component
class EdmVelocity(Objective):
    """Squared error of the preconditioned velocity."""

    density: Literal["cosine", "log_normal"] = Field(
        default="cosine",
        description="How often each noise level sigma is trained: `cosine`, uniformly along the "
        "continuous cosine schedule, for which CosXL is named; or `log_normal`, as EDM.",
    )
    log_mean: float = Field(
        default=-1.2, description="Mean of ln sigma with `log_normal`; above it noisier levels."
    )
    log_std: float = Field(
        default=1.2, gt=0, description="Standard deviation of ln sigma with `log_normal`."
    )

    prediction_type: ClassVar[PredictionType] = "edm_v_prediction"

    def times(self, uniform: Tensor, scheduler: Any, shift_mu: float | None = None) -> Tensor:  # noqa: ARG002
        """(B,) float32 noise levels sigma; ``timestep_shift`` multiplies them.

        The cosine schedule has no bounds of its own: it is kept within the scheduler's.
        """
        if self.density == "log_normal":
            logarithm = self.log_mean + self.log_std * standard_normal(uniform)
            return (self.timestep_shift * logarithm.exp()).float()
        config = scheduler.config
        sigmas = torch.tan(uniform.double() * (math.pi / 2)) * float(config.sigma_data)
        return (self.timestep_shift * sigmas).clamp(config.sigma_min, config.sigma_max).float()

    def model_input(
        self, latents: Tensor, noise: Tensor, times: Tensor, scheduler: Any
    ) -> tuple[Tensor, Tensor]:
        sigmas = times.to(latents)[:, None, None, None]
        noisy: Tensor = scheduler.precondition_inputs(latents + sigmas * noise, sigmas)
        c_noise: Tensor = scheduler.precondition_noise(times)
        return noisy, c_noise

    def target(self, latents: Tensor, noise: Tensor, sigmas: Tensor, sigma_data: float) -> Tensor:
        """(B, C, H, W) the F with D = x_0: (s e - (sigma / s) x_0) / sqrt(sigma^2 + s^2).

        s is ``sigma_data``.
        """
        sigma = sigmas.to(latents)[:, None, None, None]
        scale = (sigma.square() + sigma_data**2).sqrt()
        return (sigma_data * noise - sigma / sigma_data * latents) / scale

    def weights(self, sigmas: Tensor, sigma_data: float) -> Tensor:
        """(B,) loss weights; with ``snr_gamma`` as for v, min(SNR, gamma) / (SNR + 1)."""
        if self.snr_gamma is None:
            return torch.ones_like(sigmas)
        snr = (sigma_data / sigmas).square()
        return snr.clamp(max=self.snr_gamma) / (snr + 1)

    def loss(
        self,
        prediction: Tensor,
        latents: Tensor,
        noise: Tensor,
        times: Tensor,
        scheduler: Any,
        weight: Tensor | None = None,
    ) -> Tensor:
        sigma_data = float(scheduler.config.sigma_data)
        target = self.target(latents, noise, times, sigma_data)
        return self.weights(times, sigma_data) * per_sample_mse(prediction, target, weight)

"""What a diffusion objective is: noise in, a target to predict, a weight per sample.

All functions are pure: timesteps and noise come from the caller, so that a resumed or differently
distributed run computes the same losses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError


def timesteps_from_uniform(uniform: Tensor, num_train_timesteps: int, shift: float = 1.0) -> Tensor:
    """(B,) values in [0, 1) to (B,) int64 timesteps over the training schedule.

    Uniform with ``shift`` 1; u' = s u / (1 + (s - 1) u) otherwise (Esser et al. 2024, eq. 23), so
    that above 1 more of them are noisy, where a text decides most.
    """
    moved = uniform.double()
    moved = shift * moved / (1 + (shift - 1) * moved)
    return (moved * num_train_timesteps).long().clamp_(max=num_train_timesteps - 1)


def add_noise(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e (Ho et al. 2020, eq. 4).

    Shapes: latents and noise (B, C, H, W), ``alphas_cumprod`` (B,) at each sample's timestep.
    """
    alpha = alphas_cumprod.to(latents)[:, None, None, None]
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def velocity(latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """V = sqrt(a_t) e - sqrt(1 - a_t) x_0 (Salimans and Ho 2022, section 4); shapes as above."""
    alpha = alphas_cumprod.to(latents)[:, None, None, None]
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def per_sample_mse(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """(B, ...) twice to (B,) in float32; ``weight`` multiplies the squares and is broadcast."""
    squares = (prediction.float() - target.float()).square()
    if weight is not None:
        squares = squares * weight
    return squares.flatten(1).mean(1)


PredictionType = Literal["epsilon", "v_prediction", "flow_prediction", "edm_v_prediction"]


def prediction_of(scheduler: Any) -> str:
    """What a diffusers scheduler expects of its model, as a :data:`PredictionType` where it is one.

    EDM schedulers say epsilon or v_prediction of their own preconditioned model: with ``edm_``
    before it here. Flow matching schedulers know one kind only and do not name it.
    """
    named = scheduler.config.get("prediction_type")
    if named is None:
        return "flow_prediction"
    return f"edm_{named}" if "sigma_data" in scheduler.config else str(named)


@component
class ObjectiveSettings(ABC):
    """What every objective can be set to; opened for the base that is trained."""

    name: str = Field(description="Name of the objective.")
    snr_gamma: float | None = Field(
        default=None,
        gt=0,
        description="Min-SNR bound (Hang et al. 2023), commonly 5; null: no weighting.",
    )
    timestep_shift: float = Field(
        default=1.0,
        gt=0,
        description="1: uniform timesteps; above 1 more noisy ones, where the text decides most.",
    )
    text_dropout: float = Field(
        default=0.05, ge=0, le=1, description="Share of samples trained without their text alone."
    )
    image_dropout: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of samples trained without their source image alone.",
    )
    both_dropout: float = Field(
        default=0.05, ge=0, le=1, description="Share of samples trained without either."
    )

    def __post_init__(self) -> None:
        if self.text_dropout + self.image_dropout + self.both_dropout > 1:
            raise ValueError("text_dropout + image_dropout + both_dropout is more than 1")

    @abstractmethod
    def for_base(self, prediction_type: str, base: str) -> Objective:
        """The objective for weights whose scheduler expects ``prediction_type``.

        Raises:
            UsageError: this objective would train ``base`` to predict something else.
        """


@component
class Objective(ObjectiveSettings):
    """Base of the objectives: what the model is shown at a time, and its loss there.

    Times are (B,) and the objective's own: timesteps of a discrete schedule, or noise levels.
    """

    # What the base's scheduler must expect of the model, in diffusers' word.
    prediction_type: ClassVar[PredictionType]

    def for_base(self, prediction_type: str, base: str) -> Objective:
        if prediction_type != self.prediction_type:
            raise UsageError(
                f"objective={self.name} trains {self.prediction_type}, but the scheduler of {base} "
                f"expects {prediction_type}"
            )
        return self

    @abstractmethod
    def times(self, uniform: Tensor, scheduler: Any, shift_mu: float | None = None) -> Tensor:
        """(B,) times from (B,) values in [0, 1); the greater the value, the noisier.

        ``shift_mu`` is how far the pipeline shifts times at the resolution that is trained; for
        schedulers that shift by it.
        """

    @abstractmethod
    def model_input(
        self, latents: Tensor, noise: Tensor, times: Tensor, scheduler: Any
    ) -> tuple[Tensor, Tensor]:
        """What the model is given: noisy latents (B, C, H, W), and (B,) timesteps."""

    @abstractmethod
    def loss(
        self,
        prediction: Tensor,
        latents: Tensor,
        noise: Tensor,
        times: Tensor,
        scheduler: Any,
        weight: Tensor | None = None,
    ) -> Tensor:
        """(B,) weighted squared errors of ``prediction`` (B, C, H, W); ``weight`` (B, 1, H, W)
        says how much each place counts."""


@component
class DiscreteObjective(Objective):
    """Base of the objectives over a discrete noise schedule with ``alphas_cumprod``."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
        """What the model should predict, (B, C, H, W)."""

    @abstractmethod
    def min_snr_weight(self, snr: Tensor, gamma: float) -> Tensor:
        """(B,) weights from (B,) signal-to-noise ratios."""

    def times(self, uniform: Tensor, scheduler: Any, shift_mu: float | None = None) -> Tensor:  # noqa: ARG002
        steps = scheduler.config.num_train_timesteps
        return timesteps_from_uniform(uniform, steps, self.timestep_shift)

    def model_input(
        self, latents: Tensor, noise: Tensor, times: Tensor, scheduler: Any
    ) -> tuple[Tensor, Tensor]:
        alphas = scheduler.alphas_cumprod.to(latents.device)[times]
        return add_noise(latents, noise, alphas), times

    def weights(self, scheduler: Any, timesteps: Tensor) -> Tensor:
        """(B,) loss weights at ``timesteps``; ones without ``snr_gamma``."""
        if self.snr_gamma is None:
            return torch.ones(timesteps.shape, device=timesteps.device)
        from diffusers.training_utils import compute_snr

        snr: Tensor = compute_snr(scheduler, timesteps)
        return self.min_snr_weight(snr, self.snr_gamma)

    def loss(
        self,
        prediction: Tensor,
        latents: Tensor,
        noise: Tensor,
        times: Tensor,
        scheduler: Any,
        weight: Tensor | None = None,
    ) -> Tensor:
        alphas = scheduler.alphas_cumprod.to(times.device)[times]
        target = self.target(latents, noise, alphas)
        return self.weights(scheduler, times) * per_sample_mse(prediction, target, weight)

"""Flow matching and EDM-v against diffusers' schedulers and helpers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from hypothesis import given, settings
from hypothesis import strategies as st

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import compose_config
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.objectives.as_base import AsBase
from unsafe2safe.objectives.base import Objective, prediction_of
from unsafe2safe.objectives.edm_v import EdmVelocity
from unsafe2safe.objectives.flow import FlowMatching, mode_density, standard_normal

SHIFTED = FlowMatchEulerDiscreteScheduler(shift=3.0)
PLAIN = FlowMatchEulerDiscreteScheduler(shift=1.0)
DYNAMIC = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def flow(**settings: Any) -> FlowMatching:
    return FlowMatching(name="flow", **settings)


def drawn_by_diffusers(density: str, count: int, **settings: float) -> torch.Tensor:
    return compute_density_for_timestep_sampling(density, count, generator=generator(), **settings)


def test_the_mode_density_is_diffusers_own_of_the_same_draws() -> None:
    uniform = torch.rand(500, generator=generator())
    expected = drawn_by_diffusers("mode", 500, mode_scale=1.29)
    torch.testing.assert_close(mode_density(uniform, 1.29), expected, atol=1e-6, rtol=0)
    # ours counts from the other end, where the density is the same: noisier with greater draws
    ours = flow(density="mode").times(1 - uniform.double(), PLAIN)
    assert (ours - expected).abs().max() <= 1.1e-3  # to the next step of the schedule


def test_the_logit_normal_density_is_diffusers_own_of_the_same_draws() -> None:
    expected = drawn_by_diffusers("logit_normal", 500, logit_mean=0.4, logit_std=0.7)
    drawn = torch.normal(0.4, 0.7, (500,), generator=generator()).double()
    uniform = torch.special.ndtr((drawn - 0.4) / 0.7)
    torch.testing.assert_close(0.4 + 0.7 * standard_normal(uniform), drawn, atol=1e-9, rtol=0)
    times = flow(density="logit_normal", logit_mean=0.4, logit_std=0.7).times(uniform, PLAIN)
    assert (times - expected).abs().max() <= 1.1e-3


@pytest.mark.parametrize("scheduler", [PLAIN, SHIFTED])
def test_noise_levels_are_those_of_the_scheduler(scheduler: Any) -> None:
    uniform = torch.rand(200, generator=generator(), dtype=torch.float64)
    times = flow(density="uniform").times(uniform, scheduler)
    expected = scheduler.sigmas[999 - (uniform * 1000).long()]
    torch.testing.assert_close(times, expected, atol=1e-6, rtol=0)
    # the setting shifts further, and shifts multiply: 3 * 2 = 6
    further = flow(density="uniform", timestep_shift=2.0).times(uniform, scheduler)
    shift = 2.0 * scheduler.config.shift
    other = FlowMatchEulerDiscreteScheduler(shift=shift)
    torch.testing.assert_close(
        further, other.sigmas[999 - (uniform * 1000).long()], atol=1e-6, rtol=0
    )


def test_a_scheduler_that_shifts_by_resolution_is_followed() -> None:
    uniform = torch.rand(200, generator=generator(), dtype=torch.float64)
    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    own.set_timesteps(sigmas=[step / 1000 for step in range(1000, 0, -1)], mu=0.9)
    times = flow(density="uniform").times(uniform, DYNAMIC, shift_mu=0.9)
    expected = own.sigmas[999 - (uniform * 1000).long()]
    torch.testing.assert_close(times, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="needs shift_mu"):
        flow().times(uniform, DYNAMIC)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.sampled_from(["uniform", "logit_normal", "mode"]))
def test_levels_stay_in_the_schedule_and_rise_with_the_draw(uniform: float, density: Any) -> None:
    draws = torch.tensor([uniform, min(uniform + 0.01, math.nextafter(1, 0))], dtype=torch.float64)
    times = flow(density=density).times(draws, SHIFTED)
    assert 0 < times[0] <= times[1] <= 1


def test_what_the_model_is_shown_is_what_the_scheduler_makes() -> None:
    latents, noise = normal(5, 4, 6, 6), normal(5, 4, 6, 6, seed=1)
    index = torch.tensor([0, 3, 500, 998, 999])
    noisy, timesteps = flow().model_input(latents, noise, SHIFTED.sigmas[index], SHIFTED)
    expected = SHIFTED.scale_noise(latents, SHIFTED.timesteps[index], noise)
    torch.testing.assert_close(noisy, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(timesteps, SHIFTED.timesteps[index], atol=1e-4, rtol=0)


@pytest.mark.parametrize("weighting", ["none", "sigma_sqrt", "cosmap"])
def test_the_loss_is_a_direct_transcription(weighting: Any) -> None:
    latents, noise, predicted = (normal(3, 4, 6, 6, seed=seed) for seed in range(3))
    sigmas = torch.tensor([0.1, 0.5, 1.0])
    weights = {
        "none": torch.ones(3),
        "sigma_sqrt": sigmas**-2,
        "cosmap": 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2)),
    }[weighting]
    expected = weights * ((predicted - (noise - latents)) ** 2).mean((1, 2, 3))
    ours = flow(weighting=weighting).loss(predicted, latents, noise, sigmas, SHIFTED)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_edm_v_is_the_preconditioning_of_the_scheduler(sigma_data: float) -> None:
    scheduler = EDMEulerScheduler(sigma_data=sigma_data, prediction_type="v_prediction")
    objective, (latents, noise, predicted) = (
        EdmVelocity(name="edm_v"),
        (normal(4, 4, 6, 6, seed=seed) for seed in range(3)),
    )
    sigmas = torch.tensor([0.01, 0.5, 3.0, 80.0])
    each = sigmas[:, None, None, None]
    noised = latents + each * noise
    shown, timesteps = objective.model_input(latents, noise, sigmas, scheduler)
    torch.testing.assert_close(shown, noised / (each**2 + sigma_data**2).sqrt())
    torch.testing.assert_close(timesteps, sigmas.log() / 4)
    target = objective.target(latents, noise, sigmas, sigma_data)
    perfect = scheduler.precondition_outputs(noised, target, each)
    torch.testing.assert_close(perfect, latents, atol=1e-4, rtol=1e-4)
    # Karras et al. 2022, eq. 8: lambda = 1 / c_out^2 on the denoised latents
    denoised = scheduler.precondition_outputs(noised, predicted, each)
    expected = ((denoised - latents) ** 2).mean((1, 2, 3)) * (
        (sigmas**2 + sigma_data**2) / (sigmas * sigma_data) ** 2
    )
    ours = objective.loss(predicted, latents, noise, sigmas, scheduler)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)
    bounded = EdmVelocity(name="edm_v", snr_gamma=5.0)
    snr = (sigma_data / sigmas) ** 2
    ours = bounded.loss(predicted, latents, noise, sigmas, scheduler)
    torch.testing.assert_close(ours, expected * snr.clamp(max=5) / (snr + 1), atol=1e-4, rtol=1e-3)


def test_edm_noise_levels_are_log_normal() -> None:
    scheduler = EDMEulerScheduler(prediction_type="v_prediction")
    uniform = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    objective = EdmVelocity(name="edm_v", density="log_normal")
    logarithms = objective.times(uniform, scheduler).log()
    assert float(logarithms.mean()) == pytest.approx(-1.2, abs=1e-3)
    assert float(logarithms.std()) == pytest.approx(1.2, abs=1e-2)
    edge = objective.times(torch.tensor([0.0]), scheduler)
    assert torch.isfinite(edge.log()).all()


def test_edm_noise_levels_are_those_of_the_continuous_cosine_schedule() -> None:
    scheduler = EDMEulerScheduler(
        sigma_min=0.002, sigma_max=120.0, sigma_data=0.7, prediction_type="v_prediction"
    )
    uniform = torch.tensor([0.0, 0.1, 0.5, 0.9, math.nextafter(1, 0)], dtype=torch.float64)
    sigmas = EdmVelocity(name="edm_v").times(uniform, scheduler)
    # k-diffusion, rand_v_diffusion: tan(u pi / 2) sigma_data; at angle u pi / 2 of v-diffusion
    # signal and noise count cos and sin
    expected = 0.7 * torch.sin(uniform * math.pi / 2) / torch.cos(uniform * math.pi / 2)
    torch.testing.assert_close(sigmas[1:4], expected[1:4].float())
    assert sigmas[[0, 4]].tolist() == pytest.approx([0.002, 120.0])
    twice = EdmVelocity(name="edm_v", timestep_shift=2.0).times(uniform, scheduler)
    torch.testing.assert_close(twice[1:4], 2 * sigmas[1:4])


def test_as_base_goes_on_with_what_the_scheduler_asks_for() -> None:
    chosen = AsBase(name="as_base", text_dropout=0.2)
    for scheduler, kind in (
        (SHIFTED, FlowMatching),
        (EDMEulerScheduler(prediction_type="v_prediction"), EdmVelocity),
    ):
        opened = chosen.for_base(prediction_of(scheduler), "a base")
        assert isinstance(opened, kind)
        assert opened.text_dropout == 0.2
    for scheduler in (EDMEulerScheduler(), DDIMScheduler(prediction_type="sample")):
        with pytest.raises(UsageError, match="which no objective trains"):
            chosen.for_base(prediction_of(scheduler), "a base")
    with pytest.raises(UsageError, match=r"objective\.snr_gamma"):
        AsBase(name="as_base", snr_gamma=5.0).for_base("flow_prediction", "a base")
    with pytest.raises(UsageError, match=r"objective=flow trains flow_prediction, but"):
        flow().for_base("epsilon", "a base")


@pytest.mark.parametrize("choice", ["flow", "edm_v"])
def test_each_config_builds(choice: str) -> None:
    settings = compose_config("train", [f"objective={choice}"])["objective"]
    assert build(settings, "objective", Objective).name == choice  # type: ignore[type-abstract]
    for key, value in (("logit_std", 0), ("mode_scale", 2.0), ("log_std", 0)):
        if key in settings:
            with pytest.raises(ConfigError, match=f"objective.{key}="):
                build(dict(settings) | {key: value}, "objective", Objective)  # type: ignore[type-abstract]

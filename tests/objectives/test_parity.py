from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from hypothesis import given
from hypothesis import strategies as st

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import compose_config
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.objectives.as_base import AsBase
from unsafe2safe.objectives.base import Objective, add_noise, timesteps_from_uniform
from unsafe2safe.objectives.conditioning import drop_conditions
from unsafe2safe.objectives.epsilon import Epsilon
from unsafe2safe.objectives.v import Velocity

SCHEDULER = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    shape = (6, 4, 8, 8)
    return {
        "latents": torch.randn(shape, generator=random),
        "noise": torch.randn(shape, generator=random),
        "prediction": torch.randn(shape, generator=random),
        "timesteps": torch.tensor([0, 1, 250, 500, 998, 999]),
    }


def test_noising_equals_the_schedulers_own(batch: dict[str, torch.Tensor]) -> None:
    expected = SCHEDULER.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
    alphas = SCHEDULER.alphas_cumprod[batch["timesteps"]]
    ours = add_noise(batch["latents"], batch["noise"], alphas)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_velocity_target_equals_the_schedulers_own(batch: dict[str, torch.Tensor]) -> None:
    expected = SCHEDULER.get_velocity(batch["latents"], batch["noise"], batch["timesteps"])
    alphas = SCHEDULER.alphas_cumprod[batch["timesteps"]]
    ours = Velocity(name="v").target(batch["latents"], batch["noise"], alphas)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_loss_equals_a_direct_transcription(
    batch: dict[str, torch.Tensor], kind: str, gamma: float | None
) -> None:
    objective: Objective = (
        Epsilon(name="epsilon", snr_gamma=gamma)
        if kind == "epsilon"
        else Velocity(name="v", snr_gamma=gamma)
    )
    for i, t in enumerate(batch["timesteps"].tolist()):
        alpha = SCHEDULER.alphas_cumprod[t].double()
        x, e, p = (batch[k][i].double() for k in ("latents", "noise", "prediction"))
        target = e if kind == "epsilon" else alpha.sqrt() * e - (1 - alpha).sqrt() * x
        expected = ((p - target) ** 2).mean()
        if gamma is not None:
            # as in diffusers' examples/text_to_image: min(snr, gamma) / snr, or / (snr + 1) for v
            snr = compute_snr(SCHEDULER, torch.tensor([t]))[0].double()
            expected = expected * min(snr, gamma) / (snr if kind == "epsilon" else snr + 1)
        ours = objective.loss(
            batch["prediction"][i : i + 1],
            batch["latents"][i : i + 1],
            batch["noise"][i : i + 1],
            torch.tensor([t]),
            SCHEDULER,
        )
        assert ours.shape == (1,)
        assert float(ours) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


@given(st.floats(min_value=0, max_value=1, exclude_max=True))
def test_timesteps_stay_in_the_schedule(uniform: float) -> None:
    step = int(timesteps_from_uniform(torch.tensor([uniform], dtype=torch.float64), 1000))
    assert 0 <= step <= 999


def test_conditions_drop_at_the_configured_rates() -> None:
    uniform = torch.arange(20_000, dtype=torch.float64) / 20_000
    dropped = drop_conditions(uniform, text=0.05, image=0.1, both=0.02)

    def share(chosen: torch.Tensor) -> float:
        return float(chosen.float().mean())

    assert share(dropped.text & ~dropped.image) == pytest.approx(0.05, abs=1e-4)
    assert share(~dropped.text & dropped.image) == pytest.approx(0.1, abs=1e-4)
    assert share(dropped.text & dropped.image) == pytest.approx(0.02, abs=1e-4)


def test_equal_rates_are_those_of_the_published_code() -> None:
    # instruct-pix2pix, ddpm_edit.py: prompt_mask = random < 2 u;
    # input_mask = 1 - (random >= u) * (random < 3 u)
    random, u = torch.rand(5_000, generator=torch.Generator().manual_seed(1)), 0.05
    dropped = drop_conditions(random, u, u, u)
    assert torch.equal(dropped.text, random < 2 * u)
    assert torch.equal(~dropped.image, (1 - (random >= u).float() * (random < 3 * u)).bool())


@pytest.mark.parametrize("choice", ["epsilon", "v"])
def test_each_config_builds(choice: str) -> None:
    settings = compose_config("train", [f"objective={choice}"])["objective"]
    assert build(settings, "objective", Objective).name == choice  # type: ignore[type-abstract]


def test_rates_over_one_are_refused() -> None:
    settings = dict(compose_config("train")["objective"]) | {"text_dropout": 0.95}
    with pytest.raises(ConfigError, match="more than 1"):
        build(settings, "objective", Objective)  # type: ignore[type-abstract]


def test_as_base_goes_on_with_what_the_base_predicts_and_others_refuse() -> None:
    chosen = AsBase(name="as_base", snr_gamma=5.0, text_dropout=0.2)
    for kind in (Epsilon, Velocity):
        opened = chosen.for_base(kind.prediction_type, "a base")
        assert isinstance(opened, kind)
        assert (opened.snr_gamma, opened.text_dropout) == (5.0, 0.2)
        assert kind(name="x").for_base(kind.prediction_type, "a base").name == "x"
    with pytest.raises(UsageError, match=r"objective=v trains v_prediction, but .* of a base"):
        Velocity(name="v").for_base("epsilon", "a base")


@given(st.floats(0, 1, exclude_max=True), st.floats(0.2, 8))
def test_shifted_timesteps_are_those_of_the_published_formula(uniform: float, shift: float) -> None:
    plain, moved = (
        int(timesteps_from_uniform(torch.tensor([uniform]).double(), 1000, s)[0])
        for s in (1, shift)
    )
    assert abs(moved - 1000 * shift * uniform / (1 + (shift - 1) * uniform)) <= 1
    assert (moved >= plain) if shift >= 1 else (moved <= plain)
    assert 0 <= moved <= 999

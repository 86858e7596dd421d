"""The learning rate over a run, against torch's own schedulers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train, Trainer
from unsafe2safe.training.schedule import rate_share


def settings(**values: object) -> Trainer:
    config = load("train", [f"trainer.{key}={value}" for key, value in values.items()])
    assert isinstance(config, Train)
    return config.trainer


def shares(trainer: Trainer) -> list[float]:
    return [rate_share(trainer, step) for step in range(trainer.max_steps + 1)]


def of_torch(steps: int, period: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, period)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_without_warm_up_and_hold_cosine_is_torchs_cosine_annealing() -> None:
    trainer = settings(max_steps=50, warmup_steps=0, schedule="cosine")
    assert shares(trainer) == pytest.approx(of_torch(51, 50), abs=1e-9)


def test_after_the_hold_it_is_torchs_cosine_over_what_is_left() -> None:
    trainer = settings(max_steps=100, warmup_steps=10, schedule="cosine", hold=0.3)
    found = shares(trainer)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10:30] == [1.0] * 20
    assert found[30:] == pytest.approx(of_torch(71, 70), abs=1e-9)


def test_constant_stays_at_the_peak_after_the_warm_up() -> None:
    found = shares(settings(max_steps=20, warmup_steps=4))
    assert found == [0.25, 0.5, 0.75, *[1.0] * 18]


BASE = settings(schedule="cosine")


@given(
    steps=st.integers(1, 300),
    warmup=st.integers(0, 400),
    hold=st.floats(0, 1),
)
def test_it_rises_once_and_falls_once(steps: int, warmup: int, hold: float) -> None:
    trainer = BASE.model_copy(update={"max_steps": steps, "warmup_steps": warmup, "hold": hold})
    found = shares(trainer)[:-1]
    assert all(0 < share <= 1 for share in found)
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)

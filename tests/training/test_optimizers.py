"""optimizer=...: a library's optimizer, with the trainer's rate; mistakes told before training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.training.optimizers import optimizer_factory


def settings(*overrides: str) -> dict:
    config = load("train", list(overrides))
    assert isinstance(config, Train)
    return config.optimizer


def descend(make, steps: int = 60, rate: float = 0.1) -> float:
    """The least squares of 3 weights after some steps."""
    weight = nn.Parameter(torch.tensor([3.0, -2.0, 1.0]))
    optimizer = make([weight], rate, 0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    return float(weight.detach().square().sum())


def test_the_default_is_torchs_adamw_with_the_trainers_rate_and_decay() -> None:
    ours, theirs = (nn.Parameter(torch.ones(4)) for _ in range(2))
    made = optimizer_factory(settings())([ours], 0.02, 0.3)
    plain = torch.optim.AdamW([theirs], lr=0.02, weight_decay=0.3)
    assert type(made) is type(plain)
    for weight, optimizer in ((ours, made), (theirs, plain)):
        for power in (1, 2, 3):
            optimizer.zero_grad()
            weight.pow(power).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)  # fused sums in another order


def test_under_16_mixed_it_is_not_fused_since_gradients_are_clipped_unscaled() -> None:
    assert optimizer_factory(settings())([nn.Parameter(torch.ones(4))], 0.02, 0.3).defaults["fused"]
    made = optimizer_factory(settings(), "16-mixed")([nn.Parameter(torch.ones(4))], 0.02, 0.3)
    assert not made.defaults["fused"]


@pytest.mark.parametrize(("name", "rate"), [("adamw", 0.1), ("adafactor", 0.1), ("prodigy", 1.0)])
def test_listed_optimizers_descend(name: str, rate: float) -> None:
    make = optimizer_factory(settings(f"optimizer={name}"))
    assert descend(make, rate=rate) < 0.7 * 14


def test_a_setting_that_it_does_not_know_is_told() -> None:
    with pytest.raises(UsageError, match=r"optimizer=torch\.optim\.AdamW: .*momentum"):
        optimizer_factory(settings("+optimizer.momentum=0.9"))


def test_a_library_that_is_not_there_is_named() -> None:
    absent = {"_target_": "no_such_library.optim.Sofia", "_partial_": True}
    with pytest.raises(UsageError, match="pip install no_such_library"):
        optimizer_factory(absent)
    with pytest.raises(UsageError, match="not _partial_"):
        optimizer_factory({"_target_": "torch.optim.AdamW"})

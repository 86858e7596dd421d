from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unsafe2safe.training.gradient_check import GradientCheckError, check_gradients


class Gated(nn.Module):
    """A frozen layer, a trained one behind a gate that begins at zero, and an unused one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(3, 3)
        self.learned = nn.Linear(3, 3)
        self.gate = nn.Parameter(torch.zeros(1))
        self.unused = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)
        self.unused.requires_grad_(False)

    def loss(self, _: int) -> Tensor:
        x = self.frozen(torch.ones(2, 3))
        return (x + self.gate * self.learned(x) - 1).square().mean()

    def trainable(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.named_parameters() if p.requires_grad}


def check(model: Gated, loss: Callable[[int], Tensor] | None = None) -> None:
    check_gradients(model, model.trainable(), loss or model.loss, 0.01)


def test_weights_behind_a_zero_gate_pass_and_are_put_back() -> None:
    model = Gated()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_weight_outside_the_loss_is_named() -> None:
    model = Gated()
    model.unused.requires_grad_(True)
    with pytest.raises(GradientCheckError, match=r"unused\.bias.*takes no part"):
        check(model)


def test_a_weight_whose_gradient_stays_zero_is_named() -> None:
    model = Gated()
    model.unused.requires_grad_(True)

    def loss(step: int) -> Tensor:
        return model.loss(step) + 0.0 * model.unused(torch.ones(1, 3)).sum()

    with pytest.raises(GradientCheckError, match=r"unused\.bias \(and 1 more\) has no gradient"):
        check(model, loss)


def test_a_frozen_weight_that_gets_a_gradient_is_named() -> None:
    model = Gated()
    model.frozen.requires_grad_(True)
    trainable = {n: p for n, p in model.trainable().items() if not n.startswith("frozen")}
    with pytest.raises(GradientCheckError, match=r"frozen\.bias.* gets a gradient"):
        check_gradients(model, trainable, model.loss, 0.01)


def test_a_frozen_weight_that_moves_is_named() -> None:
    model = Gated()

    def loss(step: int) -> Tensor:
        with torch.no_grad():
            model.frozen.weight += 0.1
        return model.loss(step)

    with pytest.raises(GradientCheckError, match=r"frozen\.weight moved"):
        check(model, loss)


def test_a_loss_that_is_not_finite_is_told() -> None:
    model = Gated()
    with pytest.raises(GradientCheckError, match="loss is nan"):
        check(model, lambda step: model.loss(step) * float("nan"))

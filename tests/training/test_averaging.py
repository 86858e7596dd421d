"""The moving average of trained weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unsafe2safe.training.averaging import WeightAverage


def parameters() -> dict[str, nn.Parameter]:
    return {"a": nn.Parameter(torch.zeros(3)), "b": nn.Parameter(torch.ones(2, 2))}


def step(weights: dict[str, nn.Parameter], number: int) -> None:
    with torch.no_grad():
        for weight in weights.values():
            weight.copy_(torch.full_like(weight, float(number**2)))


def test_it_follows_its_formula() -> None:
    weights = parameters()
    average = WeightAverage(weights, 0.4)
    expected = {name: weight.detach().clone() for name, weight in weights.items()}
    for number in range(8):
        step(weights, number)
        average.update()
        decay = min(0.4, (1 + number) / (10 + number))
        for name, value in expected.items():
            expected[name] = decay * value + (1 - decay) * weights[name].detach()
    average.apply()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name].detach(), value)


def test_a_constant_is_its_own_average() -> None:
    weights = {"a": nn.Parameter(torch.full((4,), 0.7))}
    average = WeightAverage(weights, 0.999)
    for _ in range(50):
        average.update()
    average.apply()
    torch.testing.assert_close(weights["a"].detach(), torch.full((4,), 0.7))


def test_it_goes_on_from_its_state_to_the_bit() -> None:
    weights = parameters()
    whole, first = WeightAverage(weights, 0.9), WeightAverage(weights, 0.9)
    for number in range(4):
        step(weights, number)
        whole.update()
        first.update()
    second = WeightAverage(weights, 0.9)
    second.load_state_dict(first.state_dict())
    for number in range(4, 9):
        step(weights, number)
        whole.update()
        second.update()
    for name, value in whole.state_dict()["average"].items():
        assert torch.equal(value, second.state_dict()["average"][name])


def test_a_state_of_other_weights_is_refused() -> None:
    average = WeightAverage(parameters(), 0.9)
    other = WeightAverage({"c": nn.Parameter(torch.zeros(1))}, 0.9)
    with pytest.raises(ValueError, match="other weights"):
        average.load_state_dict(other.state_dict())

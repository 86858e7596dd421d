"""What every family's training is held to, whatever it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unsafe2safe.training.gradient_check import check_gradients


def three_steps(task: Any, losses: Callable[[], Tensor], learning_rate: float = 0.02) -> None:
    """The gradient check and three steps of AdamW on the mean of ``losses``; what is frozen stays
    as it is, to the bit, and all that is trained moves."""
    trainable = task.trainable_parameters()
    before = {name: value.detach().clone() for name, value in task.network.named_parameters()}
    frozen = before.keys() - trainable.keys()
    assert {name.partition(".")[0] for name in frozen} >= set(task.editor.parts[1:])
    check_gradients(task.network, trainable, lambda _: losses().mean(), 1e-3)
    optimizer = torch.optim.AdamW(list(trainable.values()), lr=learning_rate)
    for _ in range(3):
        optimizer.zero_grad()
        losses().mean().backward()
        optimizer.step()
    for name, value in task.network.named_parameters():
        assert torch.equal(value, before[name]) == (name in frozen), name

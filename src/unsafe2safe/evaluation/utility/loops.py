"""What the training loops share: order, learning rate, steps. All of it follows from the seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from unsafe2safe.core.devices import checked_device

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]


class Schedule(Protocol):
    """How long a model is trained: settings of each protocol."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def accumulation(self) -> int: ...
    @property
    def warmup_share(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All of torch's global generators at ``seed`` inside, as they were outside."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def seeded_on_cpu(seed: int) -> Iterator[None]:
    """The same for the CPU's generator alone: what a GPU draws meanwhile goes on."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def batches(count: int, size: int, epochs: int, seed: int) -> Iterator[tuple[int, list[int]]]:
    """(epoch, indices) of each batch; every epoch has each index once, in an order of its own."""
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(count)
        for start in range(0, count, size):
            yield epoch, order[start : start + size].tolist()


def steps_of(count: int, size: int, accumulation: int, epochs: int) -> int:
    """Optimizer steps of :func:`train`."""
    return math.ceil(math.ceil(count / size) * epochs / accumulation)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at ``step``: a linear rise, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(
    groups: Sequence[dict[str, Any]],
    loss_of: Callable[[int, list[int]], torch.Tensor],
    schedule: Schedule,
    *,
    count: int,
    seed: int,
) -> list[float]:
    """AdamW over parameter ``groups`` (``params``, ``lr``) and ``count`` examples; the loss of each
    batch.

    ``loss_of(epoch, indices)`` is the mean loss of a batch; gradients of so many batches as are
    accumulated make a step, weighted by the images of each. The last step may have fewer.
    """
    import torch

    optimizer = torch.optim.AdamW(list(groups), weight_decay=schedule.weight_decay)
    base = [group["lr"] for group in optimizer.param_groups]
    size, accumulation = schedule.batch_size, schedule.accumulation
    steps = steps_of(count, size, accumulation, schedule.epochs)
    losses: list[float] = []
    step, pending = 0, 0
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def finish() -> None:
        nonlocal step, pending
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= pending
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * cosine(step, steps, round(schedule.warmup_share * steps))
        optimizer.step()
        optimizer.zero_grad()
        step, pending = step + 1, 0

    for number, (epoch, indices) in enumerate(batches(count, size, schedule.epochs, seed), start=1):
        loss = loss_of(epoch, indices)
        (loss * len(indices)).backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        pending += len(indices)
        if number % accumulation == 0:
            finish()
    if pending:
        finish()
    return losses


def autocast(device: str, precision: Precision) -> Any:
    """The context in which a forward pass runs with ``precision``."""
    import torch

    kind = checked_device(device, "device").type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")

"""Before training: do exactly the trainable weights learn?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.quantization import unpacked
from unsafe2safe.training.sharding import whole

# LoRA's A has no gradient while B is 0, and so has all that lies behind a zero gate.
PROBE_STEPS = 4


class GradientCheckError(UsageError):
    """A trainable weight does not learn, or a frozen one does."""


def check_gradients(
    network: nn.Module,
    trainable: Mapping[str, nn.Parameter],
    loss_of_step: Callable[[int], Tensor],
    learning_rate: float,
) -> None:
    """Take a few steps at a constant rate without weight decay, then put every weight back.

    ``loss_of_step(k)`` gives the scalar loss of probe step k. After the first backward no trainable
    weight may be without gradient; within ``PROBE_STEPS`` steps each must have had a non-zero one
    and have moved; no frozen weight may get a gradient or change.

    Raises:
        GradientCheckError: names the weight.
    """
    frozen = {
        name: parameter for name, parameter in network.named_parameters() if name not in trainable
    }
    before = {name: parameter.detach().clone() for name, parameter in trainable.items()}
    frozen_sums = {name: _checksum(parameter) for name, parameter in frozen.items()}
    optimizer = torch.optim.AdamW(list(trainable.values()), lr=learning_rate, weight_decay=0.0)
    silent = set(trainable)
    try:
        for step in range(PROBE_STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of_step(step)
            if not torch.isfinite(loss):
                raise GradientCheckError(f"the loss is {loss.item()} in probe step {step + 1}")
            loss.backward()  # type: ignore[no-untyped-call]
            _check_one(trainable, frozen)
            silent -= {
                name
                for name in silent
                if bool((grad := trainable[name].grad) is not None and whole(grad).any())
            }
            optimizer.step()
        if silent:
            raise GradientCheckError(
                f"trainable weight {_first(silent)} has no gradient within {PROBE_STEPS} steps"
            )
        still = {n for n, value in before.items() if torch.equal(whole(value), whole(trainable[n]))}
        if still:
            raise GradientCheckError(f"trainable weight {_first(still)} does not move")
        moved = {n for n, parameter in frozen.items() if _checksum(parameter) != frozen_sums[n]}
        if moved:
            raise GradientCheckError(f"frozen weight {_first(moved)} moved")
    finally:
        with torch.no_grad():
            for name, value in before.items():
                trainable[name].copy_(value)
                trainable[name].grad = None


def _check_one(trainable: Mapping[str, nn.Parameter], frozen: Mapping[str, nn.Parameter]) -> None:
    without = {name for name, parameter in trainable.items() if parameter.grad is None}
    if without:
        raise GradientCheckError(
            f"trainable weight {_first(without)} takes no part in the loss; leave its module out "
            "of editor.targets"
        )
    learning = {name for name, parameter in frozen.items() if parameter.grad is not None}
    if learning:
        raise GradientCheckError(f"frozen weight {_first(learning)} gets a gradient")


def _first(names: set[str]) -> str:
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{min(names)}{more}"


def _checksum(parameter: nn.Parameter) -> float:
    value = parameter.detach()
    if isinstance(value, DTensor):  # of this rank's part
        value = value.to_local()
    value = unpacked(value).double()
    return float(value.abs().sum()) + float(value.sum())

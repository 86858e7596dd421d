"""The exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unsafe2safe.training.sharding import kept, put


class WeightAverage:
    """Follows ``parameters`` by ``average += (1 - d) (weight - average)`` after each step.

    ``d`` is min(decay, (1 + n) / (10 + n)) after n earlier steps, so that the random beginning of
    a run is soon forgotten. Only trained weights are averaged, never a frozen base.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self._steps = 0
        self._average = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more optimizer step."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        for name, parameter in self._parameters.items():
            average = self._average[name] = self._average[name].to(parameter.device)
            average.lerp_(parameter.detach(), 1.0 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average in the place of the weights."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._average[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the average stands in the place of the weights; afterwards they are
        back, to the bit."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(kept[name])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        average = {name: kept(value) for name, value in self._average.items()}
        return {"steps": self._steps, "average": average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            ValueError: it averages other weights.
        """
        average: Mapping[str, Tensor] = state["average"]
        if set(average) != set(self._parameters):
            raise ValueError("the checkpoint's average is of other weights")
        self._steps = int(state["steps"])
        for name, value in average.items():
            put(value, self._average[name])

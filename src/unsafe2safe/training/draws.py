"""Counter-based randomness of training, keyed by (seed, image_id, visit, stream).

A draw belongs to a sample's visit, never to a step, a rank or a batch: whoever trains on the visit,
whenever, sees the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unsafe2safe.core.randomness import generator, torch_seed


class SampleKey(NamedTuple):
    """One visit to one pair; ``visit`` counts the epochs before it."""

    image_id: str
    visit: int


def draw_normal(seed: int, keys: Sequence[SampleKey], stream: str, shape: Sequence[int]) -> Tensor:
    """(B, *shape) float32 standard normal values on the CPU."""
    rows = [
        generator(seed, key.image_id, key.visit, stream).standard_normal(
            tuple(shape), dtype=np.float32
        )
        for key in keys
    ]
    return torch.from_numpy(np.stack(rows))


def draw_uniform(seed: int, keys: Sequence[SampleKey], stream: str) -> Tensor:
    """(B,) float64 values in [0, 1) on the CPU."""
    rows = [generator(seed, key.image_id, key.visit, stream).random() for key in keys]
    return torch.tensor(rows, dtype=torch.float64)


def keyed_torch_rng(
    seed: int, keys: Sequence[SampleKey], device: torch.device
) -> AbstractContextManager[None]:
    """Torch's own generators inside the block follow the batch's keys, and are restored after it.

    For layers that draw by themselves (LoRA dropout). Their masks belong to the batch as a whole,
    so they alone depend on how samples are dealt to ranks.
    """
    return _Keyed(torch_seed(seed, repr([tuple(key) for key in keys]), 0, "layers"), device)


class _Keyed(AbstractContextManager[None]):
    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._fork = torch.random.fork_rng(
            devices=[device] if device.type == "cuda" else [], device_type="cuda"
        )

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *exception: object) -> None:
        self._fork.__exit__(None, None, None)

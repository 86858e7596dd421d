"""Which pairs a step trains on: a pure function of the step, so nothing about it can be lost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from unsafe2safe.core.randomness import generator


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The permutation of ``range(size)`` that epoch ``epoch`` follows."""
    return generator(seed, "", epoch, "epoch_order").permutation(size)


def sample_at(seed: int, size: int, position: int) -> tuple[int, int]:
    """(index, epoch) of the sample at ``position`` in the endless row of epochs."""
    epoch, offset = divmod(position, size)
    return int(epoch_order(seed, epoch, size)[offset]), epoch


class ResumableBatchSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of (index, epoch) for one rank.

    The epochs' permutations stand in one endless row; each step takes the next ``batch_size`` of
    it for every rank in turn. So each sample comes once per epoch over all ranks, a batch may reach
    into the next epoch, and all batches are whole. The only state is ``samples_seen``, over all
    ranks: a checkpoint of it continues mid-epoch, also on another number of ranks with the same
    global batch.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        if size < 1 or batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"cannot deal {size=} {batch_size=} to {rank=} of {world_size=}")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.samples_seen = 0

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.world_size

    def batch(self, first: int) -> list[tuple[int, int]]:
        """The batch of this rank in the step whose samples begin at position ``first``."""
        begin = first + self.rank * self.batch_size
        return [
            sample_at(self.seed, self.size, position)
            for position in range(begin, begin + self.batch_size)
        ]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self.samples_seen
        while True:
            yield self.batch(first)
            first += self.global_batch

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps. ``samples_seen`` counts trained samples, not prefetched ones;
        whoever trains advances it."""
        return {"samples_seen": self.samples_seen, "size": self.size, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where ``state`` was taken.

        Raises:
            ValueError: it was taken over other pairs or with another seed.
        """
        if (state["size"], state["seed"]) != (self.size, self.seed):
            raise ValueError("the checkpoint belongs to other pairs or another seed")
        self.samples_seen = state["samples_seen"]

"""Which pairs a step trains on: a pure function of the step, so nothing about it can be lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from unsafe2safe.core.randomness import derive_key, generator


@lru_cache(maxsize=32)
def epoch_order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The permutation of ``range(size)`` that epoch ``epoch`` follows."""
    return generator(seed, "", epoch, "epoch_order").permutation(size)


def sample_at(seed: int, size: int, position: int) -> tuple[int, int]:
    """(index, epoch) of the sample at ``position`` in the endless row of epochs."""
    epoch, offset = divmod(position, size)
    return int(epoch_order(seed, epoch, size)[offset]), epoch


class BucketSteps:
    """Steps of ``per_step`` samples of one bucket each, a pure function of the step.

    Each bucket has an endless row of its own, of permutations of its samples, cut into steps.
    Steps that are full by the end of an epoch belong to it, in an order drawn for it; what is left
    of a bucket is dealt in the next. So each sample comes once per epoch of its bucket's row.
    """

    def __init__(self, buckets: Sequence[int], per_step: int, seed: int) -> None:
        self._per_step, self._seed, self._size = per_step, seed, len(buckets)
        kinds = np.asarray(buckets)
        self._members = {int(b): np.flatnonzero(kinds == b) for b in np.unique(kinds)}
        self._order: tuple[int, list[tuple[int, int]]] = (-1, [])  # of the last epoch asked for

    def step(self, number: int) -> list[tuple[int, int]]:
        """(index, epoch) of the samples of a step."""
        epoch = number * self._per_step // self._size
        while self._steps_before(epoch + 1) <= number:
            epoch += 1
        if self._order[0] != epoch:
            self._order = epoch, self._steps_of(epoch)
        bucket, place = self._order[1][number - self._steps_before(epoch)]
        members = self._members[bucket]
        seed = derive_key(self._seed, f"bucket {bucket}", 0, "epoch_order")
        return [
            (int(members[index]), visit)
            for index, visit in (
                sample_at(seed, len(members), position)
                for position in range(place * self._per_step, (place + 1) * self._per_step)
            )
        ]

    def _steps_before(self, epoch: int) -> int:
        return sum(epoch * len(m) // self._per_step for m in self._members.values())

    def _steps_of(self, epoch: int) -> list[tuple[int, int]]:
        """Bucket and place in its row of each step of an epoch."""
        steps = [
            (bucket, place)
            for bucket, members in self._members.items()
            for place in range(
                epoch * len(members) // self._per_step,
                (epoch + 1) * len(members) // self._per_step,
            )
        ]
        order = generator(self._seed, "", epoch, "bucket_order").permutation(len(steps))
        return [steps[index] for index in order]


class ResumableBatchSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of (index, epoch) for one rank.

    The epochs' permutations stand in one endless row; each step takes the next ``batch_size`` of
    it for every rank in turn. So each sample comes once per epoch over all ranks, a batch may reach
    into the next epoch, and all batches are whole. The only state is ``samples_seen``, over all
    ranks: a checkpoint of it continues mid-epoch, also on another number of ranks with the same
    global batch.

    With ``buckets``, the one of each sample, all samples of a step are of one bucket; a step has
    ``accumulate`` batches. See :class:`BucketSteps`.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        buckets: Sequence[int] | None = None,
        accumulate: int = 1,
    ) -> None:
        if size < 1 or batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"cannot deal {size=} {batch_size=} to {rank=} of {world_size=}")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.samples_seen = 0
        self._per_step = self.global_batch * accumulate
        self._steps = BucketSteps(buckets, self._per_step, seed) if buckets is not None else None

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.world_size

    def batch(self, first: int) -> list[tuple[int, int]]:
        """The batch of this rank in the step whose samples begin at position ``first``."""
        begin = first + self.rank * self.batch_size
        if self._steps is not None:
            step, offset = divmod(begin, self._per_step)
            return self._steps.step(step)[offset : offset + self.batch_size]
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

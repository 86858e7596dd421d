from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsafe2safe.training.sampler import BucketSteps, ResumableBatchSampler

sizes = st.integers(1, 30)
batches = st.integers(1, 7)
seeds = st.integers(0, 5)


def take(sampler: ResumableBatchSampler, count: int) -> list[list[tuple[int, int]]]:
    return list(islice(sampler, count))


@settings(max_examples=60, deadline=None)
@given(sizes, batches, seeds, st.integers(1, 3))
def test_each_sample_comes_once_per_epoch_over_all_ranks(
    size: int, batch: int, seed: int, world: int
) -> None:
    steps = 2 * size // (batch * world) + 2
    dealt: list[tuple[int, int]] = []
    ranks = [
        take(ResumableBatchSampler(size, batch, seed, rank=r, world_size=world), steps)
        for r in range(world)
    ]
    for step in range(steps):
        for rank in ranks:
            dealt.extend(rank[step])
    for epoch in (0, 1):
        seen = Counter(index for index, visit in dealt[: 2 * size] if visit == epoch)
        assert seen == Counter(range(size))


@settings(max_examples=60, deadline=None)
@given(sizes, batches, seeds)
def test_one_rank_and_two_ranks_take_the_same_samples_at_each_step(
    size: int, batch: int, seed: int
) -> None:
    one = take(ResumableBatchSampler(size, 2 * batch, seed), 6)
    first = take(ResumableBatchSampler(size, batch, seed, rank=0, world_size=2), 6)
    second = take(ResumableBatchSampler(size, batch, seed, rank=1, world_size=2), 6)
    assert one == [a + b for a, b in zip(first, second, strict=True)]


@settings(max_examples=60, deadline=None)
@given(sizes, batches, seeds, st.integers(0, 12))
def test_it_resumes_in_the_middle_of_an_epoch(
    size: int, batch: int, seed: int, steps_before: int
) -> None:
    whole = take(ResumableBatchSampler(size, batch, seed), steps_before + 5)
    interrupted = ResumableBatchSampler(size, batch, seed)
    interrupted.samples_seen = steps_before * interrupted.global_batch
    resumed = ResumableBatchSampler(size, batch, seed)
    resumed.load_state_dict(interrupted.state_dict())
    assert take(resumed, 5) == whole[steps_before:]


def test_epochs_are_shuffled_differently() -> None:
    dealt = [sample for batch in take(ResumableBatchSampler(20, 20, 0), 2) for sample in batch]
    assert [i for i, visit in dealt if visit == 0] != [i for i, visit in dealt if visit == 1]


def test_a_state_of_other_pairs_is_refused() -> None:
    state = ResumableBatchSampler(5, 2, 0).state_dict()
    with pytest.raises(ValueError, match="other pairs"):
        ResumableBatchSampler(6, 2, 0).load_state_dict(state)


buckets = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(buckets, st.integers(1, 9), seeds)
def test_steps_are_of_one_bucket_and_each_sample_comes_once_per_epoch_of_it(
    kinds: list[int], per_step: int, seed: int
) -> None:
    steps = BucketSteps(kinds, per_step, seed)
    epochs = 3
    count = sum(epochs * kinds.count(kind) // per_step for kind in set(kinds))
    dealt = [steps.step(number) for number in range(count)]
    assert all(len(step) == per_step for step in dealt)
    assert all(len({kinds[index] for index, _ in step}) == 1 for step in dealt)
    visits = Counter(sample for step in dealt for sample in step)
    assert set(visits.values()) <= {1}
    for kind in set(kinds):  # all but what does not fill a step yet
        members = [index for index, of in enumerate(kinds) if of == kind]
        due = {(index, epoch) for epoch in range(epochs) for index in members}
        assert len(due - set(visits)) < per_step
    assert {epoch for _, epoch in visits} <= set(range(epochs))


@settings(max_examples=40, deadline=None)
@given(buckets, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
def test_a_step_has_the_same_samples_however_they_are_dealt_and_wherever_it_is_resumed(
    kinds: list[int], batch: int, accumulate: int, world: int, steps_before: int
) -> None:
    def sampler(batch: int, accumulate: int, rank: int, world: int) -> ResumableBatchSampler:
        return ResumableBatchSampler(
            len(kinds), batch, 5, rank=rank, world_size=world, buckets=kinds, accumulate=accumulate
        )

    per_step = batch * accumulate * world
    alone = take(sampler(per_step, 1, 0, 1), steps_before + 2)
    ranks = [sampler(batch, accumulate, rank, world) for rank in range(world)]
    for rank in ranks:
        rank.samples_seen = steps_before * per_step
    dealt = [take(rank, 2 * accumulate) for rank in ranks]
    for step in range(2):
        together = [
            sample
            for micro in range(accumulate)
            for rank in dealt
            for sample in rank[step * accumulate + micro]
        ]
        assert together == alone[steps_before + step]


def test_epochs_deal_the_buckets_in_different_orders() -> None:
    kinds = [0] * 8 + [1] * 8
    steps = BucketSteps(kinds, 2, 0)
    order = [kinds[steps.step(number)[0][0]] for number in range(16)]
    assert order[:8] != order[8:]
    assert order[:8] != sorted(order[:8])

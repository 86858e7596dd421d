import numpy as np
import pytest

from unsafe2safe.core.randomness import generator
from unsafe2safe.metrics.statistics import clustered_interval


def rng(seed=0):
    return generator(seed, "", 0, "test")


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    values = [[float(v)] for v in np.random.default_rng(1).normal(size=40)]
    assert clustered_interval(values, 500, rng()) == clustered_interval(values, 500, rng())
    assert clustered_interval(values, 500, rng()) != clustered_interval(values, 500, rng(1))


@pytest.mark.parametrize("clusters", [[], [[]], [[0.3, 0.7]], [[], [0.5], []]])
def test_fewer_than_two_images_with_values_give_no_interval(clusters):
    assert clustered_interval(clusters, 100, rng()) is None


def test_equal_values_give_an_interval_without_width():
    assert clustered_interval([[0.25], [0.25, 0.25], [0.25]], 100, rng()) == (0.25, 0.25)


def test_interval_of_independent_values_is_that_of_the_normal_theory():
    values = np.random.default_rng(2).normal(size=2000)
    low, high = clustered_interval([[float(v)] for v in values], 2000, rng())
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_faces_of_one_photograph_count_as_one_observation():
    values = np.random.default_rng(3).normal(size=60)
    alone = clustered_interval([[float(v)] for v in values], 2000, rng())
    copied = clustered_interval([[float(v)] * 10 for v in values], 2000, rng())
    assert copied[1] - copied[0] == pytest.approx(alone[1] - alone[0], rel=1e-9)


def test_memory_bound_does_not_change_the_draws(monkeypatch):
    values = [[float(v)] for v in np.random.default_rng(4).normal(size=50)]
    whole = clustered_interval(values, 300, rng())
    monkeypatch.setattr("unsafe2safe.metrics.statistics._DRAWS_AT_ONCE", 777)
    assert clustered_interval(values, 300, rng()) == whole


def test_95_percent_intervals_hold_the_truth_about_that_often():
    held = 0
    for trial in range(200):
        draws = np.random.default_rng(trial)
        clusters = [list(draws.normal(draws.normal(), 0.1, 3)) for _ in range(40)]
        low, high = clustered_interval(clusters, 300, rng(trial))
        held += low <= 0.0 <= high
    assert 0.88 <= held / 200 <= 0.99

"""Exact intervals, paired tests, corrections, several seeds."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from unsafe2safe.core.randomness import generator
from unsafe2safe.metrics.statistics import (
    clustered_interval,
    exact_interval,
    holm,
    seeds_interval,
    share_interval,
    sign_flip_test,
)


def rng(seed=0):
    return generator(seed, "", 0, "test")


def test_none_of_forty_has_the_interval_of_clopper_and_pearson():
    low, high = exact_interval([[0.0]] * 40)
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 40))
    assert exact_interval([[1.0]] * 40) == pytest.approx((1 - high, 1.0))


def test_exact_intervals_count_images_not_faces():
    assert exact_interval([[0.0] * 10] * 4) == exact_interval([[0.0]] * 4)


@pytest.mark.parametrize("clusters", [[[0.0], [1.0]], [[0.5], [0.5]], [[0.0]], [[], [1.0]]])
def test_values_that_differ_are_no_share_or_come_from_one_image_have_none(clusters):
    assert exact_interval(clusters) is None


def test_shares_say_whether_their_interval_is_exact():
    assert share_interval([[0.0]] * 40, 100, rng())[1] == {"exact_interval": 1.0}
    mixed = [[0.0]] * 20 + [[1.0]] * 20
    assert share_interval(mixed, 100, rng()) == (clustered_interval(mixed, 100, rng()), {})


@pytest.mark.parametrize("count", [6, 40])
def test_p_is_that_of_scipys_permutation_test(count):
    values = np.random.default_rng(5).normal(0.3, 1.0, count)
    theirs = permutation_test(
        (values, np.zeros(count)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        vectorized=True,
        permutation_type="samples",
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    ours = sign_flip_test(values[:, None], 9999, rng())[0]
    assert ours == pytest.approx(theirs.pvalue, abs=1e-12 if count == 6 else 0.015)


def test_missing_pairs_and_equal_ones_do_not_count():
    values = np.random.default_rng(6).normal(1.0, 1.0, 8)
    padded = np.concatenate([values, [np.nan] * 5, [0.0] * 30])
    both = np.stack([padded, np.zeros(43)], 1)
    p = sign_flip_test(both, 9999, rng())
    assert p[0] == sign_flip_test(values[:, None], 9999, rng())[0]
    assert p[1] == 1.0


def test_p_is_uniform_where_nothing_differs_and_least_where_all_does():
    draws = np.random.default_rng(7)
    p = sign_flip_test(draws.normal(size=(30, 400)), 999, rng())
    assert 0.02 <= (p <= 0.05).mean() <= 0.09
    assert sign_flip_test(np.ones((30, 1)), 999, rng())[0] == pytest.approx(1 / 1000)


def test_memory_bound_does_not_change_p(monkeypatch):
    values = np.random.default_rng(8).normal(0.2, 1, (30, 3))
    whole = sign_flip_test(values, 500, rng())
    monkeypatch.setattr("unsafe2safe.metrics.statistics._DRAWS_AT_ONCE", 333)
    assert (sign_flip_test(values, 500, rng()) == whole).all()


def test_holms_correction_is_his_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_seed_has_the_interval_of_its_images():
    values = [[float(v)] for v in np.random.default_rng(9).normal(size=60)]
    alone = clustered_interval(values, 2000, rng())
    assert seeds_interval([values], 2000, rng()) == pytest.approx(alone, abs=0.05)


def test_seeds_that_disagree_widen_the_interval():
    values = np.random.default_rng(10).normal(size=60)
    alike = [[[float(v)] for v in values] for _ in range(4)]
    apart = [[[float(v + shift)] for v in values] for shift in (-1.0, -0.3, 0.3, 1.0)]
    narrow, wide = seeds_interval(alike, 1000, rng()), seeds_interval(apart, 1000, rng())
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    assert seeds_interval([[[], [0.5]]], 100, rng()) is None

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsafe2safe.metrics.tradeoff import (
    Tradeoff,
    balance,
    draw_tradeoff,
    hypervolume,
    pareto_front,
)

SHARES = st.integers(0, 4).map(lambda quarter: quarter / 4)  # coarse, so that many are equal
POINTS = st.lists(st.builds(Tradeoff, SHARES, SHARES, st.integers(1, 9)), max_size=12)


def beats(one: Tradeoff, other: Tradeoff) -> bool:
    least = one.privacy >= other.privacy and one.fidelity >= other.fidelity
    return least and one[:2] != other[:2]


@given(POINTS)
def test_the_front_is_exactly_what_nothing_beats(points: list[Tradeoff]) -> None:
    unbeaten = {p[:2] for p in points if not any(beats(other, p) for other in points)}
    front = pareto_front(points)
    assert {point[:2] for point in front} == unbeaten
    assert len(front) == len(unbeaten)
    for point in front:  # of equal points the earliest stands for all
        assert point.step == min(other.step for other in points if other[:2] == point[:2])


@given(POINTS, POINTS)
def test_what_later_points_leave_on_the_front_was_on_it_before(
    first: list[Tradeoff], later: list[Tradeoff]
) -> None:
    later = [point._replace(step=point.step + 10) for point in later]
    kept = {point for point in pareto_front(first + later) if point.step < 10}
    assert kept <= set(pareto_front(first))


@given(SHARES, SHARES)
def test_balance_is_nothing_where_either_is_nothing(privacy: float, fidelity: float) -> None:
    value = balance(privacy, fidelity)
    assert min(privacy, fidelity) / 2 <= value <= min(1.0, 2 * min(privacy, fidelity))
    assert value == balance(fidelity, privacy)
    assert balance(privacy, privacy) == privacy


def test_the_drawing_shows_points_where_they_are() -> None:
    points = [Tradeoff(0.9, 0.2, 1), Tradeoff(0.3, 0.8, 2)]
    empty, drawn = draw_tradeoff([], None), draw_tradeoff(points, points[1])
    assert drawn.dtype == np.uint8
    assert drawn.shape == (480, 640, 3)
    changed = (drawn != empty).any(axis=2)
    for point in points:
        x, y = 70 + point.fidelity * 550, 20 + (1 - point.privacy) * 400
        assert changed[round(y), round(x)]
    assert not changed[:40, -40:].any()  # nothing is both private and faithful here


@given(POINTS)
def test_the_hypervolume_is_that_of_optuna(points: list[Tradeoff]) -> None:
    from optuna._hypervolume import compute_hypervolume  # minimizes

    losses = np.array([[-p.privacy, -p.fidelity] for p in points]).reshape(-1, 2)
    assert hypervolume(points) == pytest.approx(compute_hypervolume(losses, np.zeros(2)))

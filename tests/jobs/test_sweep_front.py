"""The front of a study: what dominates, what it covers, what stands for a trial."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsafe2safe.jobs.sweep_front import (
    DEFAULTS,
    Point,
    Row,
    as_csv,
    as_json,
    front,
    hypervolume,
    own_point,
    stands_for,
    verdict,
)
from unsafe2safe.jobs.sweep_picture import draw_front

SHARES = st.integers(0, 20).map(lambda tick: tick / 20)
POINTS = st.lists(st.builds(Point, SHARES, SHARES), min_size=1, max_size=12)


@given(POINTS)
def test_nothing_dominates_the_front_and_it_dominates_all_else(points: list[Point]) -> None:
    best = front(points)
    assert not any(other.dominates(point) for point in best for other in points)
    rest = [point for point in points if not any(point is kept for kept in best)]
    assert all(any(kept.dominates(point) for kept in best) for point in rest)


@given(POINTS)
def test_the_hypervolume_is_the_dominated_share_of_the_square(points: list[Point]) -> None:
    middles = (np.arange(20) + 0.5) / 20
    covered = np.zeros((20, 20), bool)
    for point in points:
        covered |= (middles[:, None] < point.privacy) & (middles[None] < point.fidelity)
    assert hypervolume(points) == pytest.approx(covered.mean())


def test_the_point_that_adds_most_to_the_earlier_ones_stands_for_a_trial() -> None:
    good, new, poor = Point(0.9, 0.9), Point(0.2, 1.0), Point(0.6, 0.6)
    assert stands_for([new, poor], [good]) == 0
    assert stands_for([new, poor], []) == 1  # 0.36 of the square, not 0.2
    assert stands_for([poor, Point(0.5, 0.8)], [good]) == 1  # neither adds; the greater product


def rows(*points: Point) -> list[Row]:
    return [
        Row(DEFAULTS if n == 0 else str(n), f"run{n}", {"editor.rank": 4 * n}, point, told=n > 0)
        for n, point in enumerate(points)
    ]


def test_it_is_said_whether_the_front_dominates_the_defaults() -> None:
    defaults = Point(0.8, 0.8)
    better = verdict(rows(defaults, Point(0.9, 0.8), Point(0.9, 0.1)), defaults)
    assert better.startswith("the front dominates the defaults' point (privacy 0.800")
    assert "trial 1 has privacy 0.900" in better
    same = verdict(rows(defaults, Point(0.9, 0.7), Point(0.8, 0.8)), defaults)
    assert same.startswith("no point dominates")
    told = as_json(rows(defaults, Point(0.9, 0.8)), defaults)
    assert told["defaults"]["dominated"] is True


def test_the_defaults_point_is_that_of_the_editors_own_guidance() -> None:
    points = [Point(0.9, 0.9, {"text": 7.5}), Point(0.5, 0.5, {"text": 3.0})]
    assert own_point(points, {"text": 3.0}) is points[1]
    assert own_point(points, {"text": 1.0}) is points[0]


def test_table_and_json_hold_each_point_with_its_run_parameters_and_guidance() -> None:
    points = rows(Point(0.8, 0.8, {"text": 3.0}, {"leaked": 0.2}), Point(0.9, 0.7, {"text": 5.0}))
    read = list(csv.DictReader(io.StringIO(as_csv(points))))
    assert [row["run"] for row in read] == ["run0", "run1"]
    assert [row["text"] for row in read] == ["3.0", "5.0"]
    assert [row["front"] for row in read] == ["True", "True"]
    told = json.loads(json.dumps(as_json(points, points[0].point)))
    assert told["points"][0]["metrics"] == {"leaked": 0.2}
    assert told["hypervolume"] == pytest.approx(0.8 * 0.8 + 0.1 * 0.7)


def test_the_picture_shows_the_defaults_and_the_front_in_their_colours() -> None:
    points = rows(Point(0.5, 0.5), Point(0.9, 0.6), Point(0.4, 0.4))
    picture = draw_front(points, points[0].point)
    assert picture.shape == (680, 900, 3)
    area = picture[60:600]  # without the legend
    seen = {tuple(colour) for colour in area.reshape(-1, 3)}
    assert {(0x1F, 0x6F, 0xB2), (0xD9, 0x73, 0x0D), (0x9A, 0xA5, 0xB1)} <= seen
    alone = draw_front(points[:1], points[0].point)
    assert (0xD9, 0x73, 0x0D) in {tuple(colour) for colour in alone[60:600].reshape(-1, 3)}

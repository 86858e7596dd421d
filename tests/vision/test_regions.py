from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from unsafe2safe.core.records import Box
from unsafe2safe.vision.regions import (
    clipped,
    covered,
    grow,
    head_of,
    iou,
    mask_of,
    overlap,
    suppress,
)

H, W = 40, 60
numbers = st.floats(-30, 90, allow_nan=False)
sizes = st.floats(0, 60, allow_nan=False)
boxes = st.builds(Box, numbers, numbers, sizes, sizes)


@given(st.lists(boxes, max_size=4))
def test_a_mask_covers_its_boxes_completely_and_holds_only_0_and_1(some):
    mask = mask_of(some, H, W)
    assert mask.shape == (H, W)
    assert mask.dtype == np.float32
    assert set(np.unique(mask)) <= {0.0, 1.0}
    assert all(covered(box, mask) == pytest.approx(1.0) for box in some)


@given(boxes)
def test_a_mask_reaches_no_further_than_the_pixels_its_box_touches(box):
    inside = clipped(box, W, H)
    assert mask_of([box], H, W).sum() <= (inside.width + 2) * (inside.height + 2)


@given(st.lists(boxes, max_size=3), st.floats(0.5, 12))
def test_feathering_only_adds_a_rim_outside(some, feather):
    hard, soft = mask_of(some, H, W), mask_of(some, H, W, feather)
    assert (soft[hard == 1] == 1).all()
    assert soft.min() >= 0
    assert soft.max() <= 1
    if hard.any() and not hard.all():
        assert soft.sum() >= hard.sum()


def test_a_feathered_rim_falls_off_and_ends():
    mask = mask_of([Box(20, 10, 10, 10)], H, W, feather=4)
    row = mask[15]
    assert row[30:35].tolist() == pytest.approx([0.75, 0.5, 0.25, 0.0, 0.0])


@given(boxes, st.floats(0, 2))
def test_a_grown_box_holds_the_visible_box_and_stays_in_the_frame(box, margin):
    grown, visible = grow(box, margin, W, H), clipped(box, W, H)
    assert overlap(grown, visible) == pytest.approx(visible.area, abs=1e-6)
    assert 0 <= grown.x <= grown.right <= W + 1e-9
    assert 0 <= grown.y <= grown.bottom <= H + 1e-9


def test_growing_adds_the_margin_on_each_side():
    assert grow(Box(20, 10, 10, 20), 0.3, 100, 100) == pytest.approx((17, 4, 16, 32))


@given(boxes, boxes)
def test_iou_is_symmetric_and_bounded(a, b):
    assert iou(a, b) == pytest.approx(iou(b, a))
    assert 0 <= iou(a, b) <= 1 + 1e-9


def test_iou_of_half_shifted_squares_is_a_third():
    assert iou(Box(0, 0, 10, 10), Box(5, 0, 10, 10)) == pytest.approx(1 / 3)


def test_covered_counts_parts_of_pixels():
    mask = mask_of([Box(0, 0, 10, 10)], 20, 20)
    assert covered(Box(9.5, 0, 1, 1), mask) == pytest.approx(0.5)
    assert covered(Box(12, 12, 3, 3), mask) == 0


def test_a_feathered_rim_counts_as_cover_only_above_one_half():
    mask = mask_of([Box(0, 0, 10, 10)], 20, 20, feather=4)
    assert covered(Box(10, 0, 1, 1), mask) == 1
    assert covered(Box(12, 0, 1, 1), mask) == 0


@given(boxes)
def test_a_head_lies_at_the_top_of_its_person(person):
    head = head_of(person)
    assert (head.x, head.y, head.width) == (person.x, person.y, person.width)
    assert 0 <= head.height <= person.height


def test_suppression_keeps_the_best_of_overlapping_boxes_and_all_that_lie_apart():
    some = [Box(0, 0, 10, 10), Box(1, 0, 10, 10), Box(30, 0, 10, 10)]
    assert suppress(some, [0.5, 0.9, 0.6], 0.3) == [1, 2]
    assert suppress(some, [0.5, 0.9, 0.6], 0.95) == [1, 2, 0]
    assert suppress([], [], 0.3) == []


def test_suppression_is_torchvisions():
    draw = np.random.default_rng(0)
    for _ in range(50):
        count = draw.integers(1, 60)
        sides = np.hstack([draw.uniform(0, 200, (count, 2)), draw.uniform(1, 60, (count, 2))])
        scores = draw.permutation(count) / count + 0.01
        corners = torch.tensor(np.hstack([sides[:, :2], sides[:, :2] + sides[:, 2:]]))
        expected = torchvision.ops.nms(corners, torch.tensor(scores), 0.3).tolist()
        boxes = [Box(*side) for side in sides.tolist()]
        assert suppress(boxes, scores.tolist(), 0.3) == expected

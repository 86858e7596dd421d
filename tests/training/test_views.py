"""Mirrors, crops and buckets show source, target and mask alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsafe2safe.core.records import Box, Category, Pair, Region
from unsafe2safe.editors.base import Mask, Pixels
from unsafe2safe.editors.concealed_frames import hidden_in
from unsafe2safe.training.buckets import bucket_of, bucket_sizes
from unsafe2safe.training.pairs import PairDataset, stretched
from unsafe2safe.training.views import View, Views, can_be_mirrored

PAIR = Pair("p", "p", "p", "a person outdoors", "give the person red hair", ())
SIDE = 32


class Ramps(PairDataset):
    """Pairs of one ramp and its negative; the mask is where the ramp is bright."""

    def __init__(self, views: Views, sizes: tuple[tuple[int, int], ...] | None = None) -> None:
        pairs = [replace(PAIR, image_id=f"p{index}") for index in range(4)]
        super().__init__(pairs, Path(), None, SIDE, 0.0, views, sizes)  # type: ignore[arg-type]

    def _pictures(self, pair: Pair) -> tuple[Pixels, Pixels]:
        across, down = np.meshgrid(np.linspace(0, 127, 90), np.linspace(0, 128, 60))
        ramp = np.repeat((across + down).round().astype(np.uint8)[..., None], 3, axis=2)
        return ramp, 255 - ramp

    def _hidden(self, pair: Pair, height: int, width: int) -> Mask:
        hidden = np.zeros((height, width), np.float32)
        hidden[40:50, 70:80] = 1  # where the ramp is between 187 and 222
        return hidden


@pytest.mark.parametrize("sizes", [None, bucket_sizes(SIDE, 8)])
def test_source_target_and_mask_are_shown_alike(sizes: tuple[tuple[int, int], ...] | None) -> None:
    data = Ramps(Views(3, flip=0.5, crop=0.6, crops=5), sizes)
    seen = set()
    for index in range(len(data)):
        for view in data.views(index):
            pair = data.load(index, view)
            assert pair.source.shape == (SIDE, SIDE, 3) if sizes is None else (24, 40, 3)
            negative = pair.source.astype(int) + pair.target.astype(int)
            assert np.abs(negative - 255).max() <= 1
            under = pair.source[pair.mask == 1]  # with the filter's rim
            assert under.size
            assert under.min() > 160
            assert under.max() < 250
            seen.add(pair.source.tobytes())
    assert len(seen) == len(data) * 2 * 5  # each pair has crops of its own
    flipped, plain = (data.load(0, View(flip, 1)) for flip in (True, False))
    assert np.array_equal(flipped.source, plain.source[:, ::-1])
    assert np.array_equal(flipped.mask, plain.mask[:, ::-1])
    batch = data.collate([flipped, plain])
    assert batch.mask is not None
    assert np.array_equal(batch.source[0].flip(-1), batch.source[1])


def test_views_are_drawn_by_pair_and_visit_alone() -> None:
    data = Ramps(Views(3, flip=0.5, crop=0.9, crops=3))
    drawn = [data.view(1, visit) for visit in range(200)]
    assert 70 < sum(view.flip for view in drawn) < 130
    assert set(drawn) == set(data.views(1))
    assert drawn == [data.view(1, visit) for visit in range(200)]
    assert drawn != [data.view(2, visit) for visit in range(200)]
    assert drawn != [Ramps(Views(4, 0.5, 0.9, 3)).view(1, visit) for visit in range(200)]
    assert [view.crop for view in map(Views(crop=0.9).of_visit, [PAIR] * 3, range(3))] == [0, 1, 2]
    assert data[1, 7].key == ("p1", 7)


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("the man on the left smiles", False),
        ("Right-hand side", False),
        ("the LEFTMOST car", False),
        ("turn it counter-clockwise", False),
        ("a bright sky over leftovers", True),
        ("copyright", True),
    ],
)
def test_what_names_a_side_is_never_mirrored(text: str, mirrored: bool) -> None:
    views = Views(flip=1.0)
    for field in ("public_caption", "edit_instruction", "combined_caption"):
        pair = replace(PAIR, **{field: text})
        assert can_be_mirrored(pair) == mirrored
        assert views.of_visit(pair, 0) == View(flip=mirrored)
        assert views.of_pair(pair) == [View(flip=mirrored)]


def test_writing_is_never_mirrored() -> None:
    sign = Region("p", Box(1, 2, 3, 4), Category.TEXT, 0.9, "test")
    assert not can_be_mirrored(replace(PAIR, regions=(sign,)))
    assert can_be_mirrored(replace(PAIR, regions=(replace(sign, category=Category.FACE),)))


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(0.1, 1.0),
    st.integers(0, 50),
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=3),
)
def test_a_crop_keeps_its_share_and_all_that_is_masked(
    height: int, width: int, crop: float, number: int, masked: list[tuple[int, int]]
) -> None:
    hidden = np.zeros((height, width), np.float32)
    for row, column in masked:
        hidden[row % height, column % width] = 1
    views = Views(1, crop=crop, crops=60)
    window = views.window(PAIR, number, hidden)
    assert 0 <= window.top <= window.top + window.height <= height
    assert 0 <= window.left <= window.left + window.width <= width
    assert window.height >= max(1, round(crop * height))
    assert window.width >= max(1, round(crop * width))
    assert hidden[window.slices].sum() == hidden.sum()
    assert views.window(PAIR, number, hidden) == window


@pytest.mark.parametrize(("resolution", "step"), [(512, 64), (1024, 16), (64, 8)])
def test_buckets_have_the_squares_area_and_sides_that_the_editor_takes(
    resolution: int, step: int
) -> None:
    sizes = bucket_sizes(resolution, step)
    assert (resolution, resolution) in sizes
    for height, width in sizes:
        assert height % step == width % step == 0
        assert max(height, width) <= 2 * min(height, width)
        assert abs(height * width / resolution**2 - 1) < 0.2
        assert (width, height) in sizes
        assert sizes[bucket_of(3 * height, 3 * width, sizes)] == (height, width)
    assert sizes[bucket_of(10, 1000, sizes)] == min(sizes, key=lambda size: size[0] / size[1])


def test_a_mask_reaches_as_far_as_the_filter_in_a_bucket_too() -> None:
    mask = np.zeros((90, 70), np.float32)
    mask[40:44, 30:33] = 1
    for height, width in ((24, 40), (40, 24), (90, 40), (32, 32)):
        hidden = hidden_in(mask, height, width)
        assert hidden.shape == (height, width)
        picture = np.repeat((mask * 255).astype(np.uint8)[..., None], 3, axis=2)
        for shown in (
            stretched(picture, height, width),
            255 - stretched(255 - picture, height, width),
        ):
            assert not (shown[..., 0] > 0)[hidden == 0].any()
        assert 0 < hidden.mean() < 0.4

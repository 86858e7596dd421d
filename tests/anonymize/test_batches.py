"""Who is edited together is decided by the unit's images alone, alike in size and bounded."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unsafe2safe.anonymize.batches import MOST_PIXELS, batches_of, size_of
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.folder import FolderSource

sizes = st.lists(st.tuples(st.integers(1, 20000), st.integers(1, 20000)), max_size=40)


def records_of(sizes):
    return [
        ImageRecord(f"{number:04d}.png", Path(), width=width, height=height)
        for number, (width, height) in enumerate(sizes)
    ]


@given(sizes, st.integers(1, 9))
def test_each_image_is_in_one_batch_of_bounded_size(sizes, most):
    batches = batches_of(None, records_of(sizes), most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    for batch in batches:
        pixels = sum(sizes[index][0] * sizes[index][1] for index in batch)
        assert len(batch) == 1 or (len(batch) <= most and pixels <= MOST_PIXELS)


@given(sizes)
def test_a_batch_is_of_pictures_alike(sizes):
    for batch in batches_of(None, records_of(sizes), 8):
        ratios = [sizes[index][0] / sizes[index][1] for index in batch]
        areas = [sizes[index][0] * sizes[index][1] for index in batch]
        assert max(ratios) / min(ratios) <= 2**0.5 * 1.001
        assert max(areas) / min(areas) <= 4 * 1.001


@pytest.fixture
def folder(tmp_path):
    for name, size in {"a.png": (40, 30), "b.jpg": (41, 30), "c.png": (30, 40)}.items():
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "d.png").write_bytes(b"no picture")
    return FolderSource(name="folder", root=tmp_path)


def test_sizes_are_read_from_the_headers_and_what_has_none_goes_alone(folder):
    records = folder.records()
    assert [size_of(folder, record) for record in records] == [(40, 30), (41, 30), (30, 40), None]
    assert batches_of(folder, records, 8) == [[3], [2], [0, 1]]

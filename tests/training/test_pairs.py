"""Pairs as the editor's square sees them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training.make_pairs import World, make_world

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import ItemError
from unsafe2safe.core.records import Box, Category, Region
from unsafe2safe.editors.concealment import hidden_in_square
from unsafe2safe.jobs.common import open_source
from unsafe2safe.training.pairs import PairDataset, read_pairs
from unsafe2safe.training.validation.samples import PairSamples
from unsafe2safe.vision.regions import mask_of


def dataset(world: World, regions: tuple[Region, ...], margin: float) -> PairDataset:
    config = load("train", world.overrides)
    assert isinstance(config, Train)
    pairs = [replace(pair, regions=regions) for pair in read_pairs(world.pairs)]
    return PairDataset(pairs, world.pairs, open_source(config), 64, margin)


def test_masks_lie_where_the_regions_lie_in_the_square(tmp_path: Path) -> None:
    world = make_world(tmp_path, 2)  # 70 and 71 x 90 pixels
    face = Region("p", Box(45.0, 35.0, 18.0, 14.0), Category.FACE, 0.9, "test")
    data = dataset(world, (face,), 0.0)
    batch = data.collate([data[0, 0], data[1, 0]])
    assert batch.mask is not None
    assert batch.mask.shape == (2, 1, 64, 64)
    assert batch.mask.unique().tolist() == [0.0, 1.0]
    # The very mask that an edit of the same picture is given, its rim included.
    expected = hidden_in_square(mask_of([face.box], 70, 90), 64).astype(np.float32)
    assert torch.equal(batch.mask[0, 0], torch.from_numpy(expected))
    assert np.all(expected >= mask_of([Box(32.0, 32.0, 12.8, 12.8)], 64, 64))

    grown = dataset(world, (face,), 0.5)[0, 0].mask
    assert grown.sum() > 1.5 * expected.sum()
    assert np.all(grown >= expected)


def test_a_pair_without_regions_has_an_empty_mask(tmp_path: Path) -> None:
    data = dataset(make_world(tmp_path, 1), (), 0.5)
    assert not data[0, 0].mask.any()


def test_a_mask_of_its_own_stands_for_the_regions(tmp_path: Path) -> None:
    world = make_world(tmp_path, 2, regions=True)
    drawn = np.zeros((70, 90), np.uint8)
    drawn[20:30, 40:60] = 1  # the faintest rim of a soft mask was edited, too
    Image.fromarray(drawn).save(world.pairs / "mask.png")
    data = dataset(world, (), 0.5)
    data.pairs = [replace(pair, mask="mask.png") for pair in data.pairs]
    expected = hidden_in_square((drawn > 0).astype(np.float32), 64)
    assert np.array_equal(data[0, 0].mask, expected)
    with pytest.raises(ItemError, match="source and mask differ in size"):
        _ = data[1, 0]  # 71 pixels high
    request = PairSamples(data.pairs, data, 0)[0].request
    assert np.array_equal(request.mask, drawn > 0)
    before = data.signature(0, data.view(0, 0))
    drawn[40] = 255
    Image.fromarray(drawn).save(world.pairs / "mask.png", compress_level=0)
    assert data.signature(0, data.view(0, 0)) != before

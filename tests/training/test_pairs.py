"""Pairs as the editor's square sees them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from training.make_pairs import World, make_world

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.records import Box, Category, Region
from unsafe2safe.editors.concealment import hidden_in_square
from unsafe2safe.jobs.common import open_source
from unsafe2safe.training.pairs import PairDataset, read_pairs
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

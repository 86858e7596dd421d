"""Units and draws depend on what they are given, and on nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsafe2safe.core.randomness import generator, torch_seed
from unsafe2safe.core.units import Shard, UnitCut, cut_units


@given(st.sets(st.text(min_size=1), max_size=50), st.integers(1, 20))
def test_units_hold_each_image_once_and_in_order(ids, size):
    units = cut_units(sorted(ids), size)
    assert [image for unit in units for image in unit.image_ids] == sorted(ids)
    assert all(len(unit.image_ids) == size for unit in units[:-1])


def test_unsorted_or_repeated_images_are_refused():
    for ids in (["b", "a"], ["a", "a"]):
        with pytest.raises(ValueError, match="sorted and unique"):
            cut_units(ids, 2)


def test_equal_keys_draw_equally_and_any_other_key_differently():
    base = generator(0, "a.png", 0, "noise").standard_normal(64)
    assert np.array_equal(base, generator(0, "a.png", 0, "noise").standard_normal(64))
    others = [(1, "a.png", 0, "noise"), (0, "b.png", 0, "noise"), (0, "a.png", 1, "noise")]
    others.append((0, "a.png", 0, "timestep"))
    for key in others:
        assert abs(np.corrcoef(base, generator(*key).standard_normal(64))[0, 1]) < 0.5


@given(st.integers(0, 2**31), st.text(), st.integers(0, 100))
def test_torch_seeds_fit_a_signed_integer(seed, image_id, visit):
    assert 0 <= torch_seed(seed, image_id, visit) < 2**63


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 4))
def test_shards_and_their_split_deal_each_unit_once(units, count, parts):
    shards = [Shard(index, count) for index in range(count)]
    for dealt in (shards, [part for shard in shards for part in shard.split(parts)]):
        owners = [sum(shard.has(unit) for shard in dealt) for unit in range(units)]
        assert owners == [1] * units


@pytest.mark.parametrize("text", ["8/8", "9/8", "-1/8", "1", "1/", "/8", "a/b", "0/0", "1/8/2", ""])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ValueError, match="is no shard"):
        Shard.parse(text)


@given(st.integers(1, 100), st.integers(1, 20))
def test_a_cut_knows_its_units_without_the_names(images, size):
    ids = [f"{number:03d}" for number in range(images)]
    cut, units = UnitCut.of(ids, size), cut_units(ids, size)
    assert cut.units == len(units)
    assert [cut.images_in(unit.index) for unit in units] == [len(u.image_ids) for u in units]
    assert UnitCut.of([*ids[:-1], "x"], size) != cut

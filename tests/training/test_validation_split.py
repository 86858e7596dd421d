"""Pairs held out of training: by what the pictures show, on one side only, the same for ever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from training.make_pairs import World, make_world

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.data.source import ImageSource
from unsafe2safe.training.pairs import PairDataset, read_pairs
from unsafe2safe.training.validation.samples import LONG_SIDE, PairSamples
from unsafe2safe.training.validation.split import hold_out, hold_out_equals, place_of

COUNT = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), COUNT, regions=True)


def data_of(world: World, photos: Path | None = None) -> PairDataset:
    config = load("train", ["dataset=folder", f"dataset.root={photos or world.photos}"])
    assert isinstance(config, Train)
    source = build(config.dataset, "dataset", ImageSource)  # type: ignore[type-abstract]
    return PairDataset(read_pairs(world.pairs), world.pairs, source, 64, 0.3)


def ids(pairs: object) -> list[str]:
    return [pair.image_id for pair in pairs]  # type: ignore[attr-defined]


def test_each_pair_is_on_one_side_and_the_sides_stay(world: World, tmp_path: Path) -> None:
    data = data_of(world)
    everything = set(ids(data.pairs))
    held = hold_out(data, 0.3, tmp_path / "a.json")
    assert set(ids(held)) | set(ids(data.pairs)) == everything
    assert not set(ids(held)) & set(ids(data.pairs))
    assert 0 < len(held) < COUNT
    again = data_of(world)
    assert ids(hold_out(again, 0.3, tmp_path / "b.json")) == ids(held)
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()
    more = data_of(world)  # a larger share holds out those and others
    assert set(ids(hold_out(more, 0.6, tmp_path / "c.json"))) > set(ids(held))


def test_a_picture_under_another_name_is_on_the_same_side(world: World, tmp_path: Path) -> None:
    data = data_of(world)
    held = set(ids(hold_out(data, 0.3, tmp_path / "a.json")))
    photos = tmp_path / "photos"  # every file shows what another one showed
    photos.mkdir()
    names = sorted(path.name for path in world.photos.iterdir())
    turned = dict(zip(names, [*names[1:], names[0]], strict=True))
    for name, other in turned.items():
        shutil.copy(world.photos / other, photos / name)
    renamed = data_of(world, photos)
    assert {turned[i] for i in ids(hold_out(renamed, 0.3, tmp_path / "b.json"))} == held


def test_the_first_verdict_stands(world: World, tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text(json.dumps(["p03.png"]))
    data = data_of(world)
    assert ids(hold_out(data, 0.9, tmp_path / "kept.json")) == ["p03.png"]
    assert len(data) == COUNT - 1


def test_a_small_share_holds_out_one_pair_and_none_may_be_all(world: World, tmp_path: Path) -> None:
    assert len(hold_out(data_of(world), 1e-9, tmp_path / "a.json")) == 1
    with pytest.raises(UsageError, match=r"validation\.share=0\.999: all 12 pairs are held out"):
        hold_out(data_of(world), 0.999, tmp_path / "b.json")


def test_pairs_of_another_run_push_the_same_pictures_out_of_training(
    world: World, tmp_path: Path
) -> None:
    data, other = data_of(world), data_of(world)
    other.pairs = other.pairs[:4]
    validated = hold_out_equals(data, other, tmp_path / "a.json")
    assert sorted(ids(validated)) == ids(other.pairs)
    assert not set(ids(validated)) & set(ids(data.pairs))
    assert len(data) == COUNT - 4


def test_no_hash_of_an_original_is_written(world: World, tmp_path: Path) -> None:
    data = data_of(world)
    keys = [data.content_key(pair) for pair in data.pairs]
    hold_out(data, 0.5, tmp_path / "a.json")
    assert not any(key in (tmp_path / "a.json").read_text() for key in keys)


def test_places_are_spread_evenly() -> None:
    places = [place_of(str(number)) for number in range(2000)]
    assert sum(place < 0.1 for place in places) == pytest.approx(200, abs=50)


def test_a_sample_is_the_original_in_its_shape_with_its_regions(world: World) -> None:
    data = data_of(world)
    sample = PairSamples(data.pairs, data, 5)[2]
    request = sample.request
    assert request.image.shape == (72, 90, 3)
    assert sample.mask[36, 45]
    assert not sample.mask[3, 3]
    assert request.regions == data.pairs[2].regions
    assert request.public_caption == "a person outdoors"
    again = PairSamples(data.pairs[1:], data, 5)[1].request
    assert (again.seed, PairSamples(data.pairs, data, 6)[2].request.seed == request.seed) == (
        request.seed,
        False,
    )


def test_large_originals_are_brought_to_a_bounded_size_with_their_regions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unsafe2safe.training.validation.samples.LONG_SIDE", 45)
    data = data_of(world)
    sample = PairSamples(data.pairs, data, 5)[2]
    assert sample.request.image.shape == (36, 45, 3)
    box, whole = sample.request.regions[0].box, data.pairs[2].regions[0].box
    assert box == pytest.approx([side / 2 for side in whole])
    assert LONG_SIDE == 1024

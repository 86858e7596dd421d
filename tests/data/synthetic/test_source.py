"""dataset=synthetic: records without files, and without more work than was asked for."""

from __future__ import annotations

import pytest

from unsafe2safe.core.errors import UsageError
from unsafe2safe.data.decode import decode_bytes
from unsafe2safe.data.synthetic import render
from unsafe2safe.data.synthetic.source import SyntheticSource


def test_a_trial_of_a_world_of_a_hundred_million_makes_the_trial_only():
    source = SyntheticSource(name="synthetic", size=10**8, limit=3)
    assert [record.image_id for record in source.records()] == [
        "00000000.png",
        "00000001.png",
        "00000002.png",
    ]
    assert source.scene("99999999.png").private.persons
    with pytest.raises(UsageError, match=r"dataset\.limit=3"):
        source.record("00000003.png")


def test_records_do_not_depend_on_how_many_there_are():
    few, many = (SyntheticSource(name="synthetic", size=size) for size in (30, 500))
    assert few.records() == many.records()[:30]
    assert [record.image_id for record in many.records()] == sorted(
        record.image_id for record in many.found()
    )
    assert len({record.image_id for record in many.records()}) == 500


def test_its_pictures_are_lossless_and_bounded():
    source = SyntheticSource(name="synthetic", size=4, side=64, world="values", seed=9)
    for record in source.records():
        shown = render(source.scene(record.image_id), 64)
        assert (decode_bytes(source.read(record), record.image_id).pixels == shown).all()
        assert (source.decode(record).pixels == shown).all()


def test_its_truth_names_what_is_there():
    source = SyntheticSource(name="synthetic", size=300)
    seen = set()
    for record in source.records():
        truth, private = source.truth(record.image_id), source.scene(record.image_id).private
        assert truth.unsafe
        assert ("sign" in truth.labels) == (private.sign is not None)
        assert ("plate" in truth.labels) == (private.plate is not None)
        assert ("timepiece" in truth.labels) == (private.timepiece is not None)
        assert ("tag" in truth.labels) == any(p.tag is not None for p in private.persons)
        seen.update(truth.labels)
    assert seen == {"person", "tag", "sign", "plate", "timepiece"}


@pytest.mark.parametrize(
    "image_id", ["", "12.png", "00000001.jpg", "a/00000001.png", "0000000\u0661.png"]
)
def test_an_id_of_another_data_set_is_told(image_id):
    with pytest.raises(UsageError, match="no image of a synthetic data set"):
        SyntheticSource(name="synthetic", size=100).scene(image_id)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"world": "phrasing"}, "did you mean 'phrasings'"),
        ({"side": 96}, "multiple of 64"),
        ({"size": 0}, "dataset.size=0"),
        ({"size": 10**8 + 1}, "dataset.size=100000001"),
        ({"seed": -1}, "dataset.seed=-1"),
        ({"sise": 12}, "did you mean"),
    ],
)
def test_wrong_settings_are_told_in_one_line(settings, told):
    from unsafe2safe.core.config.compose import load
    from unsafe2safe.jobs.common import open_source

    overrides = [f"dataset.{key}={value}" for key, value in settings.items()]
    with pytest.raises(UsageError) as failure:
        open_source(load("generate_triplets", ["dataset=synthetic", *overrides])).records()
    assert told in str(failure.value)
    assert "\n" not in str(failure.value)

"""stage1=oracle: triplets of synthetic scenes agree with the scenes."""

from __future__ import annotations

import pytest

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import (
    Category,
    ExitStatus,
    PrivacyFlag,
    PrivateRecord,
    Region,
    Triplet,
    TripletState,
)
from unsafe2safe.core.tables import read_parts
from unsafe2safe.data.synthetic import WORLDS, draw_scene, private_mask
from unsafe2safe.data.synthetic.captions import vocabulary
from unsafe2safe.data.synthetic.source import SyntheticSource, counterpart, index_of
from unsafe2safe.jobs.generate_triplets import run
from unsafe2safe.stage1.oracle import Oracle


def test_its_triplets_are_exact_and_its_regions_cover_all_that_is_private(tmp_path):
    overrides = [
        "dataset=synthetic",
        "stage1=oracle",
        "dataset.size=20",
        "dataset.world=values",
        "engine.unit_size=8",
        f"paths.runs={tmp_path / 'runs'}",
        f"paths.private={tmp_path / 'private'}",
    ]
    result = run(load("generate_triplets", overrides))
    assert result.status is ExitStatus.DONE
    triplets = list(read_parts(result.output_dir / "triplets", Triplet))
    regions = list(read_parts(result.output_dir / "regions", Region))
    assert len(triplets) == 20
    for triplet in triplets:
        scene = draw_scene(WORLDS["values"], 0, index_of(triplet.image_id))
        redrawn = counterpart(scene, WORLDS["values"], 0, triplet.image_id)
        for change in redrawn.changes:
            if change.attribute == "clothing":
                assert f"{change.after} shirt" in triplet.edit_instruction or (
                    f"shirt {change.after}" in triplet.edit_instruction
                )
        assert set(triplet.edit_instruction.lower().split()) <= {*vocabulary(), *",;:."}
        covered = private_mask(scene) & False
        for region in regions:
            if region.image_id == triplet.image_id:
                box = region.box
                rows = slice(int(box.y), int(box.bottom) + 1)
                covered[rows, int(box.x) : int(box.right) + 1] = True
        assert not (private_mask(scene) & ~covered).any()
    assert {region.category for region in regions} >= {Category.PERSON, Category.TEXT}
    files = list((tmp_path / "private").rglob("*.parquet"))
    private = [
        record for path in {f.parent for f in files} for record in read_parts(path, PrivateRecord)
    ]
    texts = {finding.text for record in private for finding in record.findings}
    assert any(len(text) == 3 for text in texts)


@pytest.fixture
def oracle_run(tmp_path):
    def start(name: str, *overrides: str):
        size = [] if "dataset=samples" in overrides else ["dataset.size=40"]
        return run(
            load(
                "generate_triplets",
                [
                    "dataset=synthetic",
                    "stage1=oracle",
                    "engine.unit_size=8",
                    f"paths.runs={tmp_path / name / 'runs'}",
                    f"paths.private={tmp_path / name / 'private'}",
                    *overrides,
                    *size,
                ],
            )
        )

    def written(name: str) -> dict[str, bytes]:
        return {
            f"{path.parent.name}/{path.name}": path.read_bytes()
            for path in sorted((tmp_path / name).rglob("part-*.parquet"))
        }

    return start, written


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(oracle_run, monkeypatch):
    start, written = oracle_run
    assert start("whole").status is ExitStatus.DONE
    described = []
    describe = Oracle.describe

    def interrupted(self, images, perception, seed):
        described.extend(images)
        if len(described) > 20:
            raise KeyboardInterrupt
        return describe(self, images, perception, seed)

    monkeypatch.setattr(Oracle, "describe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start("parts")
    assert 0 < len(written("parts")) < len(written("whole"))
    monkeypatch.setattr(Oracle, "describe", describe)
    assert start("parts").status is ExitStatus.DONE
    assert start("parts").status is ExitStatus.DONE
    assert written("parts") == written("whole")
    assert len(written("whole")) == 3 * 5  # triplets, regions, private records


class _Untouchable:
    def __getattr__(self, name: str):
        raise AssertionError(f"the oracle asked a model for {name}")


def described(side: int = 64, count: int = 200, world: str = "base"):
    source = SyntheticSource(name="synthetic", size=count, side=side, world=world, seed=4)
    images = [(record, source.decode(record)) for record in source.records()]
    oracle = Oracle(name="oracle", world=world, scene_seed=4)
    return source, oracle.describe(images, _Untouchable(), 7)


def test_findings_hold_every_text_and_lie_where_the_record_puts_them_and_no_model_is_asked():
    source, told = described(side=128, count=120)
    for item in told:
        scene = source.scene(item.triplet.image_id)
        found = {(f.category, f.text, tuple(f.box)) for f in item.private.findings}
        wanted = set()
        for person, spot in zip(scene.private.persons, scene.public.spots, strict=True):
            wanted.add((Category.PERSON, "", spot.slot))
            if person.tag is not None:
                wanted.add((Category.TEXT, person.tag, spot.tag))
        for name, category in (("sign", Category.TEXT), ("plate", Category.PLATE)):
            if (text := getattr(scene.private, name)) is not None:
                wanted.add((category, text, getattr(scene.public, name)))
        if scene.private.timepiece:
            wanted.add((Category.TEXT, "", scene.public.timepiece))
        assert found == {
            (
                category,
                text,
                (2 * r.left, 2 * r.top, 2 * r.right - 2 * r.left, 2 * r.bottom - 2 * r.top),
            )
            for category, text, r in wanted
        }
        assert {(r.score, r.source) for r in item.regions} == {(1.0, "oracle")}
        assert len(item.regions) == len(item.private.findings)


def test_public_texts_hold_no_letter_of_the_source_and_the_combined_caption_tells_the_redraw():
    source, told = described(world="phrasings")
    for item in told:
        triplet, scene = item.triplet, source.scene(item.triplet.image_id)
        old = scene.private
        new = counterpart(scene, WORLDS["phrasings"], 7, triplet.image_id).scene.private
        for text in (old.sign, old.plate):
            for public in (
                triplet.public_caption,
                triplet.edit_instruction,
                triplet.combined_caption,
            ):
                assert not text or " ".join(text) not in public
        for text in (new.sign, new.plate):
            assert not text or " ".join(text) in triplet.combined_caption
            assert not text or " ".join(text) in triplet.edit_instruction
        assert triplet.privacy_flag is PrivacyFlag.UNSAFE
        assert triplet.state is TripletState.COMPLETE


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["dataset=samples"], "dataset=synthetic only"),
        (["stage1.world=values"], "must be those of the data set"),
        (["stage1.scene_seed=5"], "must be those of the data set"),
    ],
)
def test_pictures_that_it_does_not_know_are_refused(oracle_run, overrides, told):
    start, written = oracle_run
    with pytest.raises(UsageError, match=told):
        start("wrong", *overrides)
    assert not written("wrong")

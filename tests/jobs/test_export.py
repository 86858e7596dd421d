"""The export is the public side of a run, whole, readable by `datasets`, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import datasets
import pytest
import yaml
from filelock import FileLock
from miniatures import write_miniature_coco, write_triplets_run

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import (
    Box,
    Category,
    PrivacyFlag,
    Provenance,
    Region,
    Triplet,
    TripletState,
)
from unsafe2safe.jobs.export_triplets import run

PRIVATE = "Call Anna Weber 555 0134"


@pytest.fixture
def world(tmp_path):
    """A data set and a run over it: one image of each fate."""
    photos = write_miniature_coco(tmp_path / "coco", no_derivatives=("cat.jpg",))
    ids = sorted(photos)
    fates = (
        (PrivacyFlag.UNSAFE, TripletState.COMPLETE, "A person.", "Change the hair.", "face"),
        (PrivacyFlag.SAFE, TripletState.COMPLETE, "A cat.", "", ""),
        (PrivacyFlag.UNSAFE, TripletState.NEEDS_REVIEW, "", "", "unparsed"),
        (PrivacyFlag.UNSAFE, TripletState.FAILED, "", "", "truncated"),
    )
    triplets = [
        Triplet(image_id, flag, state, caption, instruction, None, reason,
                Provenance("tiny|model\n/home/me/weights", "abc", "f" * 40, 3))
        for image_id, (flag, state, caption, instruction, reason) in zip(ids, fates, strict=True)
    ]  # fmt: skip
    regions = [Region(ids[0], Box(1, 2, 3, 4), Category.FACE, 0.9, "centerface")]
    config = load(
        "generate_triplets",
        [
            "dataset=coco",
            f"dataset.root={tmp_path / 'coco'}",
            f"paths.runs={tmp_path / 'runs'}",
            f"paths.private={tmp_path / 'private'}",
        ],
    )
    folder = write_triplets_run(config, tmp_path / "run", triplets, regions, PRIVATE, parts=2)
    return config, folder, triplets, regions


def test_datasets_reads_both_tables_as_the_run_has_them(world, tmp_path):
    config, folder, triplets, _ = world
    result = run(config, folder)
    assert result.status == 0
    assert result.counts == {"images": 4, "regions": 1}
    export = str(folder / "export")
    cache = str(tmp_path / "cache")
    read = datasets.load_dataset(export, cache_dir=cache)["train"]
    assert read["image_id"] == [triplet.image_id for triplet in triplets]
    assert read["privacy_flag"] == ["unsafe", "safe", "unsafe", "unsafe"]
    assert read["state"] == ["complete", "complete", "needs_review", "failed"]
    assert read[0]["provenance"]["seed"] == 3
    boxes = datasets.load_dataset(export, "regions", split="train", cache_dir=cache)
    assert boxes["box"] == [[1, 2, 3, 4]]
    assert boxes["category"] == ["face"]


def test_the_card_counts_and_holds_nothing_private_and_no_path(world, tmp_path):
    config, folder, *_ = world
    run(config, folder)
    files = [path for path in (folder / "export").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == [
        "README.md",
        "regions.parquet",
        "triplets.parquet",
    ]
    for path in files:
        content = path.read_bytes()
        assert b"Anna" not in content
        assert str(tmp_path).encode() not in content
    card = (folder / "export" / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in header["configs"]] == ["triplets", "regions"]
    for line in (
        "| complete, safe | 1 |",
        "| complete, unsafe | 1 |",
        "| needs_review | 1 |",
        "| failed | 1 |",
        "| regions: face | 1 |",
        "| tiny model weights | abc | `ffffffffffffffff` | 4 |",
        "| Attribution License | 3 |",
        "| Attribution-NonCommercial-NoDerivs License | 1 |",
        "4 of 4 images name someone to credit",
    ):
        assert line in card, line
    assert "/home/me" not in card


def test_the_card_of_imported_triplets_does_not_claim_to_know_how_they_were_made(world, tmp_path):
    config, _, triplets, _ = world
    made = [replace(triplet, provenance=Provenance("import:csv")) for triplet in triplets]
    folder = write_triplets_run(config, tmp_path / "imported", made, [], PRIVATE)
    run(config, folder)
    card = (folder / "export" / "README.md").read_text()
    assert "imported from a ready-made table" in card
    assert "written from the public caption" not in card


def test_an_export_again_gives_the_same_bytes(world):
    config, folder, *_ = world
    run(config, folder)
    first = {p: p.read_bytes() for p in (folder / "export").rglob("*") if p.is_file()}
    run(config, folder)
    assert first == {p: p.read_bytes() for p in (folder / "export").rglob("*") if p.is_file()}


def test_a_run_without_regions_has_one_table(world, tmp_path):
    config, _, triplets, _ = world
    folder = write_triplets_run(config, tmp_path / "bare", triplets, [], PRIVATE)
    run(config, folder)
    assert not (folder / "export" / "data" / "regions.parquet").exists()
    read = datasets.load_dataset(str(folder / "export"), cache_dir=str(tmp_path / "cache"))
    assert read["train"].num_rows == 4
    assert "regions" not in (folder / "export" / "README.md").read_text().split("## How")[0]


def test_runs_that_cannot_be_exported_are_told(world, tmp_path):
    config, folder, triplets, regions = world
    with pytest.raises(UsageError, match=r"no complete run of generate_triplets\.py"):
        run(config)
    with pytest.raises(UsageError, match="is no run folder"):
        run(config, tmp_path)
    half = write_triplets_run(config, tmp_path / "half", triplets, regions, "", complete=False)
    with pytest.raises(UsageError, match="is not complete"):
        run(config, half)
    lock = FileLock(folder / ".lock")
    with lock, pytest.raises(UsageError, match="being written by another process"):
        run(config, folder)
    part = folder / "triplets" / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"part-000001\.parquet"):
        run(config, folder)
    assert not (folder / "export" / "README.md").exists()


def test_the_newest_run_of_the_data_set_is_exported_unless_one_is_named(world, tmp_path):
    config, _, triplets, regions = world
    folder = write_triplets_run(
        config, tmp_path / "runs" / "generate_triplets" / "x", triplets, regions, ""
    )
    assert run(config).output_dir == folder

"""stage1=oracle: triplets of synthetic scenes agree with the scenes."""

from __future__ import annotations

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.records import Category, ExitStatus, PrivateRecord, Region, Triplet
from unsafe2safe.core.tables import read_parts
from unsafe2safe.data.synthetic import WORLDS, draw_scene, private_mask
from unsafe2safe.data.synthetic.captions import vocabulary
from unsafe2safe.data.synthetic.source import counterpart, index_of
from unsafe2safe.jobs.generate_triplets import run


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

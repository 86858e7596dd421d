"""A whole run over planted files: what lies in published/ is clean, complete and a data set."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
from exiftool import beyond_structure, read_tags
from miniatures import settings, write_miniature_coco
from PIL import Image
from planted import PLANT, planted
from pycocotools.coco import COCO

from unsafe2safe import api
from unsafe2safe.core.config.components import build
from unsafe2safe.core.pseudonyms import restore, true_names
from unsafe2safe.core.records import Outcome
from unsafe2safe.core.tables import read_records
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.data.source import ImageSource

pytestmark = pytest.mark.slow


def paths(root):
    return f"paths.runs={root / 'runs'}", f"paths.private={root / 'private'}"


def run(root, name, folder, publish=()):
    """The run folder, and its outcomes under their true names."""
    dataset = f"dataset={name}", f"dataset.root={folder}"
    api.generate_triplets(*dataset, *paths(root))
    done = api.anonymize(*dataset, *paths(root), "verify.max_attempts=2", *publish)
    names = true_names(root / "private", on_disk(folder))
    rows = read_records(done.output_dir / "manifest.parquet", Outcome)
    return done.output_dir, {row.image_id: row for row in (restore(row, names) for row in rows)}


def on_disk(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


KINDS = {"cat.jpg": ("photo.jpg", "photo.tif", "burst.jpg"), "astronaut.jpg": ("photo.png",)}


def test_planted_photographs_come_out_clean_under_their_names(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for photo, kinds in KINDS.items():
        with Image.open(photos_folder() / photo) as image:
            image.thumbnail((320, 320))
            files = planted(image.convert("RGB"))
        for name in kinds:
            (images / f"{photo[:-4]}_{name}").write_bytes(files[name])
    (images / "IMG_20200131_anna.jpg").write_bytes((images / "cat_photo.jpg").read_bytes())
    output, rows = run(tmp_path, "folder", images, publish=["publish.safe=lossless"])
    published = output / "published"
    shown = {row.published_as for row in rows.values() if row.published_as}
    assert on_disk(published) == {*shown, "metadata.csv"}
    assert rows["astronaut_photo.png"].published_as == "astronaut_photo.png"
    assert rows["cat_photo.tif"].published_as == "cat_photo.tif"
    hashed = rows["IMG_20200131_anna.jpg"].published_as
    assert hashed
    assert "anna" not in hashed
    for path, tags in read_tags([published / name for name in sorted(shown)]).items():
        assert beyond_structure(tags) == [], path.name
    for path in published.rglob("*"):
        if path.is_file():
            assert PLANT.encode() not in path.read_bytes(), path.name
    assert "anna" not in (published / "metadata.csv").read_text()
    assert "first frame of 2" in rows["cat_burst.jpg"].notes


def test_a_published_coco_is_a_coco(tmp_path):
    root = tmp_path / "coco"
    photos = write_miniature_coco(root, no_derivatives=("coffee_note.jpg",))
    output, rows = run(tmp_path, "coco", root, publish=["publish.names=hash"])
    published = output / "published"
    shown = {image_id for image_id, row in rows.items() if row.published_as}
    assert {photos[image_id] for image_id in shown} == {"astronaut.jpg", "cat.jpg", "coffee.jpg"}
    note = next(row for image_id, row in rows.items() if photos[image_id] == "coffee_note.jpg")
    assert note.reason == "its licence forbids derivatives"
    listing = [f"annotations/{kind}_train2017.json" for kind in ("instances", "captions")]
    listing.append("train2017/metadata.csv")
    assert on_disk(published) == {*(rows[name].published_as for name in shown), *listing}
    before = COCO(str(root / "annotations" / "instances_train2017.json"))
    after = COCO(str(published / "annotations" / "instances_train2017.json"))
    assert len(after.imgs) == len(shown)
    for image_id in shown:
        old = next(key for key, row in before.imgs.items()
                   if f"train2017/{row['file_name']}" == image_id)  # fmt: skip
        new = next(key for key, row in after.imgs.items()
                   if f"train2017/{row['file_name']}" == rows[image_id].published_as)  # fmt: skip
        told = [coco.loadAnns(coco.getAnnIds(imgIds=[key]))
                for coco, key in ((before, old), (after, new))]  # fmt: skip
        assert [row["bbox"] for row in told[0]] == [row["bbox"] for row in told[1]]
    again = build(settings("coco", root=str(published)), "dataset", ImageSource)
    captions = {record.image_id: record.captions for record in again.records()}
    assert set(captions) == {rows[name].published_as for name in shown}
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(published), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert sorted(loaded["public_caption"]) == sorted(text for (text,) in captions.values())
    originals = json.loads((root / "annotations" / "captions_train2017.json").read_text())
    for name in listing:
        text = (published / name).read_text()
        assert not any(row["caption"].strip() in text for row in originals["annotations"])
        assert not any(row["file_name"][:-4] in text for row in originals["images"])
    assert all(np.asarray(image).ndim == 3 for image in loaded["image"])

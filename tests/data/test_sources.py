"""Sources list what there is, in one order, and tell plainly what there is not."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil

import numpy as np
import pytest
from miniatures import write_miniature_coco
from odd_images import AWKWARD_NAME, gradient, saved, write_odd_images
from omegaconf import OmegaConf
from PIL import Image

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import config_dir
from unsafe2safe.core.errors import ConfigError, UnreadableImage, UsageError
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.core.units import cut_units
from unsafe2safe.data.coco import CocoSource
from unsafe2safe.data.folder import FolderSource
from unsafe2safe.data.samples import SamplesSource, photos_folder
from unsafe2safe.data.source import ImageSource

JPEG = saved(Image.fromarray(gradient()), "JPEG")


def settings(name: str, **changes) -> dict:
    loaded = OmegaConf.load(config_dir() / "dataset" / f"{name}.yaml")
    base = OmegaConf.create({"dataset": loaded, "paths": {"data": "data"}})
    base.dataset.update(changes)
    return OmegaConf.to_container(base, resolve=True)["dataset"]


@pytest.fixture
def coco(tmp_path):
    return tmp_path / "coco", write_miniature_coco(tmp_path / "coco")


# -- all sources -----------------------------------------------------------------------------------


def test_the_shipped_yamls_build_and_limit_applies_to_each(tmp_path, coco):
    write_odd_images(tmp_path / "odd")
    made = {
        "samples": settings("samples", limit=2),
        "folder": settings("folder", root=str(tmp_path / "odd"), limit=2),
        "coco": settings("coco", root=str(coco[0]), limit=2),
    }
    for name, given in made.items():
        source = build(given, "dataset", ImageSource)
        whole = build({**given, "limit": None}, "dataset", ImageSource)
        assert source.name == name
        assert len(source.records()) == 2
        assert source.records() == whole.records()[:2]
        assert source.records() is source.records()
        ids = [record.image_id for record in whole.records()]
        cut_units(ids, 3)  # raises unless sorted and unique
        assert whole.record(ids[-1]) == whole.records()[-1]
        with pytest.raises(UsageError, match="not in the data set"):
            whole.record("nothing.jpg")
        assert pickle.loads(pickle.dumps(source)).records() == source.records()


def test_mistakes_in_the_configuration_name_the_nearest_key(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown key 'dataset.splitt'; did you mean 'split'"):
        build({**settings("coco"), "splitt": "x"}, "dataset", ImageSource)
    with pytest.raises(ConfigError, match=r"dataset.limit=0"):
        build(settings("samples", limit=0), "dataset", ImageSource)
    with pytest.raises(ConfigError, match=r"dataset.orientation='up'"):
        build(settings("samples", orientation="up"), "dataset", ImageSource)
    with pytest.raises(ConfigError, match=r"dataset.split"):
        build(settings("coco", split="../x"), "dataset", ImageSource)
    for target in ("folder.FolderSource", "coco.CocoSource"):
        with pytest.raises(ConfigError, match=r"dataset.root is not set"):
            build({"_target_": f"unsafe2safe.data.{target}"}, "dataset", ImageSource)


# -- folder ----------------------------------------------------------------------------------------


def test_unusable_roots_are_told(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for name, told in (("gone", "does not exist"), ("file", "not a folder"),
                       ("empty", "no images under .*empty; looked for .jpg, .jpeg")):  # fmt: skip
        with pytest.raises(UsageError, match=told):
            FolderSource(root=tmp_path / name).records()


def test_every_picture_has_its_own_id_and_hidden_names_are_skipped(tmp_path):
    for name in ("b/x.jpg", "a.png", "a.jpg", "B.JPEG", ".hidden.jpg", ".git/x.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(JPEG)
    records = FolderSource(root=tmp_path).records()
    assert [record.image_id for record in records] == ["B.JPEG", "a.jpg", "a.png", "b/x.jpg"]
    assert all(record.path == tmp_path / record.image_id for record in records)


def test_odd_files_go_through_a_source(tmp_path):
    expected = write_odd_images(tmp_path)
    source = FolderSource(root=tmp_path)
    assert {record.image_id for record in source.records()} == set(expected)
    for record in source.records():
        if expected[record.image_id] is None:
            source.decode(record)
        else:
            with pytest.raises(UnreadableImage, match=expected[record.image_id]):
                source.decode(record)
    assert source.record(AWKWARD_NAME).image_id == AWKWARD_NAME


def fate_of(source: ImageSource, record: ImageRecord) -> str:
    """The format that a record decodes to, or the reason why it does not."""
    try:
        return source.decode(record).format
    except UnreadableImage as error:
        return error.reason


def test_links_that_leave_the_root_fail_and_others_work(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "deep").mkdir(parents=True)
    root.mkdir()
    (outside / "secret.jpg").write_bytes(JPEG)
    (root / "real.jpg").write_bytes(JPEG)
    (root / "alias.jpg").symlink_to(root / "real.jpg")
    (root / "leaves.jpg").symlink_to(outside / "secret.jpg")
    (root / "circle.jpg").symlink_to(root / "circle.jpg")
    (root / "folder").symlink_to(outside, target_is_directory=True)
    (root / "up").symlink_to(root, target_is_directory=True)
    source = FolderSource(root=root)
    fate = {record.image_id: fate_of(source, record) for record in source.records()}
    assert "outside" not in str(fate)
    assert fate.pop("real.jpg") == fate.pop("alias.jpg") == "JPEG"
    assert sorted(fate) == ["circle.jpg", "folder", "leaves.jpg"]
    assert "link that leaves" in fate["folder"]
    assert "link that leaves" in fate["leaves.jpg"]


def test_a_root_that_is_a_link_is_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(JPEG)
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    source = FolderSource(root=tmp_path / "link")
    assert source.decode(source.record("a.jpg")).format == "JPEG"


def test_names_that_are_no_utf8_get_an_id_that_can_be_stored(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(JPEG)
    except OSError:
        pytest.skip("this file system refuses such names")
    source = FolderSource(root=tmp_path)
    (record,) = source.records()
    assert record.image_id == "caf\\xe9.jpg"
    assert record.image_id.encode()
    assert source.decode(record).format == "JPEG"


def test_a_locked_folder_is_a_failure_not_a_silence(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = FolderSource(root=tmp_path)
    assert [record.image_id for record in source.records()] == ["a.jpg", "locked"]
    with pytest.raises(UnreadableImage, match="folder"):
        source.decode(source.record("locked"))


def test_orientation_and_bounds_of_the_configuration_reach_the_decoder(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "a.jpg").write_bytes(saved(Image.fromarray(gradient()), "JPEG", exif=exif))
    for orientation, shape in (("apply", (48, 32, 3)), ("raster", (32, 48, 3))):
        source = FolderSource(root=tmp_path, orientation=orientation)
        assert source.decode(source.record("a.jpg")).pixels.shape == shape
    small = FolderSource(root=tmp_path, max_pixels=100)
    with pytest.raises(UnreadableImage, match="max_pixels=100"):
        small.decode(small.record("a.jpg"))


# -- samples ---------------------------------------------------------------------------------------


def test_the_packaged_photographs_decode_and_are_labelled():
    source = SamplesSource()
    labels = source.labels()
    assert {record.image_id for record in source.records()} == set(labels)
    assert len(labels) == 11
    for record in source.records():
        decoded = source.decode(record)
        height, width, _ = decoded.pixels.shape
        for box in labels[record.image_id].face_boxes:
            assert box.x >= 0
            assert box.y >= 0
            assert box.right <= width
            assert box.bottom <= height
        assert record.licence
        assert record.credit
    assert labels["coffee_note.jpg"].text[0] == "Call Anna Weber"
    assert labels["president_a.jpg"].identity == labels["president_b.jpg"].identity == "president"
    assert not labels["cat.jpg"].unsafe


def test_each_packaged_photograph_has_its_licence_on_file():
    told = (photos_folder() / "LICENSES.md").read_text()
    assert all(f"`{path.name}`" in told for path in photos_folder().glob("*.jpg"))


# -- COCO ------------------------------------------------------------------------------------------


def test_coco_records_hold_what_the_annotations_say(coco):
    root, photos = coco
    source = CocoSource(root=root)
    records = source.records()
    assert [record.image_id for record in records] == sorted(photos)
    by_photo = {photos[record.image_id]: record for record in records}
    coffee = by_photo["coffee.jpg"]
    assert (coffee.width, coffee.height) == (600, 400)
    assert coffee.label == "cup"
    assert len(coffee.captions) == 2
    assert coffee.captions[1].endswith("annotator.")
    assert coffee.licence == "Attribution License"
    assert coffee.credit.startswith("http://photos.example/")
    for record in records:
        pixels = source.decode(record).pixels
        with Image.open(photos_folder() / photos[record.image_id]) as image:
            assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_coco_2014_names_work(tmp_path):
    write_miniature_coco(tmp_path, split="val2014", no_derivatives=("cat.jpg",))
    records = CocoSource(root=tmp_path, split="val2014").records()
    assert records[0].image_id == "val2014/COCO_val2014_000000000009.jpg"
    assert sum("NoDerivs" in record.licence for record in records) == 1


def test_what_is_missing_is_named_with_where_to_get_it(coco):
    root, _ = coco
    with pytest.raises(UsageError, match=r"does not exist.*cocodataset\.org"):
        CocoSource(root=root / "nowhere").records()
    with pytest.raises(UsageError, match=r"has no val2017 .*cocodataset\.org"):
        CocoSource(root=root, split="val2017").records()
    (root / "annotations" / "captions_train2017.json").unlink()
    assert CocoSource(root=root).records()[0].captions == ()
    (root / "annotations" / "instances_train2017.json").unlink()
    with pytest.raises(UsageError, match=r"has no annotations/instances_train2017\.json"):
        CocoSource(root=root).records()


@pytest.mark.parametrize("content", ['{"images": [', '{"images": []}', "[1]", '{"images": [{}]}'])
def test_damaged_annotations_are_named(coco, content):
    root, _ = coco
    (root / "annotations" / "instances_train2017.json").write_text(content)
    with pytest.raises(UsageError, match=r"instances_train2017\.json is not a COCO annotation"):
        CocoSource(root=root).records()


def test_listed_but_missing_images_fail_alone_and_unlisted_ones_are_counted(coco, caplog):
    root, photos = coco
    gone = sorted(photos)[1]
    (root / gone).unlink()
    shutil.copyfile(photos_folder() / "cat.jpg", root / "train2017" / "unlisted.jpg")
    source = CocoSource(root=root)
    with caplog.at_level(logging.WARNING):
        assert len(source.records()) == len(photos)
    assert "1 files are not in the annotations" in caplog.text
    with pytest.raises(UnreadableImage, match="file is missing"):
        source.decode(source.record(gone))


def test_a_file_of_another_size_than_annotated_fails(coco):
    root, photos = coco
    first = sorted(photos)[0]
    (root / first).write_bytes(JPEG)
    source = CocoSource(root=root)
    with pytest.raises(UnreadableImage, match="annotated as"):
        source.decode(source.record(first))


def test_annotations_cannot_point_outside_the_root(coco):
    root, _ = coco
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "../../etc/secret.jpg"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="leaves"):
        CocoSource(root=root).records()

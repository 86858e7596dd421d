"""Caltech101, Indoor67 and VISPR in their official layouts: what is there, and what is missing."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil

import pytest
from miniatures import (
    ids,
    settings,
    write_miniature_caltech101,
    write_miniature_indoor67,
    write_miniature_vispr,
)

from unsafe2safe.core.config.components import build
from unsafe2safe.core.errors import ConfigError, UnreadableImage, UsageError
from unsafe2safe.core.units import cut_units
from unsafe2safe.data.caltech101 import Caltech101Source
from unsafe2safe.data.indoor67 import Indoor67Source
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.data.source import ImageSource
from unsafe2safe.data.truth import HasPrivacyTruth
from unsafe2safe.data.vispr import VisprSource

# -- all three -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("caltech101", write_miniature_caltech101),
        ("indoor67", write_miniature_indoor67),
        ("vispr", write_miniature_vispr),
    ],
)
def test_the_shipped_yamls_build_list_in_order_and_decode(tmp_path, name, write):
    write(tmp_path)
    given = settings(name, root=str(tmp_path))
    source = build(given, "dataset", ImageSource)
    assert source.name == name
    cut_units(ids(source), 2)  # raises unless sorted and unique
    assert pickle.loads(pickle.dumps(source)).records() == source.records()
    assert len(build({**given, "limit": 1}, "dataset", ImageSource).records()) == 1
    for record in source.records():
        assert source.decode(record).format == "JPEG"
        assert (tmp_path / record.image_id).is_file()
    with pytest.raises(UsageError, match=r"dataset\.root=.* does not exist; .* is to be had from"):
        build({**given, "root": str(tmp_path / "gone")}, "dataset", ImageSource).records()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty has no .*; .* is to be had from"):
        build({**given, "root": str(tmp_path / "empty")}, "dataset", ImageSource).records()
    with pytest.raises(ConfigError, match=r"dataset\.root is not set"):
        build({"_target_": given["_target_"]}, "dataset", ImageSource)


# -- Caltech101 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", ["", "caltech101", "caltech-101"])
def test_caltech_images_have_their_category_and_the_background_is_optional(tmp_path, nested):
    labels = write_miniature_caltech101(tmp_path, nested)
    whole = Caltech101Source(root=tmp_path, include_background=True).records()
    assert {record.image_id: record.label for record in whole} == labels
    objects = Caltech101Source(root=tmp_path).records()
    assert {record.label for record in objects} == {"Faces", "cup", "wild_cat"}


def test_caltech_without_pictures_or_with_the_background_alone_is_told(tmp_path):
    write_miniature_caltech101(tmp_path)
    for label in ("Faces", "cup", "wild_cat"):
        shutil.rmtree(tmp_path / "101_ObjectCategories" / label)
    with pytest.raises(UsageError, match=r"no images under .*101_ObjectCategories; .*caltech"):
        Caltech101Source(root=tmp_path).records()


# -- Indoor67 --------------------------------------------------------------------------------------


def test_indoor_splits_are_the_official_lists_and_all_is_every_picture(tmp_path):
    splits = write_miniature_indoor67(tmp_path)
    for split in ("train", "test"):
        source = Indoor67Source(root=tmp_path, split=split)
        assert ids(source) == sorted(name for name, of in splits.items() if of == split)
        assert all(record.label == record.image_id.split("/")[1] for record in source.records())
    assert ids(Indoor67Source(root=tmp_path, split="all")) == sorted(splits)
    with pytest.raises(ConfigError, match=r"dataset\.split='val'"):
        build(settings("indoor67", root=str(tmp_path), split="val"), "dataset", ImageSource)


def test_a_list_that_is_missing_empty_or_leaves_the_folder_is_told(tmp_path):
    write_miniature_indoor67(tmp_path)
    listing = tmp_path / "TestImages.txt"
    for line in (b"../../etc/passwd.jpg", b"/etc/x.jpg", b"bakery", b"a/b/c.jpg"):
        listing.write_bytes(b"bakery/b2.jpg\n" + line)
        with pytest.raises(UsageError, match=r"TestImages\.txt, line 2: .*is no scene/picture"):
            Indoor67Source(root=tmp_path, split="test").records()
    listing.write_bytes(b"\n\n")
    with pytest.raises(UsageError, match=r"TestImages\.txt names no images"):
        Indoor67Source(root=tmp_path, split="test").records()
    listing.unlink()
    with pytest.raises(UsageError, match=r"has no TestImages\.txt .*web\.mit\.edu"):
        Indoor67Source(root=tmp_path, split="test").records()
    assert Indoor67Source(root=tmp_path, split="all").records()


def test_listed_twice_or_missing_on_disk_is_no_reason_to_stop(tmp_path, caplog):
    write_miniature_indoor67(tmp_path)
    listing = tmp_path / "TestImages.txt"
    listing.write_bytes(b"bakery/b2.jpg\nbakery/b2.jpg\noffice/gone.jpg\n")
    source = Indoor67Source(root=tmp_path, split="test")
    with caplog.at_level(logging.WARNING):
        assert ids(source) == ["Images/bakery/b2.jpg", "Images/office/gone.jpg"]
    assert "appears twice" in caplog.text
    with pytest.raises(UnreadableImage, match="file is missing"):
        source.decode(source.record("Images/office/gone.jpg"))


def test_a_listed_name_that_is_no_utf8_is_the_file_of_that_name(tmp_path):
    write_miniature_indoor67(tmp_path)
    try:
        shutil.copyfile(
            photos_folder() / "cat.jpg",
            tmp_path / "Images" / "bakery" / os.fsdecode(b"caf\xe9.jpg"),
        )
    except OSError:
        pytest.skip("this file system refuses such names")
    (tmp_path / "TestImages.txt").write_bytes(b"bakery/caf\xe9.jpg\n")
    source = Indoor67Source(root=tmp_path, split="test")
    assert ids(source) == ["Images/bakery/caf\\xe9.jpg"]
    assert source.decode(source.records()[0]).format == "JPEG"
    assert ids(source)[0] in ids(Indoor67Source(root=tmp_path, split="all"))


# -- VISPR -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["{split}", "images/{split}"])
@pytest.mark.parametrize(
    "annotations", ["{split}", "{split}_anno", "{split}_annotation", "annotations/{split}"]
)
def test_vispr_annotations_are_found_wherever_the_archives_were_unpacked(
    tmp_path, images, annotations
):
    beside = images if annotations == "{split}" else annotations
    labels = write_miniature_vispr(tmp_path, annotations=beside, images=images)
    source = VisprSource(root=tmp_path)
    assert ids(source) == sorted(labels)
    assert all(source.truth(image_id).labels == labels[image_id] for image_id in labels)
    assert source.records()[0].credit.startswith("http://photos.example/")


def test_vispr_is_unsafe_by_any_label_but_safe(tmp_path):
    labels = write_miniature_vispr(tmp_path)
    source = VisprSource(root=tmp_path)
    assert isinstance(source, HasPrivacyTruth)
    for image_id, given in labels.items():
        assert source.truth(image_id).unsafe == (given != ("a0_safe",))
    path = tmp_path / "test2017_anno" / "2017_10000000.json"
    path.write_text(json.dumps({"labels": ["a0_safe", "a73_landmark", "a73_landmark"]}))
    truth = VisprSource(root=tmp_path).truth("test2017/2017_10000000.jpg")
    assert (truth.unsafe, truth.labels) == (True, ("a0_safe", "a73_landmark"))
    with pytest.raises(UsageError, match="not in the data set"):
        source.truth("test2017/other.jpg")


def test_vispr_tells_of_what_is_missing_and_leaves_out_what_nobody_labelled(tmp_path, caplog):
    write_miniature_vispr(tmp_path)
    with pytest.raises(UsageError, match=r"has no val2017 or images/val2017.*tribhuvanesh"):
        VisprSource(root=tmp_path, split="val2017").records()
    annotations = tmp_path / "test2017_anno"
    (tmp_path / "test2017" / "2017_10000001.jpg").unlink()
    (annotations / "2017_10000002.json").unlink()
    (annotations / "2017_10000003.json").write_text('{"labels": []}')
    source = VisprSource(root=tmp_path)
    with caplog.at_level(logging.WARNING):
        assert ids(source) == ["test2017/2017_10000000.jpg", "test2017/2017_10000001.jpg"]
    assert "1 annotations without labels" in caplog.text
    assert "2 files are not annotated" in caplog.text
    with pytest.raises(UnreadableImage, match="file is missing"):
        source.decode(source.record("test2017/2017_10000001.jpg"))
    shutil.rmtree(annotations)
    with pytest.raises(UsageError, match=r"no annotations of dataset\.split=test2017: no \*\.json"):
        VisprSource(root=tmp_path).records()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"labels": "a0_safe"}', b'{"labels": [1]}', b"\xff"]
)
def test_a_damaged_vispr_annotation_is_named(tmp_path, content):
    write_miniature_vispr(tmp_path)
    (tmp_path / "test2017_anno" / "2017_10000001.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"2017_10000001\.json is not a VISPR annotation"):
        VisprSource(root=tmp_path).records()


def test_a_vispr_annotation_cannot_point_outside_its_folder(tmp_path):
    write_miniature_vispr(tmp_path)
    path = tmp_path / "test2017_anno" / "2017_10000000.json"
    path.write_text(json.dumps({"labels": ["a0_safe"], "image_path": "../../secret/.."}))
    with pytest.raises(UsageError, match="names no image"):
        VisprSource(root=tmp_path).records()

"""Annotations travel with the published images, and nothing private with them."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from dataclasses import replace
from functools import cache
from pathlib import PurePosixPath

import datasets
import pytest
from miniatures import (
    ids,
    settings,
    write_miniature_caltech101,
    write_miniature_coco,
    write_miniature_indoor67,
    write_triplets_run,
)
from PIL import Image
from pycocotools.coco import COCO

from unsafe2safe.anonymize.annotations import write_annotations
from unsafe2safe.anonymize.lookup import TripletLookup
from unsafe2safe.anonymize.pairs import attribution
from unsafe2safe.anonymize.publish import Publisher
from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import KeyedHash
from unsafe2safe.core.records import (
    Outcome,
    OutcomeState,
    PrivacyFlag,
    Provenance,
    Triplet,
    TripletState,
)
from unsafe2safe.data.source import ImageSource


@cache
def configs():
    return load("anonymize"), load("generate_triplets")


HELD_BACK = 1  # of each data set, the image at this place is not published


class World:
    """A data set of which all but one image is published, and the run folder of that."""

    def __init__(self, root, source: ImageSource, **publish) -> None:
        self.source, self.run = source, root / "run"
        anonymize, generate = configs()
        self.settings = type(anonymize.publish)(**{**anonymize.publish.model_dump(), **publish})
        publisher = Publisher(self.run / "published", self.settings, KeyedHash(root / "private"))
        paths = generate.paths.model_copy(update={"private": root / "private"})
        triplets = [triplet(name) for name in ids(source)]
        folder = root / "triplets"
        write_triplets_run(
            generate.model_copy(update={"paths": paths}), folder, triplets, [], "PRIVATE"
        )
        self.lookup = TripletLookup(folder)
        self.outcomes, self.names = [], {}
        for place, record in enumerate(source.records()):
            image = source.decode(record)
            name = None
            if place != HELD_BACK:
                name = publisher.name(record, image, ())
                encoded = publisher.encode(record.image_id, image.pixels, image, None)
                publisher.write(name, encoded)
                self.names[record.image_id] = name
            self.outcomes.append(outcome(record.image_id, name))

    def write(self):
        """The names of what was written, below ``published/``."""
        paths = write_annotations(
            self.run, self.source, self.outcomes, self.lookup, self.settings
        )  # fmt: skip
        assert all(path.is_file() for path in paths)
        names = [path.relative_to(self.run / "published").as_posix() for path in paths]
        on_disk = {path for path in (self.run / "published").rglob("*") if path.is_file()}
        images = {self.run / "published" / name for name in self.names.values()}
        assert on_disk == {*images, *paths}
        return names

    def read(self, name):
        return (self.run / "published" / name).read_text("utf-8")

    def rows(self, name="metadata.csv"):
        return list(csv.DictReader(self.read(name).splitlines()))


def triplet(image_id):
    return Triplet(
        image_id=image_id,
        privacy_flag=PrivacyFlag.SAFE,
        state=TripletState.COMPLETE,
        public_caption=f'A public, "quoted" caption {hashlib.md5(image_id.encode()).hexdigest()}.',
        edit_instruction="",
        combined_caption=None,
        reason="",
        provenance=Provenance(model="m"),
    )


def outcome(image_id, name):
    return Outcome(
        image_id=image_id,
        state=OutcomeState.SAFE if name else OutcomeState.NEEDS_REVIEW,
        reason="",
        published_as=name,
        editor="",
        adapter="",
        attempts=(),
        input_hmac="",
        output_sha256="",
        provenance=Provenance(model="m"),
    )


@pytest.fixture
def coco_root(tmp_path):
    root = tmp_path / "coco"
    write_miniature_coco(root)
    shrink(root)
    content = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    for number, element in enumerate(content["annotations"]):
        element["keypoints"] = [10 + number, 20, 2] * 17
        element["num_keypoints"] = 17
        element["note"] = "PRIVATE"
    content["categories"][0]["keypoints"] = ["nose"]
    content["images"][0]["note"] = "PRIVATE"
    (root / "annotations" / "person_keypoints_train2017.json").write_text(json.dumps(content))
    return root


def shrink(root):
    """Make the pictures small, and the sizes that annotations tell with them."""
    sizes = {}
    for path in root.rglob("*.jpg"):
        with Image.open(path) as image:
            image.thumbnail((96, 96))
            image.save(path)
            sizes[path.name] = image.size
    for path in root.rglob("*.json"):
        content = json.loads(path.read_text())
        for row in content["images"]:
            row["width"], row["height"] = sizes[row["file_name"]]
        for row in content["annotations"]:
            if "bbox" in row:
                row["bbox"] = [10.25, 11.5, 40.75, 30.125]
                row["segmentation"] = [[10.25, 11.5, 51.0, 11.5, 51.0, 41.625]]
        path.write_text(json.dumps(content))


def coco_world(tmp_path, coco_root, **publish):
    source = build(settings("coco", root=str(coco_root)), "dataset", ImageSource)
    return World(tmp_path, source, **publish)


KINDS = ("instances", "person_keypoints", "captions")


@pytest.mark.parametrize("names", ["keep", "hash"])
def test_coco_files_load_with_pycocotools_and_give_the_same_boxes(tmp_path, coco_root, names):
    world = coco_world(tmp_path, coco_root, names=names)
    world.write()
    for kind in ("instances", "person_keypoints"):
        before = COCO(str(coco_root / "annotations" / f"{kind}_train2017.json"))
        after = COCO(str(world.run / "published" / "annotations" / f"{kind}_train2017.json"))
        shown = {PurePosixPath(name).name: image_id for image_id, name in world.names.items()}
        assert {image["file_name"] for image in after.imgs.values()} == set(shown)
        assert after.cats == before.cats
        old_ids = {f"train2017/{row['file_name']}": key for key, row in before.imgs.items()}
        for identifier, image in after.imgs.items():
            old = old_ids[shown[image["file_name"]]]
            assert boxes(after, identifier) == boxes(before, old)
            assert boxes(after, identifier)
            with Image.open(world.run / "published" / "train2017" / image["file_name"]) as file:
                assert file.size == (image["width"], image["height"])
            assert (identifier == old) == (names == "keep")
            for element in after.loadAnns(after.getAnnIds(imgIds=[identifier])):
                assert after.annToMask(element).any()


def boxes(coco, image_id):
    elements = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
    kept = ("category_id", "bbox", "area", "iscrowd", "segmentation", "keypoints")
    return [{key: element.get(key) for key in kept} for element in elements]


def test_coco_captions_are_the_public_ones_alone(tmp_path, coco_root):
    world = coco_world(tmp_path, coco_root)
    world.write()
    after = COCO(str(world.run / "published" / "annotations" / "captions_train2017.json"))
    told = {after.imgs[row["image_id"]]["file_name"]: row["caption"] for row in after.anns.values()}
    assert told == {
        PurePosixPath(name).name: triplet(image_id).public_caption
        for image_id, name in world.names.items()
    }


def test_no_original_caption_address_or_date_stands_in_what_is_written(tmp_path, coco_root):
    world = coco_world(tmp_path, coco_root)
    names = world.write()
    assert set(names) == {
        *(f"annotations/{kind}_train2017.json" for kind in KINDS), "train2017/metadata.csv"
    }  # fmt: skip
    captions = json.loads((coco_root / "annotations" / "captions_train2017.json").read_text())
    private = [row["caption"].strip() for row in captions["annotations"]]
    for name in names:
        text = world.read(name)
        for told in (*private, "PRIVATE", "example", "flickr", "2013-11-15", "date_captured"):
            assert told not in text, (name, told)
    content = json.loads(world.read("annotations/instances_train2017.json"))
    assert all(row["name"].startswith("Attribution") for row in content["licenses"])
    assert all(row["license"] == 4 for row in content["images"])


def test_with_hashed_names_no_original_name_stands_anywhere(tmp_path, coco_root):
    world = coco_world(tmp_path, coco_root, names="hash")
    credited = {record.image_id: replace(record, credit=f"http://x/{record.image_id}")
                for record in world.source.records()}  # fmt: skip
    written = [world.read(name) for name in world.write()]
    written.append(attribution(world.outcomes, credited))
    for image_id in ids(world.source):
        stem = PurePosixPath(image_id).stem
        for text in written:
            assert stem not in text
            assert f'"id": {int(stem)},' not in text
    assert "Attribution License" in written[-1]


def test_an_image_of_another_size_than_annotated_keeps_its_annotations_back(
    tmp_path, coco_root, caplog
):
    world = coco_world(tmp_path, coco_root)
    path = world.run / "published" / world.names[ids(world.source)[0]]
    with Image.open(path) as image:
        image.resize((40, 30)).save(path)
    with caplog.at_level(logging.WARNING):
        world.write()
    assert "published as 40 x 30" in caplog.text
    for kind in KINDS:
        content = json.loads(world.read(f"annotations/{kind}_train2017.json"))
        assert path.name not in {row["file_name"] for row in content["images"]}
        known = {row["id"] for row in content["images"]}
        assert {row["image_id"] for row in content["annotations"]} == known


@pytest.mark.parametrize("damage", ["cut", "junk", "list"])
def test_damaged_annotations_are_told_and_not_half_written(tmp_path, coco_root, damage):
    world = coco_world(tmp_path, coco_root)
    path = coco_root / "annotations" / "person_keypoints_train2017.json"
    text = path.read_text()
    path.write_text(
        {"cut": text[:-300], "junk": text[:900] + "}" + text[900:], "list": "[1]"}[damage]
    )
    with pytest.raises(UsageError, match=r"person_keypoints_train2017\.json"):
        world.write()
    assert not (world.run / "published" / "annotations" / path.name).exists()


@pytest.mark.parametrize("names", ["keep", "hash"])
def test_indoor67_keeps_scene_folders_and_its_lists(tmp_path, names):
    root = tmp_path / "indoor"
    splits = write_miniature_indoor67(root)
    source = build(settings("indoor67", root=str(root), split="all"), "dataset", ImageSource)
    world = World(tmp_path, source, names=names)
    world.write()
    for split, listing in (("train", "TrainImages.txt"), ("test", "TestImages.txt")):
        expected = [
            name.removeprefix("Images/")
            for image_id, name in world.names.items()
            if splits[image_id] == split
        ]
        assert world.read(listing).splitlines() == expected
    again = build(
        settings("indoor67", root=str(world.run / "published"), split="train"),
        "dataset", ImageSource,
    )  # fmt: skip
    assert {record.label for record in again.records()} <= {"bakery", "office"}
    assert all(again.decode(record).pixels.size for record in again.records())


def test_caltech101_keeps_its_class_folders_and_labels(tmp_path):
    root = tmp_path / "caltech"
    labels = write_miniature_caltech101(root)
    source = build(settings("caltech101", root=str(root)), "dataset", ImageSource)
    world = World(tmp_path, source, names="hash")
    world.write()
    written = world.read("metadata.csv")
    world.outcomes.reverse()  # as they come when their order is not that of their true names
    world.write()
    assert world.read("metadata.csv") == written
    published = {name: labels[image_id] for image_id, name in world.names.items()}
    assert {row["file_name"]: row["label"] for row in world.rows()} == published
    again = build(settings("caltech101", root=str(world.run / "published")), "dataset", ImageSource)
    assert {record.image_id: record.label for record in again.records()} == published


def folder_source(root, names, label=None):
    root.mkdir()
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number, 16), (number * 20, 90, 40)).save(root / name)
    source = build(settings("folder", root=str(root)), "dataset", ImageSource)
    if label:
        known = source.records()
        source.__dict__["_records"] = tuple(replace(row, label=label) for row in known)
    return source


@pytest.mark.parametrize(
    ("names", "tables"),
    [
        (("a.png", "b.png", "sub/c.png"), {"metadata.csv": "train"}),
        (
            ("train/a.png", "train/b.png", "train/c.png", "x/val-2/d.png"),
            {"train/metadata.csv": "train", "x/val-2/metadata.csv": "validation"},
        ),
    ],
)
def test_the_published_folder_is_an_imagefolder_that_datasets_loads(tmp_path, names, tables):
    world = World(tmp_path, folder_source(tmp_path / "images", names))
    assert set(world.write()) == set(tables)
    loaded = datasets.load_dataset(
        "imagefolder",
        data_dir=str(world.run / "published"),
        cache_dir=str(tmp_path / "cache"),
    )
    found = {}
    for table, split in tables.items():
        rows = world.rows(table)
        assert loaded[split]["public_caption"] == [row["public_caption"] for row in rows]
        assert set(loaded[split]["state"]) == {"safe"}
        assert [image.size[1] for image in loaded[split]["image"]] == [16] * len(rows)
        folder = PurePosixPath(table).parent
        found.update({str(folder / row["file_name"]): row["public_caption"] for row in rows})
    assert found == {
        name: triplet(image_id).public_caption for image_id, name in world.names.items()
    }


def test_a_label_that_is_a_persons_name_is_left_out(tmp_path):
    world = World(tmp_path, folder_source(tmp_path / "images", ("a.png", "b.png"), "Anna Schmidt"))
    world.write()
    assert "label" not in world.rows()[0]


def test_nothing_is_written_where_nothing_is_asked_for_or_published(tmp_path):
    world = World(
        tmp_path, folder_source(tmp_path / "images", ("a.png", "b.png")), annotations="none"
    )
    assert world.write() == []
    world.settings = world.settings.model_copy(update={"annotations": "auto"})
    world.outcomes = [outcome(row.image_id, None) for row in world.outcomes]
    assert world.write() == []
    assert not (world.run / "published" / "metadata.csv").exists()

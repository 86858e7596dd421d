"""Boxes of the user's are read as they stand, or the whole file is refused."""

from __future__ import annotations

import json
import re

import pytest

from unsafe2safe.anonymize.given_boxes import GivenBox, read_boxes
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Box, Category

IDS = ("train/a.jpg", "train/b.jpg", "c.png")
EXPECTED = {
    "train/a.jpg": (GivenBox(Box(1, 2, 3, 4), Category.FACE), GivenBox(Box(0, 0, 5.5, 6))),
    "c.png": (GivenBox(Box(7, 8, 9, 10), Category.PLATE),),
}


def read(path, ids=IDS, foreign=True, unlimited=None):
    return read_boxes(
        path,
        "masks.boxes",
        ids,
        foreign_categories=foreign,
        unlimited=lambda: unlimited or ids,
    )


def coco(path, boxes, categories=("face", "plate", "car"), names=("a.jpg", "c.png")):
    content = {
        "images": [{"id": 5 + n, "file_name": name, "width": 9} for n, name in enumerate(names)],
        "annotations": [
            {"id": n, "image_id": image, "bbox": box, "category_id": category, "iscrowd": 0}
            for n, (image, box, category) in enumerate(boxes)
        ],
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(categories)],
    }
    path.write_text(json.dumps(content))
    return path


def test_three_kinds_of_files_say_the_same(tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text(
        "image_id,x,y,width,height,category,note\n"
        "train/a.jpg,1,2,3,4,face,x\ntrain/a.jpg,0,0,5.5,6,,\nc.png,7,8,9,10,Plate,\n"
    )
    lines = tmp_path / "boxes.jsonl"
    lines.write_text(
        '{"image_id": "train/a.jpg", "x": 1, "y": 2, "width": 3, "height": 4, "category": "face"}\n'
        '\n{"image_id": "train/a.jpg", "x": 0, "y": 0, "width": 5.5, "height": 6}\n'
        '{"image_id": "c.png", "x": 7, "y": 8, "width": 9, "height": 10, "category": "plate"}\n'
    )
    boxes = [(5, [1, 2, 3, 4], 1), (5, [0, 0, 5.5, 6], 3), (6, [7, 8, 9, 10], 2)]
    listed = coco(tmp_path / "boxes.json", boxes)
    assert read(table) == read(lines) == read(listed) == EXPECTED


def test_boxes_beyond_a_trials_limit_are_left_out_not_refused(tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text("image_id,x,y,width,height\nc.png,1,2,3,4\ntrain/b.jpg,1,2,3,4\n")
    assert list(read(table, ids=("c.png",), unlimited=IDS)) == ["c.png"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("train/aa.jpg,1,2,3,4,", "line 2: 'train/aa.jpg' is not in the data set; did you mean"),
        ("a.jpg,1,2,3,4,", "'a.jpg' is not in the data set"),  # only COCO files have bare names
        ("c.png,nan,2,3,4,", "x: Input should be a finite number"),
        ("c.png,1,inf,3,4,", "y: Input should be a finite number"),
        ("c.png,1,2,0,4,", "width: Input should be greater than 0"),
        ("c.png,1,2,3,-4,", "height: Input should be greater than 0"),
        ("c.png,1,2,,4,", "width: Input should be a valid number"),
        ("c.png,1,2,3,4,fase", "there is no category 'fase'; did you mean 'face'"),
        ("c.png,1,2,3,4,location", "there is no category 'location'"),
        ("c.png,1,2,3", "not as many cells as the heading"),
        ("c.png,1,2,3,4,face,more", "not as many cells as the heading"),
    ],
)
def test_a_row_that_cannot_be_meant_refuses_the_file(tmp_path, row, told):
    table = tmp_path / "boxes.csv"
    table.write_text(f"image_id,x,y,width,height,category\n{row}\n")
    with pytest.raises(UsageError, match=r"masks\.boxes=.*boxes\.csv: line 2") as refused:
        read(table)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("missing.csv", None, "cannot be read (No such file"),
        ("boxes.txt", "", "neither .csv, .jsonl nor .json"),
        ("boxes.csv", "image_id,left,top\n", "has no column height, width, x, y"),
        ("boxes.csv", "", "has no column"),
        ("boxes.jsonl", "{not json", "cannot be read (damaged)"),
        ("boxes.jsonl", "[1, 2]\n", "line 1 is no object"),
        ("boxes.jsonl", '{"image_id": "c.png", "x": 1, "y": 2, "width": 3}\n', "height"),
        ("boxes.jsonl", '{"image_id": "c.png", "x": NaN, "y": 2, "width": 3, "height": 1}', "x:"),
        ("boxes.json", "[]", "the file"),
        ("boxes.json", '{"images": []}', "annotations: Field required"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=re.escape(told)):
        read(tmp_path / name)


def test_a_coco_file_of_other_images_is_refused(tmp_path):
    unlisted = coco(tmp_path / "a.json", [(99, [1, 2, 3, 4], 1)])
    with pytest.raises(UsageError, match="annotation 0 is of an image 99 that is not listed"):
        read(unlisted)
    twice = coco(tmp_path / "b.json", [(5, [1, 2, 3, 4], 1)], names=("x.jpg",))
    with pytest.raises(UsageError, match=r"'x\.jpg' may be 'a/x\.jpg' or 'b/x\.jpg'"):
        read(twice, ids=("a/x.jpg", "b/x.jpg"))
    with pytest.raises(UsageError, match=r"'x\.jpg' is not in the data set"):
        read(twice)


def test_what_may_be_kept_must_be_of_a_category_that_we_have(tmp_path):
    listed = coco(tmp_path / "keep.json", [(5, [1, 2, 3, 4], 3)])
    with pytest.raises(UsageError, match="there is no category 'car'"):
        read(listed, foreign=False)

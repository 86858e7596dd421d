"""Masks and consent by file: what is given is edited or kept, and nothing else."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from described_runs import common, described, region, run, small
from injected_editors import Identity
from miniatures import write_miniature_coco
from PIL import Image

from unsafe2safe import api
from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.anonymize.given_boxes import GivenBox
from unsafe2safe.anonymize.given_masks import (
    FROM_BOXES,
    FROM_FOLDER,
    NOTHING_GIVEN,
    Given,
    GivenMasks,
)
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import (
    Box,
    Category,
    Outcome,
    Pair,
    Region,
)
from unsafe2safe.core.tables import read_parts, read_records
from unsafe2safe.jobs.common import open_source
from unsafe2safe.vision.masks import Shape, Window

LEFT, RIGHT = Box(41, 9, 29, 40), Box(142, 26, 27, 42)  # the faces of a pair
GIVEN, WRONG, OUTSIDE = "a given.png", "b/wrong.png", "c outside.png"
PERSON, CONSENT, PARTLY = "d person.png", "e consent.png", "f partly.png"
BOX = Box(6, 6, 20, 24)


def pair():
    """Two presidents side by side."""
    picture = Image.new("RGB", (200, 128), "gray")
    picture.paste(small("president_a.jpg", (102, 128)), (0, 0))
    picture.paste(small("president_b.jpg", (67, 128)), (120, 0))
    return picture


def disc(size):
    """A drawn mask."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(((rows - 46) ** 2 + (columns - 64) ** 2 <= 25**2).astype(np.uint8) * 255)


REGIONS = (
    region(PERSON, Box(10, 5, 60, 60), Category.PERSON),
    *(region(name, box) for name in (CONSENT, PARTLY) for box in (LEFT, RIGHT)),
    region(CONSENT, Box(0, 0, 102, 128), Category.PERSON),
    region(CONSENT, Box(120, 0, 67, 128), Category.PERSON),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Cats and presidents; what Stage 1 says of them is written here, and what the user gives."""
    root = tmp_path_factory.mktemp("given")
    for folder in ("images/b", "masks/b"):
        (root / folder).mkdir(parents=True)
    for name in (GIVEN, WRONG, OUTSIDE, PERSON):
        small("cat.jpg", (100, 80)).save(root / "images" / name)
    for name in (CONSENT, PARTLY):
        pair().save(root / "images" / name)
    described(root, REGIONS, (GIVEN, WRONG, OUTSIDE, PERSON, CONSENT, PARTLY))
    disc((100, 80)).save(root / "masks" / GIVEN)
    disc((100, 79)).save(root / "masks" / f"{WRONG}.png")
    heading = "image_id,x,y,width,height,category\n"
    (root / "boxes.csv").write_text(f"{heading}{GIVEN},6,6,20,24,\n{OUTSIDE},90,20,60,50,\n")
    half = RIGHT.width / 2
    (root / "keep.csv").write_text(
        f"{heading}{CONSENT},36,4,39,50,face\n"
        f"{PARTLY},{RIGHT.x},{RIGHT.y},{half},{RIGHT.height},\n"  # two halves make no whole
        f"{PARTLY},{RIGHT.x + half},{RIGHT.y},{half},{RIGHT.height},\n"
    )
    return root


def given_files(root):
    return [
        f"masks.{key}={root / name}"
        for key, name in (("boxes", "boxes.csv"), ("keep", "keep.csv"), ("folder", "masks"))
    ]


@pytest.fixture(scope="module")
def anonymized(world):
    return run(world, *given_files(world), "write_pairs=true")


def changed(root, result, outcome):
    """(H, W): where the published picture is not the original."""
    assert outcome.state == "anonymized", outcome
    source = np.asarray(Image.open(root / "images" / outcome.image_id))
    published = np.asarray(Image.open(result.output_dir / "published" / outcome.published_as))
    return (source != published).any(axis=2)


def of_box(changed, box, by=0):
    rows = slice(max(int(box.y) - by, 0), int(box.bottom) + by)
    return changed[rows, max(int(box.x) - by, 0) : int(box.right) + by]


def only_in(changed, box, by=0):
    outside = changed.copy()
    of_box(outside, box, by)[:] = False
    return not outside.any()


def checks(outcome):
    return {check.name: check.value for check in outcome.attempts[-1].checks}


def test_boxes_and_masks_of_the_user_are_edited_and_nothing_else(world, anonymized):
    result, outcomes = anonymized
    where = changed(world, result, outcomes[GIVEN])
    drawn = np.asarray(disc((100, 80))) > 0
    assert where[drawn].mean() > 0.5  # what is flat stays as it is when it is blurred
    assert of_box(where, BOX).mean() > 0.5
    assert only_in(where & ~drawn, BOX, 9)  # three tenths of 24, and pixels that are cut


def test_what_does_not_fit_its_image_fails_it(anonymized):
    _, outcomes = anonymized
    assert outcomes[WRONG].state == outcomes[OUTSIDE].state == "failed"
    told = "its mask in masks.folder is 100 x 79 pixels, the image 100 x 80"
    assert outcomes[WRONG].reason == told
    told = "masks.boxes: box 90, 20, 60, 50 is not inside the image of 100 x 80 pixels"
    assert outcomes[OUTSIDE].reason == told


def test_regions_of_categories_that_are_not_masked_hold_the_image_back(anonymized):
    _, outcomes = anonymized
    assert outcomes[PERSON].state == "needs_review"
    assert "no mask covers its regions of category person" in outcomes[PERSON].reason
    assert outcomes[PERSON].attempts == ()


def test_a_consented_face_stays_bit_for_bit_and_that_is_on_record(world, anonymized):
    result, outcomes = anonymized
    where = changed(world, result, outcomes[CONSENT])
    assert not where[:, :102].any()  # nor is the person whose face it is
    assert of_box(where, RIGHT).mean() > 0.8
    assert checks(outcomes[CONSENT])["kept_regions"] == 1
    assert checks(outcomes[CONSENT])["kept_detections"] >= 1
    pairs = {row.image_id: row for row in read_parts(result.output_dir / "pairs", Pair)}
    assert LEFT not in [found.box for found in pairs[CONSENT].regions]


def test_a_face_partly_inside_a_keep_box_is_masked_all_the_same(world, anonymized):
    result, outcomes = anonymized
    where = changed(world, result, outcomes[PARTLY])
    assert all(of_box(where, box).mean() > 0.8 for box in (LEFT, RIGHT))
    assert checks(outcomes[PARTLY])["kept_regions"] == 0


def test_a_cheating_editor_is_found_out_where_no_detector_sees_anything(world):
    _, outcomes = run(
        world, *given_files(world), "dataset.limit=1", "verify.max_attempts=1", editor=Identity()
    )
    assert outcomes[GIVEN].reason == "not verified: unchanged_regions"


def unmaskable(regions, given=NOTHING_GIVEN, *overrides):
    """What the triage of a picture of 100 x 80 says."""
    config = load("anonymize", ["dataset=samples", *overrides])
    image = SimpleNamespace(pixels=np.zeros((80, 100, 3), np.uint8))
    candidate = Candidate(None, image, None, list(regions), None, given=given)  # type: ignore[arg-type]
    return candidate.unmaskable(config)


FACE = region("x", Box(20, 10, 10, 12))
BODY = region("x", Box(10, 5, 30, 70), Category.PERSON)
TAG = region("x", Box(20, 40, 10, 5), Category.TEXT)
REDACTED = "mask_categories=[face,head,text,plate]"


def test_every_region_is_masked_or_kept_or_dealt_with_by_another():
    assert unmaskable([FACE, BODY, TAG], NOTHING_GIVEN, REDACTED) == ""
    assert unmaskable([FACE, BODY, TAG]) == ""  # nothing chosen: all of them
    told = unmaskable([BODY, TAG], NOTHING_GIVEN, REDACTED)  # a tag is not what a person is
    assert "category person" in told
    assert "category plate, text" in unmaskable(
        [FACE, TAG, region("x", Box(60, 40, 9, 5), Category.PLATE)],
        NOTHING_GIVEN,
        "mask_categories=[face]",
    )
    kept = Given(keep=(GivenBox(Box(18, 8, 14, 16)),), keep_share=0.8)
    assert unmaskable([FACE, BODY], kept, REDACTED) == ""
    by_user = Region("x", Box(8, 4, 40, 50), Category.OTHER, 1.0, FROM_BOXES)
    assert unmaskable([BODY, by_user], NOTHING_GIVEN, REDACTED) == ""


def test_a_mask_that_leaves_a_region_open_or_is_missing_holds_the_image_back():
    window = Window(40, 50, 70, 90)
    drawn = Region("x", window.box, Category.OTHER, 1.0, FROM_FOLDER)
    given = Given((drawn,), {window.box: Shape(window)})
    assert "category face" in unmaskable([FACE, drawn], given)
    assert unmaskable([drawn], given) == ""
    inside = region("x", Box(60, 50, 8, 8))
    assert unmaskable([inside, drawn], given) == ""
    assert "category face" in unmaskable([FACE], Given(shapes={}))  # an all black mask
    assert "masks.missing=review" in unmaskable([FACE], Given(missing=True))
    assert unmaskable([FACE], Given(missing=False)) == ""


def test_keeping_is_by_category_and_by_share():
    face = GivenBox(Box(10, 10, 20, 20), Category.FACE)
    given = Given(keep=(face,), keep_share=0.8)
    assert given.keeps(Category.FACE, Box(10, 10, 20, 20))
    assert given.keeps(Category.FACE, Box(12, 12, 5, 5))
    assert given.keeps(Category.HEAD, Box(12, 12, 5, 5))
    assert given.keeps(Category.FACE, Box(6, 10, 20, 20))  # 80 %
    assert not given.keeps(Category.FACE, Box(5, 10, 20, 20))
    assert not given.keeps(Category.TEXT, Box(12, 12, 5, 5))
    assert not given.keeps(Category.PERSON, Box(0, 0, 100, 200))
    assert not given.keeps(Category.FACE, Box(10, 10, 0, 20))
    anything = Given(keep=(GivenBox(Box(10, 10, 20, 20)),), keep_share=0.8)
    assert anything.keeps(Category.TEXT, Box(12, 12, 5, 5))


def test_files_that_do_not_fit_the_data_set_are_refused_before_any_work(world, tmp_path):
    file = tmp_path / "keep.csv"
    file.write_text("image_id,x,y,width,height\na givn.png,1,2,3,4\n")
    with pytest.raises(UsageError, match=r"masks\.keep=.*did you mean 'a given\.png'"):
        run(world, f"masks.keep={file}")
    with pytest.raises(UsageError, match=r"masks\.folder=.*holds a mask of no image"):
        run(world, f"masks.folder={tmp_path}")
    with pytest.raises(UsageError, match=r"masks\.folder=.*is not a folder"):
        run(world, f"masks.folder={file}")


def opened(root, *overrides):
    config = load("anonymize", [*common(root), *overrides])
    return GivenMasks.open(config.masks, open_source(config))


def test_a_mask_that_may_be_of_two_images_is_refused(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a.png", "a.jpg"):
        small("cat.jpg", (40, 30)).save(tmp_path / "images" / name)
    Image.new("L", (40, 30), 255).save(tmp_path / "masks" / "a.png")
    with pytest.raises(UsageError, match=r"a\.png may be of a\.jpg or of another"):
        opened(tmp_path, f"masks.folder={tmp_path / 'masks'}")


def test_what_the_files_hold_tells_runs_apart_not_where_they_lie(world, tmp_path):
    first = opened(world, *given_files(world)).content()
    assert set(first) == {"masks.boxes", "masks.keep", "masks.folder"}
    assert opened(world).content() == {}
    copy = tmp_path / "copy"
    shutil.copytree(world / "masks", copy)
    shutil.copy(world / "keep.csv", copy)
    shutil.copy(world / "boxes.csv", copy)
    moved = [f"masks.boxes={copy / 'boxes.csv'}", f"masks.keep={copy / 'keep.csv'}"]
    assert opened(world, *moved, f"masks.folder={copy}").content() == first
    disc((100, 78)).save(copy / GIVEN)
    other = opened(world, *moved, f"masks.folder={copy}").content()
    assert {key for key in first if other[key] != first[key]} == {"masks.folder"}


def test_coco_boxes_are_valid_whatever_the_orientation_of_the_file(tmp_path):
    """Annotated upright, stored turned; and annotated as stored, turned by EXIF."""
    root = tmp_path / "coco"
    write_miniature_coco(root, ("cat.jpg", "coffee.jpg"))
    listing = root / "annotations" / "instances_train2017.json"
    content = json.loads(listing.read_text())
    stored = {}
    for image, upright in zip(content["images"], (True, False), strict=True):
        picture = small("cat.jpg", (120, 80))
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = picture.transpose(Image.Transpose.ROTATE_90) if upright else picture
        image["width"], image["height"] = picture.size  # what the annotator saw
        turned.save(root / "train2017" / image["file_name"], quality=95, exif=exif)
        stored[f"train2017/{image['file_name']}"] = turned, upright
    for annotation in content["annotations"]:
        annotation["bbox"] = [60, 20, 50, 40]
    listing.write_text(json.dumps(content))
    overrides = ("dataset=coco", f"dataset.root={root}")
    described(tmp_path, (), tuple(stored), dataset=overrides)
    result, outcomes = run(
        tmp_path,
        *overrides,
        f"masks.boxes={listing}",
        "margin=0.1",
        "editor.method=fill",
        "verify.max_attempts=1",
    )
    for name, (_, upright) in stored.items():
        assert outcomes[name].state == "anonymized", outcomes[name]
        published = Image.open(result.output_dir / "published" / outcomes[name].published_as)
        assert published.size == (120, 80)
        file = Image.open(root / name)
        seen = file.transpose(Image.Transpose.ROTATE_270) if upright else file
        where = (np.asarray(seen.convert("RGB")) != np.asarray(published)).any(axis=2)
        assert of_box(where, Box(60, 20, 50, 40)).mean() > 0.8
        assert only_in(where, Box(60, 20, 50, 40), 6)


def test_synthetic_scenes_are_masked_by_default_for_an_editor_that_redraws(tmp_path):
    overrides = (
        "dataset=synthetic", "dataset.size=2", f"paths.runs={tmp_path / 'runs'}",
        f"paths.private={tmp_path / 'private'}",
    )  # fmt: skip
    api.generate_triplets(*overrides, "stage1=oracle")
    redacted = api.anonymize(*overrides)
    rows = read_records(redacted.output_dir / "manifest.parquet", Outcome)
    assert all("category person" in row.reason for row in rows)
    redrawn = api.anonymize(
        *overrides, "editor=tiny", "editor.steps=1", "verify.max_attempts=1", "dataset.limit=1"
    )
    rows = read_records(redrawn.output_dir / "manifest.parquet", Outcome)
    assert all(row.attempts for row in rows)
    assert not any("category" in row.reason for row in rows)


@pytest.mark.parametrize("outlined", [True, False], ids=["silhouette", "box"])
def test_a_person_is_edited_within_the_outline_and_the_rest_of_the_box_stays(tmp_path, outlined):
    """A whole run, the strict detectors among it."""
    name, box = "astronaut.png", Box(30, 10, 180, 246)
    (tmp_path / "images").mkdir()
    picture = small("astronaut.jpg", (256, 256))
    picture.save(tmp_path / "images" / name)
    described(tmp_path, [region(name, box, Category.PERSON)], [name])
    person = "silhouette" if outlined else "box"
    result, outcomes = run(
        tmp_path,
        f"masks.person={person}",
        "mask_categories=[person,face,text]",
        "editor.method=mosaic",
        "verify.ladder=[]",
    )
    assert outcomes[name].state == "anonymized", outcomes[name]
    published = np.asarray(Image.open(result.output_dir / "published" / name))
    changed = (np.asarray(picture) != published).any(axis=2)
    assert of_box(changed, Box(95, 35, 35, 45)).mean() > 0.95  # the face
    assert only_in(changed, box, 80)
    corner = of_box(changed, Box(200, 12, 8, 18))  # of the box: a flag hangs there
    assert not corner.any() if outlined else corner.mean() > 0.9

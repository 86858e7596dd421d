"""What the project promises of the eleven sample photographs, whose truth is known."""

import json
import shutil
from typing import NamedTuple

import datasets
import dlib
import numpy as np
import pytest
from conftest import run_script
from PIL import Image

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Box, Outcome, OutcomeState, PrivateRecord, Region, Triplet
from unsafe2safe.core.tables import read_parts, read_records
from unsafe2safe.data.samples import SamplesSource, photos_folder
from unsafe2safe.jobs.photo_sheet import _check_shipped, sheet
from unsafe2safe.vision.faces import FaceDetector
from unsafe2safe.vision.identity import FaceIdentity
from unsafe2safe.vision.matching import text_leaks
from unsafe2safe.vision.regions import covered, grow_region, iou, mask_of
from unsafe2safe.vision.text import TextReader


@pytest.fixture(scope="module")
def labels():
    return json.loads((photos_folder() / "labels.json").read_text())


@pytest.fixture(scope="module")
def triplets(chain):
    return {row.image_id: row for row in read_parts(chain.triplets / "triplets", Triplet)}


# A ladder that begins with an editor that draws: it knows drawn scenes only, so that most of what
# it draws on photographs is not published, and redaction follows.
LADDER = ("editor=tiny", "verify.ladder=[guidance,redact,margin,margin]")


@pytest.fixture(
    scope="module", params=["redact", pytest.param("ladder", marks=pytest.mark.slow)]
)  # fmt: skip
def run(request, chain):
    """The run folder of each way to anonymize them."""
    if request.param == "redact":
        return chain.redacted
    folder = chain.root / "ladder"
    given = (f"triplets={chain.triplets}", f"output_dir={folder}")
    done = run_script("anonymize", *given, *LADDER, cwd=chain.root)
    assert done.status in (0, 3), done.said
    return folder


@pytest.fixture(scope="module")
def outcomes(run):
    return {row.image_id: row for row in read_records(run / "manifest.parquet", Outcome)}


@pytest.fixture(scope="module")
def published(run, outcomes):
    return {
        image_id: np.asarray(Image.open(run / "published" / row.published_as).convert("RGB"))
        for image_id, row in outcomes.items()
        if row.published_as
    }


def test_the_unsafe_ones_are_flagged_and_at_most_one_safe_one_is(labels, triplets):
    assert set(triplets) == set(labels)
    unsafe = {name for name, label in labels.items() if label["unsafe"]}
    flagged = {name for name, row in triplets.items() if row.privacy_flag == "unsafe"}
    assert unsafe <= flagged
    assert len(flagged - unsafe) <= 1


def test_every_labelled_face_is_under_a_mask(chain, labels):
    margin = load("anonymize").margin
    regions = list(read_parts(chain.triplets / "regions", Region))
    for name, label in labels.items():
        width, height = Image.open(photos_folder() / name).size
        seen = [r for r in regions if r.image_id == name and r.category in ("face", "head")]
        grown = [grow_region(r.category, r.box, margin, width, height) for r in seen]
        mask = mask_of(grown, height, width)
        for box in label["face_boxes_xywh"]:
            assert covered(Box(*box), mask) >= 0.9, (name, box)


def test_at_least_nine_are_published_both_safe_ones_among_them(labels, outcomes):
    published = {name for name, row in outcomes.items() if row.state.publishable}
    assert len(published) >= 9
    assert {name for name, label in labels.items() if not label["unsafe"]} <= published


class Known(NamedTuple):
    """Of the labelled faces of a photograph embeddings, sharp, and with less detail too; boxes."""

    sharp: np.ndarray
    known: np.ndarray
    places: list[Box]


@pytest.fixture(scope="module")
def sources(labels):
    """Of each photograph that has some."""
    usual, identity, found = FaceDetector(), FaceIdentity(), {}
    for name, label in labels.items():
        places = [Box(*box) for box in label["face_boxes_xywh"]]
        if places:
            pixels = np.asarray(Image.open(photos_folder() / name).convert("RGB"))
            faces = [
                f for f in usual.detect([pixels])[0] if any(iou(f.box, p) > 0.3 for p in places)
            ]
            assert faces, name
            sharp = identity.embed(pixels, faces)
            known = np.concatenate([sharp, identity.embed_reduced(pixels, faces)])
            found[name] = Known(sharp, known, places)
    return found


def test_no_face_is_found_where_none_was_drawn_and_no_drawn_one_is_near_its_source(
    outcomes, published, sources
):
    """By the strict detector, and at the labelled places, whatever it finds there."""
    strict = FaceDetector.strict(load("anonymize").vision.face_threshold / 2)
    identity, least = FaceIdentity(), load("anonymize").verify.identity_distance
    for name, pixels in published.items():
        (found,) = strict.detect([pixels])
        assert not found or outcomes[name].editor == "tiny", name
        if name not in sources:
            continue
        source = sources[name]
        if found:
            assert identity.distance(source.known, identity.embed(pixels, found)).min() >= least, (
                name
            )
        left = identity.distance(source.sharp, identity.embed_boxes(pixels, source.places))
        # Of a place without a face the embedding is of something else, near by chance.
        assert left.min() >= 0.75 * least, name


def test_a_detector_that_the_pipeline_does_not_use_finds_no_face_either(
    labels, outcomes, published, sources
):
    """dlib's HOG alone takes a round mission patch on the astronaut's suit for a face, before and
    after; such an alarm counts only where it is new or touches a labelled face. A face that was
    drawn in place of another may be found, far from that one."""
    hog = dlib.get_frontal_face_detector()
    identity, least = FaceIdentity(), load("anonymize").verify.identity_distance
    for name, pixels in published.items():
        source = np.asarray(Image.open(photos_folder() / name).convert("RGB"))
        faces = [Box(*box) for box in labels[name]["face_boxes_xywh"]]
        alarms = [box for box in boxes(hog(source, 1)) if not any(iou(box, f) for f in faces)]
        assert len(alarms) <= 1, name
        found = [b for b in boxes(hog(pixels, 1)) if not any(iou(b, a) > 0.7 for a in alarms)]
        if found and outcomes[name].editor == "tiny" and name in sources:
            drawn = identity.embed_boxes(pixels, found)
            assert identity.distance(sources[name].known, drawn).min() >= least, name
        else:
            assert found == [], name


def boxes(rectangles):
    return [Box(r.left(), r.top(), r.width(), r.height()) for r in rectangles]


def test_no_labelled_string_can_be_read_in_what_is_published(labels, published):
    reader = TextReader()
    for name, pixels in published.items():
        readable = [line.text for line in reader.read_scales(pixels)]
        assert not any(text_leaks(labels[name]["text"], readable, 80)), (name, readable)


def test_published_pictures_keep_name_size_and_format(published):
    for name, pixels in published.items():
        source = Image.open(photos_folder() / name)
        assert (pixels.shape[1], pixels.shape[0]) == source.size
        assert source.format == "JPEG"


def test_the_public_triplets_open_with_datasets(chain, labels):
    opened = datasets.load_dataset(
        "parquet",
        data_files=str(chain.triplets / "triplets" / "*.parquet"),
        split="train",
        cache_dir=str(chain.root / "datasets_cache"),
    )
    assert set(opened["image_id"]) == set(labels)
    assert all(len(text.split()) <= 45 for text in opened["edit_instruction"])


def test_private_strings_stand_in_the_private_share_alone(chain, labels, run):
    strings = [text for label in labels.values() for text in label["text"]]
    private = [
        finding.text
        for part in chain.private.glob("generate_triplets/*/private")
        for record in read_parts(part, PrivateRecord)
        for finding in record.findings
    ]
    assert all(text_leaks(strings, private, 80))
    for folder in (chain.triplets, run):
        public = b"\0".join(
            path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
        )
        assert not any(text.encode() in public for text in strings)
    for row in read_parts(chain.triplets / "triplets", Triplet):
        assert not any(text_leaks(strings, [row.public_caption, row.edit_instruction], 80))


def test_the_private_share_is_for_its_owner_only(chain):
    for share in (chain.private, *chain.private.glob("*/*")):
        assert share.stat().st_mode & 0o077 == 0, share


def test_held_back_images_are_told_with_reason(run, outcomes):
    lines = (run / "failures.jsonl").read_text("utf-8").splitlines()
    told = {json.loads(line)["image_id"]: json.loads(line)["reason"] for line in lines}
    held_back = {n for n, row in outcomes.items() if row.state == OutcomeState.NEEDS_REVIEW}
    assert held_back <= set(told)
    assert all(told.values())


def test_the_sheet_of_the_docs_shows_sample_photographs_alone(chain, labels, tmp_path):
    drawn = sheet(chain.redacted)
    assert drawn.width > drawn.height > 0
    assert np.asarray(drawn).std() > 20  # not an empty page
    shutil.copy(photos_folder() / "cat.jpg", tmp_path)
    _check_shipped(tmp_path, SamplesSource())
    Image.new("RGB", (8, 8)).save(tmp_path / "coffee.jpg")
    with pytest.raises(UsageError, match=r"coffee\.jpg, which is no photograph of the package"):
        _check_shipped(tmp_path, SamplesSource())
    with pytest.raises(UsageError, match=r"no complete run folder of anonymize\.py"):
        sheet(chain.triplets)

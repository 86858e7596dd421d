"""No editor, whatever it does, gets an original or a ruin published."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from injected_editors import Grey, Identity, Noise, NotFinite, Raises, WrongSize
from PIL import Image

from unsafe2safe import api
from unsafe2safe.core.config.components import component
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.core.pseudonyms import restore, true_names
from unsafe2safe.core.records import (
    Outcome,
    Pair,
    PrivacyFlag,
    Region,
    Triplet,
    TripletState,
)
from unsafe2safe.core.tables import read_parts, read_records, write_records
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.editors.base import Editor
from unsafe2safe.editors.redact import RedactEditor
from unsafe2safe.jobs import anonymize
from unsafe2safe.vision.perception import Perception

UNSAFE = ("astronaut.jpg", "coffee_note.jpg")


@component
class FailsForOne(RedactEditor):
    """Raises for every batch that holds the note; else redacts."""

    name: str = "fails_for_one"

    def edit(self, requests):
        if any("text" in request.edit_instruction for request in requests):
            raise RuntimeError("no")
        return super().edit(requests)


@component
class Blurs(Editor):
    """Leaves a face as it was, six pixels wide: as an editor does that works at a small size."""

    name: str = "blurs"

    def edit(self, requests):
        return [
            np.asarray(Image.fromarray(r.image).reduce(15).resize(r.image.shape[1::-1], 3))
            for r in requests
        ]


@component
class BlursLetters(Editor):
    """Blurs as much as makes a reader of text give up, and nobody else."""

    name: str = "blurs_letters"

    def edit(self, requests):
        return [cv2.GaussianBlur(r.image, (0, 0), 4.0) for r in requests]


@component
class Dims(Editor):
    """Changes all pixels and hides nothing."""

    name: str = "dims"

    def edit(self, requests):
        return [r.image // 3 for r in requests]


def all_but(name):
    return lambda _, names: [other for other in names if other != name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("unsafe")
    (root / "images").mkdir()
    write_small(root / "images", ".jpg")
    api.generate_triplets(*common(root))
    return root


def write_small(images, suffix):
    """The unsafe photographs, small, so that looking at them many times stays cheap."""
    for name in UNSAFE:
        photo = Image.open(photos_folder() / name)
        photo.thumbnail((400, 400), Image.Resampling.LANCZOS)
        photo.save(images / name.replace(".jpg", suffix), quality=95)


def common(root):
    return (
        "dataset=folder", f"dataset.root={root / 'images'}", f"paths.runs={root / 'runs'}",
        f"paths.private={root / 'private'}",
    )  # fmt: skip


def anonymized(root, editor, *overrides):
    config = load("anonymize", [*common(root), "verify.max_attempts=2", *overrides])
    result = anonymize.run(config, editor=editor)
    names = true_names(root / "private", [path.name for path in (root / "images").iterdir()])
    outcomes = read_records(result.output_dir / "manifest.parquet", Outcome)
    return result, {row.image_id: row for row in (restore(row, names) for row in outcomes)}


def published_files(result):
    return [path for path in (result.output_dir / "published").rglob("*") if path.is_file()]


# Grey in the masks alone is a redaction and rightly published; a grey frame is a ruin.
@pytest.mark.parametrize(
    ("editor", "region"),
    [
        (Identity(), "full"),
        pytest.param(Identity(), "composite", marks=pytest.mark.slow),
        pytest.param(Noise(), "full", marks=pytest.mark.slow),
        (Noise(), "composite"),
        (Grey(), "full"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_cheating_or_destroying_editor_publishes_nothing(folder, editor, region):
    result, outcomes = anonymized(folder, editor, f"region={region}")
    assert result.status == 3
    assert {row.state for row in outcomes.values()} == {"needs_review"}
    assert published_files(result) == []
    assert list(read_parts(result.output_dir / "pairs", Pair)) == []


def test_letters_that_are_blurred_only_are_read_by_people_and_not_published(tmp_path):
    shutil.copytree(photos_folder(), tmp_path / "images", ignore=all_but("coffee_note.jpg"))
    api.generate_triplets(*common(tmp_path))
    result, outcomes = anonymized(
        tmp_path, BlursLetters(), "verify.ladder=[]", "verify.max_attempts=1"
    )
    (row,) = outcomes.values()
    assert (row.state, row.reason) == ("needs_review", "not verified: letters_alike")
    assert not published_files(result)
    again, outcomes = anonymized(tmp_path, BlursLetters(), "verify.ladder=[redact]")
    assert [row.state for row in outcomes.values()] == ["anonymized"]
    assert published_files(again)


def test_a_face_that_is_blurred_only_is_the_source_blurred_and_not_published(tmp_path):
    """Its embedding is farther from the sharp face's than another person's may be."""
    (tmp_path / "images").mkdir()
    photo = Image.open(photos_folder() / "president_a.jpg")
    photo.thumbnail((400, 400), Image.Resampling.LANCZOS)
    photo.save(tmp_path / "images" / "portrait.jpg", quality=95)
    api.generate_triplets(*common(tmp_path))
    _, outcomes = anonymized(tmp_path, Blurs(), "verify.ladder=[]")
    (attempt,) = outcomes["portrait.jpg"].attempts
    assert attempt.reason == "identity_distance"
    assert outcomes["portrait.jpg"].state == "needs_review"


def test_a_look_at_what_was_edited_finds_what_was_left_there(folder):
    _, outcomes = anonymized(
        folder, Dims(), "verify.look=edited", "verify.faces=absent", "verify.ladder=[]"
    )
    assert {row.state for row in outcomes.values()} == {"needs_review"}
    assert "faces_found" in outcomes["astronaut.jpg"].reason
    assert "texts_readable" in outcomes["coffee_note.jpg"].reason


def test_a_look_at_what_was_edited_asks_nobody_about_the_whole(folder, monkeypatch):
    for name in ("verify_faces", "verify_text"):
        monkeypatch.setattr(Perception, name, None)
    result, outcomes = anonymized(folder, None, "verify.look=edited", "publish.names=hash")
    assert {row.state for row in outcomes.values()} == {"anonymized"}
    assert len(published_files(result)) == len(outcomes) + 1  # and metadata.csv


def test_whole_frames_that_are_edited_are_looked_at_as_a_whole():
    with pytest.raises(ConfigError, match="region=full"):
        load("anonymize", ["region=full", "verify.look=edited"])


@pytest.mark.parametrize("editor", [Raises(), WrongSize(), NotFinite()], ids=lambda e: e.name)
def test_a_broken_editor_publishes_nothing_and_ends_no_run(folder, editor):
    result, outcomes = anonymized(folder, editor)
    assert result.status == 3
    assert set(outcomes) == set(UNSAFE)
    assert not any(row.state.publishable for row in outcomes.values())
    assert published_files(result) == []
    told = (result.output_dir / "failures.jsonl").read_text()
    assert "editor" in told
    assert "Anna" not in told


def test_one_bad_image_does_not_take_its_batch_with_it(folder):
    _, outcomes = anonymized(folder, FailsForOne())
    assert outcomes["astronaut.jpg"].state == "anonymized"
    assert outcomes["coffee_note.jpg"].state == "needs_review"


def test_an_outcome_is_on_record_with_each_attempt_and_check(folder):
    _, outcomes = anonymized(folder, Identity())
    attempts = outcomes["astronaut.jpg"].attempts
    assert [attempt.strength for attempt in attempts] == [0, 1]
    assert attempts[0].seed != attempts[1].seed
    failed = {check.name for check in attempts[0].checks if not check.passed}
    assert {"identity_distance", "unchanged_regions"} <= failed


def test_outside_the_masks_a_redacted_png_is_the_original_bit_for_bit(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    write_small(images, ".png")
    api.generate_triplets(*common(tmp_path))
    result, outcomes = anonymized(tmp_path, None, "write_pairs=true", "pairs.masks=true")
    assert json.loads((result.output_dir / "run.json").read_text())["pairs"]["written"] == 2
    assert "pairs: 2 written" in result.message
    pairs = {row.image_id: row for row in read_parts(result.output_dir / "pairs", Pair)}
    for name, row in outcomes.items():
        texts = pairs[name].public_caption, pairs[name].edit_instruction
        assert pairs[name].combined_caption == " ".join(texts)  # as the triplet has it
        source = np.asarray(Image.open(images / name).convert("RGB"))
        published = np.asarray(Image.open(result.output_dir / "published" / row.published_as))
        changed = np.flatnonzero((source != published).any(axis=2))
        assert changed.size
        mask = mask_of_pair(pairs[name], row.attempts[-1].margin, source.shape)
        drawn = np.asarray(Image.open(result.output_dir / pairs[name].mask))
        assert np.array_equal(drawn == 255, mask > 0)  # and a rim around it
        outside = drawn == 0
        assert outside.mean() > 0.3
        assert np.array_equal(source[outside], published[outside])


def mask_of_pair(pair, margin, shape):
    from unsafe2safe.vision.regions import grow_region, mask_of

    height, width = shape[:2]
    boxes = [
        grow_region(region.category, region.box, margin, width, height)
        for region in pair.regions
        if region.category != "person"
    ]
    return mask_of(boxes, height, width)


def test_a_held_back_edit_goes_to_the_quarantine_of_the_private_share(folder):
    anonymized(folder, Noise(), "region=full")
    quarantined = list((folder / "private").rglob("quarantine/*.png"))
    assert quarantined
    assert all(path.stat().st_mode & 0o077 == 0 for path in quarantined)


def test_another_unit_size_on_a_begun_run_is_refused(folder):
    result, _ = anonymized(folder, Raises())
    state = json.loads((result.output_dir / "run.json").read_text())
    state["status"] = "running"
    (result.output_dir / "run.json").write_text(json.dumps(state))
    with pytest.raises(UsageError, match=r"engine\.unit_size=64, not 1"):
        anonymized(folder, Raises(), "engine.unit_size=1", f"output_dir={result.output_dir}")


def test_safe_needs_two_witnesses(tmp_path):
    """Stage 1 calls both safe; the detectors of Stage 2 do not, so neither goes out as it is."""
    (tmp_path / "images").mkdir()
    write_small(tmp_path / "images", ".png")
    run = api.generate_triplets(*common(tmp_path)).output_dir
    (part,) = (run / "triplets").glob("part-*.parquet")
    told = [
        replace(row, privacy_flag=PrivacyFlag.SAFE, reason="")
        for row in read_records(part, Triplet)
    ]
    write_records(part, Triplet, told)
    write_records(run / "regions" / part.name, Region, [])
    cheated, outcomes = anonymized(tmp_path, Identity())
    assert published_files(cheated) == []
    _, outcomes = anonymized(tmp_path, None)
    assert {row.state for row in outcomes.values()} == {"anonymized"}


@pytest.mark.parametrize("state", ["needs_review", "failed"])
def test_what_stage_1_could_not_describe_is_held_back(folder, tmp_path, state):
    run = tmp_path / "triplets"
    shutil.copytree(next((folder / "runs" / "generate_triplets").iterdir()), run)
    (part,) = (run / "triplets").glob("part-*.parquet")
    rows = [
        replace(row, state=TripletState(state), privacy_flag=PrivacyFlag.SAFE)
        for row in read_records(part, Triplet)
    ]
    write_records(part, Triplet, rows)
    output = f"output_dir={tmp_path / 'out'}"
    result, outcomes = anonymized(folder, None, f"triplets={run}", output)
    assert {row.state for row in outcomes.values()} == {"needs_review"}
    assert published_files(result) == []

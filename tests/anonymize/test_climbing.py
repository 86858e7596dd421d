"""What follows a failed attempt, who is asked, and what is on record of it."""

import json
import logging

import pytest
from injected_editors import Darker, Identity, Raises
from injected_witnesses import ASKED, HERE, SECRET
from PIL import Image

from unsafe2safe import api
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Category, Outcome, Region
from unsafe2safe.core.tables import read_records, write_records
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.jobs import anonymize

NOTE = "coffee_note.jpg"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One photograph with a note, small, so that looking at it many times stays cheap."""
    root = tmp_path_factory.mktemp("climbing")
    (root / "images").mkdir()
    photo = Image.open(photos_folder() / NOTE)
    photo.thumbnail((320, 320), Image.Resampling.LANCZOS)
    photo.save(root / "images" / NOTE, quality=95)
    api.generate_triplets(*common(root), f"output_dir={root / 'triplets'}")
    return root


def common(root):
    return (
        "dataset=folder", f"dataset.root={root / 'images'}", f"paths.runs={root / 'runs'}",
        f"paths.private={root / 'private'}",
    )  # fmt: skip


def outcome_of(root, *overrides, editor=None, triplets="triplets"):
    config = load("anonymize", [*common(root), f"triplets={root / triplets}", *overrides])
    result = anonymize.run(config, editor=editor)
    (row,) = read_records(result.output_dir / "manifest.parquet", Outcome)
    published = list((result.output_dir / "published").rglob("*.jpg"))
    assert len(published) == row.state.publishable
    return row, result


def rungs(row):
    return [attempt.rung for attempt in row.attempts]


def given(key, name, **settings):
    """An override that names a class of ``injected_witnesses``."""
    inner = ",".join(f"{k}:{json.dumps(v)}" for k, v in settings.items())
    component = f"{{_target_:{HERE}.{name}{',' + inner if inner else ''}}}"
    return f"verify.{key}=[{component}]" if key == "detectors" else f"verify.{key}={component}"


@pytest.mark.parametrize("editor", [Identity(), Raises()], ids=lambda e: e.name)
def test_what_no_editor_could_do_is_redacted_and_every_attempt_is_on_record(folder, editor):
    row, result = outcome_of(folder, "verify.ladder=[seed,guidance,redact]", editor=editor)
    assert row.state == "anonymized"
    assert rungs(row) == ["first", "seed", "guidance", "redact"]
    assert [a.editor for a in row.attempts] == [editor.name] * 3 + ["redact"]
    assert [a.text_guidance for a in row.attempts] == [1, 1, 1.5, 1]
    assert [a.margin for a in row.attempts] == [0.3] * 4
    assert row.attempts[0].seed != row.attempts[1].seed == row.attempts[2].seed
    assert all(attempt.reason for attempt in row.attempts[:3])
    assert (row.editor, row.attempts[3].reason) == ("redact", "")
    assert SECRET not in (result.output_dir / "manifest.parquet").read_bytes().decode("latin-1")


def test_attempts_are_bounded_whatever_the_ladder(folder):
    row, _ = outcome_of(folder, "verify.max_attempts=2", editor=Raises())
    assert (row.state, rungs(row)) == ("needs_review", ["first", "seed"])
    row, _ = outcome_of(
        folder, "verify.redact=false", "verify.ladder=[seed,redact]", editor=Raises()
    )
    assert (row.state, rungs(row)) == ("needs_review", ["first", "seed"])


@pytest.fixture(scope="module")
def half_seen(folder):
    """Triplets whose regions miss all but a corner of the picture."""
    import shutil

    shutil.copytree(folder / "triplets", folder / "half_seen")
    (part,) = (folder / "half_seen" / "regions").glob("part-*.parquet")
    first = read_records(part, Region)[0]
    corner = first.box._replace(x=0.0, y=0.0, width=20.0, height=20.0)
    write_records(part, Region, [Region(NOTE, corner, Category.TEXT, 1.0, "planted")])
    return "half_seen"


def test_a_rung_is_tried_again_with_the_regions_that_were_missed(folder, half_seen):
    row, _ = outcome_of(folder, triplets=half_seen)
    assert row.state == "anonymized"
    assert rungs(row)[:2] == ["first", "first"]
    assert row.attempts[0].strength == row.attempts[1].strength == 0
    assert "texts_missed" in row.attempts[0].reason


def test_missed_regions_do_not_bring_back_a_rung_for_ever(folder, half_seen):
    row, _ = outcome_of(folder, "verify.max_region_retries=0", triplets=half_seen)
    assert rungs(row)[:2] == ["first", "margin"]


def test_a_rung_with_another_fault_is_not_tried_again(folder, half_seen):
    row, _ = outcome_of(
        folder, "verify.min_contrast=200", "verify.max_attempts=2", triplets=half_seen
    )
    assert rungs(row) == ["first", "margin"]


def test_a_detector_that_raises_fails_the_attempt_and_ends_no_run(folder, caplog):
    row, result = outcome_of(folder, given("detectors", "RaisingDetector"), "verify.max_attempts=2")
    assert row.state == "needs_review"
    assert len(row.attempts) == 2
    assert all("verification raised RuntimeError" in a.reason for a in row.attempts)
    assert SECRET not in caplog.text + (result.output_dir / "failures.jsonl").read_text()


def test_a_face_that_only_a_further_detector_sees_holds_back(folder):
    row, _ = outcome_of(
        folder, given("detectors", "OneBox", box=[0, 0, 40, 40]), "verify.max_attempts=2"
    )
    assert row.state == "needs_review"
    first = {check.name: check.passed for check in row.attempts[0].checks}
    assert (first["faces_found"], first["others_missed"]) == (False, False)
    assert rungs(row)[1] == "first"  # once more, with that place under the mask


def test_a_real_further_detector_looks_too(folder):
    row, _ = outcome_of(folder, "verify.detectors=[dlib_hog]")
    assert row.state == "anonymized"
    assert "others_missed" in {check.name for check in row.attempts[-1].checks}


def test_nothing_is_published_that_the_judge_has_not_let_pass(folder, caplog):
    ASKED.clear()
    says = given("judge", "ScriptedJudge", says='{"still_shown": true, "linkable": false}')
    with caplog.at_level(logging.DEBUG):
        row, result = outcome_of(folder, says, "verify.max_attempts=1")
    assert row.state == "needs_review"
    assert [attempt.reason for attempt in row.attempts] == ["judge_still_shown"]
    assert not any(prompt in caplog.text for prompt in ASKED)
    assert "The left picture" not in caplog.text
    assert "The left picture" not in (result.output_dir / "failures.jsonl").read_text()


def test_a_judge_that_agrees_publishes_and_is_asked_of_verified_edits_only(folder):
    ASKED.clear()
    row, _ = outcome_of(
        folder, given("judge", "ScriptedJudge"), "verify.ladder=[redact]", editor=Identity()
    )
    assert row.state == "anonymized"
    assert len(ASKED) == 1  # not for the edit that was none
    assert "written text" in ASKED[0]
    last = {check.name: check.passed for check in row.attempts[-1].checks}
    assert last["judge_still_shown"]
    assert last["judge_linkable"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "verify.detectors=[dlib_hogg]",
            r"verify\.detectors\.0: detector=dlib_hogg does not exist",
        ),
        ("verify.detectors=[{name:dlib_hog,overrides:{upsample:9}}]", r"detectors\.0.*upsample=9"),
        ("verify.judge=qwen9", r"verify\.judge: stage1/vlm=qwen9 does not exist"),
        ("verify.judge=server", r"verify\.judge: .*model is not set"),
        ("verify.judge={_target_:injected_editors.Identity}", r"verify\.judge.* is no ChatModel"),
        ("verify.truth=also", r"verify\.truth=also needs a data set whose truth is known"),
    ],
)
def test_a_witness_that_cannot_be_had_is_told_before_any_work(folder, override, told):
    with pytest.raises(UsageError, match=told):
        outcome_of(folder, override)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    shared = (
        "dataset=synthetic", "dataset.size=2", f"paths.runs={root / 'runs'}",
        f"paths.private={root / 'private'}",
    )  # fmt: skip
    api.generate_triplets(*shared, "stage1=oracle")
    return shared


SCENES = (
    "verify.truth=only", "mask_categories=[person,face,text,plate]", "margin=0",
    "verify.ladder=[]", "verify.max_attempts=1",
)  # fmt: skip


def test_a_drawn_scene_is_published_only_when_its_values_are_not_read_any_more(scenes):
    config = load("anonymize", [*scenes, *SCENES])
    result = anonymize.run(config, editor=Darker())
    rows = read_records(result.output_dir / "manifest.parquet", Outcome)
    assert {row.state for row in rows} == {"needs_review"}
    for row in rows:
        assert "truth_leaked" in row.attempts[0].reason


def test_a_redacted_scene_is_published(scenes):
    config = load("anonymize", [*scenes, *SCENES, "editor.method=fill"])
    assert anonymize.run(config).counts["anonymized"] == 2


def test_the_strict_detectors_may_look_at_scenes_as_well(scenes):
    config = load("anonymize", [*scenes, *SCENES, "verify.truth=also", "dataset.limit=1"])
    result = anonymize.run(config, editor=Darker())
    (row,) = read_records(result.output_dir / "manifest.parquet", Outcome)
    assert {"truth_leaked", "texts_readable"} <= {check.name for check in row.attempts[0].checks}


def test_instructions_of_another_run_are_not_taken_for_the_truth(scenes, tmp_path):
    api.generate_triplets(*scenes, "stage1=detectors", f"output_dir={tmp_path / 'other'}")
    config = load("anonymize", [*scenes, *SCENES, f"triplets={tmp_path / 'other'}"])
    rows = read_records(anonymize.run(config).output_dir / "manifest.parquet", Outcome)
    assert not any(row.state.publishable for row in rows)

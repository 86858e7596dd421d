"""Folders that were not made by us, with the script as a user runs it."""

import json
import shutil

import cv2
import pytest
from conftest import run_script

from unsafe2safe.data.folder import FolderSource
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.evaluation.rows import match_folders

LEFT_OUT = ("~metrics.st_lpips_inside", "~metrics.st_lpips_outside", "~metrics.text_sim_paper")


def evaluate(root, *overrides):
    return run_script(
        "evaluate",
        f"originals={root / 'originals'}",
        f"edited={root / 'edited'}",
        f"output_dir={root / 'out'}",
        "engine.threads=2",
        *LEFT_OUT,
        *overrides,
        cwd=root,
    )


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "originals/sub").mkdir(parents=True)
    (tmp_path / "edited/sub").mkdir(parents=True)
    for name in ("astronaut.jpg", "cat.jpg", "sub/coffee_note.jpg"):
        shutil.copyfile(photos_folder() / name.split("/")[-1], tmp_path / "originals" / name)
    # another size; another suffix; none for the cat; one that has no original
    face = cv2.imread(str(photos_folder() / "astronaut.jpg"))
    cv2.imwrite(str(tmp_path / "edited/astronaut.jpg"), cv2.resize(face, (256, 256)))
    note = cv2.imread(str(photos_folder() / "coffee_note.jpg"))
    cv2.imwrite(str(tmp_path / "edited/sub/coffee_note.png"), note)
    cv2.imwrite(str(tmp_path / "edited/stranger.png"), note)
    return tmp_path


@pytest.mark.slow
def test_folders_of_any_tool_are_measured_and_nothing_of_them_is_shown(folders):
    done = evaluate(folders)
    assert done.status == 0, done.said
    assert "edited files without an original, left out: 1" in done.said
    assert "originals without an edited file, missing: 1" in done.said
    content = json.loads((folders / "out/metrics.json").read_text())
    row = next(row for row in content["rows"] if row["kind"] == "folder")
    figures = row["metrics"]
    assert (row["edited"], row["resized"], content["images"]) == (2, 1, 3)
    assert (figures["ssim"]["n"], figures["ssim"]["n_missing"]) == (2, 1)
    assert figures["text_leak_recall"]["value"] == 1.0  # nothing was done to the note
    assert figures["face_leak_rate"]["value"] == 1.0  # nor to the face
    page = (folders / "out/report.html").read_text()
    assert "data:image/jpeg" not in page  # no outcome says that they may be shown
    assert "Anna" not in page
    again = evaluate(folders)
    assert again.status == 0, again.said
    assert "loaded model" not in again.said
    changed = folders / "edited/sub/coffee_note.png"
    cv2.imwrite(str(changed), cv2.imread(str(changed)) // 2)
    other = evaluate(folders)  # figures of other files must not pass for those of these
    assert other.status == 2
    assert "edited.files" in other.said


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["originals={0}/absent"], "originals={0}/absent is not a folder"),
        (["edited={0}/empty"], "no images under {0}/empty"),
        (["edited={0}/others"], "bears the name of one in"),
        (["edited=null"], "edited is not given"),
        (["metrics.ssm.part=x"], "unknown key"),
        (["bootstrap=0"], "bootstrap=0"),
    ],
)
def test_unusable_arguments_are_told_in_one_line_with_status_2(folders, overrides, told):
    (folders / "empty").mkdir()
    (folders / "others").mkdir()
    shutil.copyfile(photos_folder() / "cat.jpg", folders / "others/unlike.jpg")
    done = evaluate(folders, *(override.format(folders) for override in overrides))
    assert done.status == 2
    assert told.format(folders) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (folders / "out").exists()


def source(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return FolderSource(root=root)


def test_files_match_by_path_then_by_unambiguous_stem(tmp_path):
    originals = source(
        tmp_path / "o", "same.png", "a/other.jpg", "twin.png", "twin.jpg", "x.jpg", "both.jpg"
    )
    edited = source(
        tmp_path / "e", "same.png", "a/other.webp", "twin.webp", "y.jpg", "both.png", "both.webp"
    )
    matched, left_over = match_folders(originals, edited)
    assert {key: record.image_id for key, record in matched.items()} == {
        "same.png": "same.png",
        "a/other.jpg": "a/other.webp",
    }
    assert left_over == ["both.png", "both.webp", "twin.webp", "y.jpg"]

"""Odd files and wrong arguments, given to the scripts as a user gives them."""

import json
import shutil
import sys

import pytest
from conftest import REPOSITORY, run_script
from odd_images import write_odd_images

from unsafe2safe.core.pseudonyms import restore, true_names
from unsafe2safe.core.records import Outcome, Triplet
from unsafe2safe.core.tables import read_parts, read_records
from unsafe2safe.data.samples import photos_folder


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder of odd files beside a good one, described and anonymized once."""
    root = tmp_path_factory.mktemp("odd")
    images = root / "images"
    images.mkdir()
    expected = write_odd_images(images)
    shutil.copy(photos_folder() / "cat.jpg", images / "cat.jpg")
    common = ["dataset=folder", f"dataset.root={images}"]
    described = run_script("generate_triplets", *common, cwd=root)
    redacted = run_script("anonymize", *common, cwd=root)
    return root, expected, described, redacted


def test_unreadable_files_are_told_with_path_and_reason_and_the_others_go_on(odd):
    root, expected, described, _ = odd
    assert described.status == 3, described.said
    assert "Traceback" not in described.said
    run = next((root / "outputs" / "generate_triplets").iterdir())
    rows = {row.image_id: row for row in read_parts(run / "triplets", Triplet)}
    assert set(rows) == {*expected, "cat.jpg"}
    told = [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]
    reasons = {line["image_id"]: line["reason"] for line in told}
    for image_id, fragment in expected.items():
        if fragment is None:
            assert rows[image_id].state == "complete", image_id
        else:
            assert fragment in reasons[image_id], (image_id, reasons.get(image_id))
            assert rows[image_id].privacy_flag == "unsafe"
            assert image_id in described.stderr
    assert rows["cat.jpg"].state == "complete"


def test_nothing_unreadable_is_published(odd):
    root, expected, _, redacted = odd
    assert redacted.status == 3, redacted.said
    assert "Traceback" not in redacted.said
    run = next((root / "outputs" / "anonymize").iterdir())
    names = true_names(root / "private", [*expected, "cat.jpg"])
    rows = read_records(run / "manifest.parquet", Outcome)
    outcomes = {row.image_id: row for row in (restore(row, names) for row in rows)}
    assert outcomes["cat.jpg"].state == "safe"
    for image_id, fragment in expected.items():
        if fragment is not None:
            assert not outcomes[image_id].state.publishable
    on_disk = {p.relative_to(run / "published").as_posix() for p in run.rglob("published/**/*")
               if p.is_file()}  # fmt: skip
    shown = {row.published_as for row in outcomes.values() if row.published_as}
    assert on_disk == {*shown, "metadata.csv"}


@pytest.mark.parametrize(
    ("script", "overrides", "told"),
    [
        ("generate_triplets", ["dataset=folder", "dataset.root={empty}"], "no images under"),
        ("generate_triplets", ["dataset=folder", "dataset.root={gone}"], "does not exist"),
        ("generate_triplets", ["dataset=folder"], "dataset.root is not set"),
        ("generate_triplets", ["output_dir={file}/below"], "cannot write to output_dir="),
        ("generate_triplets", ["sed=1"], "did you mean 'seed'"),
        ("generate_triplets", ["seed=many"], "seed='many'"),
        ("generate_triplets", ["dataset=coco"], "data/coco"),
        ("anonymize", [], "python generate_triplets.py"),
        ("anonymize", ["editor=redakt"], "did you mean 'redact'"),
        ("anonymize", ["editor.methd=blur"], "did you mean 'editor.method'"),
        ("anonymize", ["editor.method=smear"], "editor.method='smear'"),
        ("anonymize", ["triplets={empty}"], "no run folder of generate_triplets.py"),
        ("train", [], "anonymize.py"),
        ("train", ["trainer.max_steps=few"], "trainer.max_steps='few'"),
        ("evaluate", [], "anonymize.py"),
        ("evaluate", ["originals={empty}"], "edited"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(tmp_path, script, overrides, told):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    places = {"empty": tmp_path / "empty", "gone": tmp_path / "gone", "file": tmp_path / "file"}
    finished = run_script(script, *(text.format(**places) for text in overrides), cwd=tmp_path)
    assert finished.status == 2, finished.said
    assert told in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert finished.stderr.startswith(f"{script}.py: ")


def test_a_folder_of_another_configuration_is_refused_and_stays_as_it_was(odd):
    root, *_ = odd
    run = next((root / "outputs" / "generate_triplets").iterdir())
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("part-*"))
    assert before
    finished = run_script(
        "generate_triplets",
        "dataset=folder", f"dataset.root={root / 'images'}",
        f"output_dir={run}", "existing=refuse", "seed=5", cwd=root,
    )  # fmt: skip
    assert finished.status == 2
    assert "differs in seed" in finished.stderr
    after = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("part-*"))
    assert before == after


@pytest.mark.slow
def test_the_worst_job_of_a_sweep_decides_and_the_others_run(tmp_path):
    photos = tmp_path / "data"
    photos.mkdir()
    shutil.copy(photos_folder() / "coffee.jpg", photos / "coffee.jpg")
    finished = run_script(
        "generate_triplets",
        "-m", "dataset=folder", f"dataset.root={tmp_path / 'gone'},{photos}", cwd=tmp_path,
    )  # fmt: skip
    assert finished.status == 2
    assert "does not exist" in finished.stderr
    assert "1 images: 1 safe" in finished.stdout


@pytest.mark.parametrize("script", ["generate_triplets", "anonymize", "train", "evaluate"])
@pytest.mark.parametrize("question", ["--help", "--cfg=job"])
def test_questions_are_answered_without_importing_torch(tmp_path, script, question):
    import subprocess

    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{script}.py', '{question}']\n"
        "try:\n"
        f"    runpy.run_path({str(REPOSITORY / (script + '.py'))!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "seed: 0" in done.stdout


def test_redacting_and_measuring_folders_start_without_torch():
    """A few seconds of each command's start."""
    import subprocess

    code = (
        "import sys\n"
        "import unsafe2safe.editors.redact, unsafe2safe.jobs.anonymize_run\n"
        "import unsafe2safe.jobs.detect_regions, unsafe2safe.jobs.evaluate\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

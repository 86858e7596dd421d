"""A cheating or destroying editor leaves no file and shows nothing in W&B or the report."""

import pytest
from injected_editors import Identity, Noise
from PIL import Image

from unsafe2safe import api
from unsafe2safe.core.config.compose import load
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.jobs import anonymize


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    root = tmp_path_factory.mktemp("cheaters")
    (root / "images").mkdir()
    photo = Image.open(photos_folder() / "astronaut.jpg")
    photo.resize((256, 256), Image.Resampling.LANCZOS).save(root / "images" / "a.jpg", quality=95)
    shared = (
        "dataset=folder", f"dataset.root={root / 'images'}", f"paths.runs={root / 'runs'}",
        f"paths.private={root / 'private'}", "logger=wandb",
    )  # fmt: skip
    api.generate_triplets(*shared)
    return shared


@pytest.mark.parametrize("editor", [Identity(), Noise()], ids=lambda editor: editor.name)
def test_nothing_of_a_cheater_reaches_disk_tracker_or_report(common, editor):
    config = load("anonymize", [*common, "verify.max_attempts=1"])
    held_back = anonymize.run(config, editor=editor)
    assert held_back.counts["needs_review"] == 1
    assert not any(path.is_file() for path in (held_back.output_dir / "published").rglob("*"))
    measured = api.evaluate(*common, f"runs=[{held_back.output_dir}]")
    report = (measured.output_dir / "report.html").read_text("utf-8")
    assert "data:image" not in report
    for run in (held_back, measured):
        media = [
            path
            for suffix in ("jpg", "jpeg", "png", "webp")
            for path in run.output_dir.rglob(f"*.{suffix}")
        ]
        assert media == []
        assert list((run.output_dir / "wandb").rglob("*.wandb"))  # it was tracked, without pictures


def test_a_redaction_is_shown_where_a_cheater_was_not(common):
    published = api.anonymize(*common)
    assert published.counts["anonymized"] == 1
    assert list((published.output_dir / "wandb").rglob("*.jpg")) or list(
        (published.output_dir / "wandb").rglob("*.png")
    )
    measured = api.evaluate(*common, f"runs=[{published.output_dir}]")
    assert "data:image" in (measured.output_dir / "report.html").read_text("utf-8")

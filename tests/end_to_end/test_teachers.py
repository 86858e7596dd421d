"""Training-free editors through anonymize.py; the private caption goes to them and nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import run_script
from PIL import Image
from tiny_pipelines import save_sd1, save_sd3

from unsafe2safe import api
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Outcome, OutcomeState, Pair, PrivateRecord
from unsafe2safe.core.tables import read_parts, read_records, write_records
from unsafe2safe.data.samples import photos_folder

SECRET = "Zebulon Quackenbush"
# Longer than any of the text encoders reads, so that something is cut from it.
CAPTION = f"A cup of coffee beside a note by {SECRET}. " * 20
# Random weights edit to noise; this is about the way there.
LENIENT = ("verify.max_attempts=1", "verify.max_noise=1e6", "verify.min_contrast=1e-6")
FLOWEDIT = (
    "editor=flowedit", "editor.weights=sd3", "editor.device=cpu", "editor.dtype=float32",
    "editor.longest_side=32", "editor.steps=3", "editor.n_max=2", *LENIENT,
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triplets of one unsafe and one safe photograph, and weights beside them."""
    root = tmp_path_factory.mktemp("teachers")
    (root / "images").mkdir()
    for name in ("coffee.jpg", "coffee_note.jpg"):
        photo = Image.open(photos_folder() / name)
        photo.thumbnail((320, 320))
        photo.save(root / "images" / name, quality=95)
    api.generate_triplets(*shared(root), f"output_dir={root / 'triplets'}")
    keep_caption(root, CAPTION)
    save_sd3(root / "sd3")
    save_sd1(root / "sd1")
    return root


def shared(root: Path) -> tuple[str, ...]:
    return (
        "dataset=folder", f"dataset.root={root / 'images'}", f"paths.runs={root / 'runs'}",
        f"paths.private={root / 'private'}",
    )  # fmt: skip


def private_part(root: Path) -> Path:
    (part,) = (root / "private" / "generate_triplets").glob("triplets-*/private/part-*.parquet")
    return part


def keep_caption(root: Path, caption: str) -> None:
    part = private_part(root)
    rows = read_records(part, PrivateRecord)
    write_records(
        part, PrivateRecord, [PrivateRecord(r.image_id, caption, r.findings) for r in rows], 0o600
    )


def command(root: Path, output: str, *overrides: str) -> tuple[str, ...]:
    triplets, written = f"triplets={root / 'triplets'}", f"output_dir={root / output}"
    return (*shared(root), triplets, written, *overrides)


def flowedit(root: Path) -> tuple[str, ...]:
    return tuple(text.replace("=sd3", f"={root / 'sd3'}") for text in FLOWEDIT)


def holders_of_the_secret(folder: Path) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        text = path.read_bytes().decode("latin-1") if path.is_file() else ""
        if path.suffix == ".parquet":
            text += json.dumps(pq.ParquetFile(path).read().to_pylist(), default=str)
        found += [str(path)] if any(word in text for word in SECRET.split()) else []
    return found


@pytest.mark.slow
def test_flowedit_makes_a_pair_and_its_private_caption_stays_private(root: Path) -> None:
    finished = run_script("anonymize", *command(root, "safe", *flowedit(root)), cwd=root)
    assert finished.status == 0, finished.said
    assert "Stability AI Community License" in finished.stderr
    outcomes = {o.image_id: o for o in read_records(root / "safe/manifest.parquet", Outcome)}
    assert outcomes["coffee_note.jpg"].state == OutcomeState.ANONYMIZED
    assert outcomes["coffee_note.jpg"].editor == "flowedit"
    assert outcomes["coffee.jpg"].state == OutcomeState.SAFE
    (pair,) = read_parts(root / "safe/pairs", Pair)
    source = Image.open(root / "images/coffee_note.jpg")
    assert Image.open(root / "safe" / pair.target).size == source.size
    assert not any(word in finished.said for word in SECRET.split())
    assert holders_of_the_secret(root / "safe") == []
    assert str(private_part(root)) in holders_of_the_secret(root / "private")

    share = private_part(root).parent
    share.rename(share.with_name("hidden"))  # what is finished needs it no more
    assert api.anonymize(*command(root, "safe", *flowedit(root))).counts["anonymized"] == 1
    share.with_name("hidden").rename(share)


def test_what_nothing_can_be_edited_with_is_told_at_once(root: Path) -> None:
    with pytest.raises(UsageError, match=r"editor\.device=cuda:99: torch sees"):
        api.anonymize(*command(root, "none", *flowedit(root), "editor.device=cuda:99"))
    with pytest.raises(UsageError, match=r"editor\.weights=.* is a StableDiffusionPipeline"):
        api.anonymize(*command(root, "x", *flowedit(root), f"editor.weights={root / 'sd1'}"))
    assert not (root / "x").exists()


def test_a_missing_private_share_is_told_with_what_to_do(root: Path, tmp_path: Path) -> None:
    elsewhere = f"paths.private={tmp_path / 'private'}"
    with pytest.raises(UsageError, match=r"not under paths\.private=.*give the paths\.private of"):
        api.anonymize(*command(root, "a", *flowedit(root)), elsewhere)


@pytest.mark.slow
def test_an_image_without_a_private_caption_is_held_back(root: Path) -> None:
    keep_caption(root, " ")
    reading = (
        f"editor.weights={root / 'sd1'}", "editor.source_text=private_caption",
        "verify.redact=false",
    )  # fmt: skip
    held = api.anonymize(*command(root, "b", "editor=freeprompt", *reading, "editor.device=cpu"))
    keep_caption(root, CAPTION)
    assert (held.counts["safe"], held.counts["needs_review"]) == (1, 1)
    assert "reads the private caption, and it has none" in (root / "b/failures.jsonl").read_text()


@pytest.mark.slow
def test_freeprompt_needs_no_private_share_and_flowedit_says_that_it_was_purged(
    root: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(root, tmp_path / "copied")
    api.generate_triplets(*shared(root), f"output_dir={root / 'triplets'}", "mode=purge")
    with pytest.raises(UsageError, match=r"were purged; make the triplets again"):
        api.anonymize(*command(root, "c", *flowedit(root)))
    small = "editor.device=cpu", "editor.resolution=32", "editor.steps=3"
    weights = f"editor.weights={copied / 'sd1'}"
    made = api.anonymize(*command(root, "d", "editor=freeprompt", weights, *small, *LENIENT))
    assert made.counts["anonymized"] == made.counts["pairs"] == 1

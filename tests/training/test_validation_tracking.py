"""What a training with validation tells W&B, read back from disk: all that it should, no more."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tracking.test_wandb import history, stored_records, values_of
from training.interrupting import Interrupted, interrupt_after
from training.make_pairs import World, make_world

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.records import OutcomeState
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.instruct_pix2pix import InstructPix2PixEditor
from unsafe2safe.jobs.publishable import Publishable
from unsafe2safe.jobs.train import run

SECRET = "xaviera-quillfeather-"  # in the names of the originals' files
SHORT = [
    "editor.init_seed=0",
    "editor.steps=1",
    "engine.threads=1",
    "trainer.max_steps=4",
    "trainer.batch_size=2",
    "trainer.checkpoint_every=2",
    "trainer.gradient_check=false",
    "validation.every=2",
    "validation.share=0.4",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("w"), 6, regions=True, prefix=SECRET)


def redacted(request: EditRequest) -> np.ndarray:
    """A faithful edit with nothing sensitive left, but smooth colours in its place."""
    rows, columns = np.mgrid[: request.image.shape[0], : request.image.shape[1]]
    smooth = np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8)
    return np.where(request.mask[..., None] > 0, smooth, request.image)


def copied(request: EditRequest) -> np.ndarray:
    """What a cheating editor gives."""
    return request.image.copy()


def train(
    world: World, output: Path, patches: pytest.MonkeyPatch, edit: object, *overrides: str
) -> None:
    """A training whose editor edits as ``edit`` does."""

    def edits(_: object, requests: Sequence[EditRequest], batch: Sequence[int]) -> list[object]:
        return [edit(requests[index]) for index in batch]  # type: ignore[operator]

    patches.setattr(InstructPix2PixEditor, "_edit", edits)
    run(load("train", [*world.overrides, *SHORT, f"output_dir={output}", *overrides]))  # type: ignore[arg-type]


def pictures(folder: Path) -> list[np.ndarray]:
    """All pictures under ``folder``, also those within pages, but for the drawing."""
    found = [p.read_bytes() for p in folder.rglob("*.png") if not p.name.startswith("tradeoff")]
    for page in folder.rglob("*.html"):
        found += [
            base64.b64decode(code) for code in re.findall(r"base64,([^\"]*)", page.read_text())
        ]
    return [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in found]


def shows_an_original(picture: np.ndarray, world: World) -> bool:
    originals = [np.asarray(Image.open(path)) for path in world.photos.iterdir()]
    return any(
        original.shape == picture.shape and (original == picture).mean() > 0.99
        for original in originals
    )


@pytest.fixture(scope="module")
def tracked(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a good editor, killed after step 3 and started again."""
    output = tmp_path_factory.mktemp("tracked") / "run"
    with pytest.MonkeyPatch.context() as patches:
        interrupt_after(patches, 3)
        with pytest.raises(Interrupted):
            train(world, output, patches, redacted, "logger=wandb")
    with pytest.MonkeyPatch.context() as patches:
        train(world, output, patches, redacted, "logger=wandb")
    return output


def test_the_run_goes_on_under_its_id_with_all_that_users_look_for(tracked: Path) -> None:
    state = read_run(tracked) or {}
    stored = sorted(tracked.glob("wandb/offline-run-*/run-*.wandb"))
    assert [path.name for path in stored] == [f"run-{state['fingerprint']}.wandb"] * 2
    rows = history(tracked)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 3, 4]
    validated = {row["step"]: row for row in rows if "validation/privacy" in row}
    assert set(validated) == {2, 4}
    for row in validated.values():
        assert "validation/ssim_outside" in row
        for name in ("privacy", "fidelity", "balance"):
            assert 0 <= float(row[f"validation/{name}"]) <= 1  # type: ignore[arg-type]
        assert row["validation/tradeoff/_type"] == "image-file"
        assert row["validation/points/_type"] == "table-file"
        assert row["validation/edits/_type"] == "html-file"
    kinds: dict[str, dict[str, object]] = {"config": {}, "summary": {}}
    steps_of = set()
    for path in stored:
        for record in stored_records(path):
            kind = record.WhichOneof("record_type")  # type: ignore[attr-defined]
            if kind == "run":
                kinds["config"] |= values_of(record.run.config.update)  # type: ignore[attr-defined]
            elif kind == "summary":
                kinds["summary"] |= values_of(record.summary.update)  # type: ignore[attr-defined]
            elif kind == "metric":
                steps_of.add(record.metric.step_metric)  # type: ignore[attr-defined]
    assert kinds["config"]["validation"]["every"] == 2  # type: ignore[index]
    assert kinds["summary"]["validation/best_step"] == state["validation"]["best"]
    assert "step" in steps_of


def test_publishable_edits_are_shown_with_their_public_captions(tracked: Path) -> None:
    shown = pictures(tracked / "wandb")
    assert shown
    pages = [page.read_text() for page in (tracked / "wandb").rglob("*.html")]
    assert all("a person outdoors" in page and "anonymized" in page for page in pages)


def test_no_original_and_nothing_private_is_in_it(world: World, tracked: Path) -> None:
    assert not any(shows_an_original(picture, world) for picture in pictures(tracked / "wandb"))
    files = [path for path in (tracked / "wandb").rglob("*") if path.is_file()]
    content = b"".join(str(path.name).encode() + path.read_bytes() for path in files)
    for private in (SECRET, str(world.root), str(tracked)):
        assert private.encode() not in content
    for path in (tracked / "validation").glob("*.json"):
        assert SECRET not in path.read_text()


@pytest.mark.parametrize("logger", ["wandb", pytest.param("tensorboard", marks=pytest.mark.slow)])
def test_a_cheating_editors_pictures_reach_no_tracker(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str
) -> None:
    short = ["trainer.max_steps=1", "logger.log_private=false", f"logger={logger}"]
    train(world, tmp_path / "run", monkeypatch, copied, *short)
    assert pictures(tmp_path / "run") == []
    if logger == "tensorboard":
        (events,) = (tmp_path / "run/tensorboard").iterdir()
        content = events.read_bytes()
        assert content.count(b"\x89PNG") == 1  # the drawing
        assert b"needs_review" in content
    (result,) = (tmp_path / "run/validation").glob("*.json")
    (point,) = json.loads(result.read_text())["points"]
    assert point["privacy"] == 0.0  # and it is not worth much
    assert point["fidelity"] == 1.0


@pytest.mark.slow
def test_originals_are_shown_only_when_asked_for(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["trainer.max_steps=1", "logger=wandb", "logger.log_private=true"]
    train(world, tmp_path / "run", monkeypatch, copied, *asked)
    shown = pictures(tmp_path / "run/wandb")
    # of a cheater's edits none is shown, whatever is asked for: each original is there once
    held = json.loads((tmp_path / "run/checkpoints/held_out.json").read_text())
    assert len(shown) == len(held)
    assert all(shows_an_original(picture, world) for picture in shown)


def test_doubt_means_that_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load("train")
    judge = Publishable(config.vision, 1)
    picture = np.zeros((16, 16, 3), np.uint8)
    request = EditRequest(picture, np.zeros((16, 16), np.float32), (), "", "", 0)

    def fails(*_: object) -> None:
        raise RuntimeError("no detector")

    monkeypatch.setattr("unsafe2safe.jobs.publishable.verify", fails)
    assert judge(request, picture, object()) is OutcomeState.FAILED  # type: ignore[arg-type]

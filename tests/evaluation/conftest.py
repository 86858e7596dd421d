"""A small run and its evaluation with all metrics, made once and shared."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation.make_run import Fate, make_run

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.records import Box, Category, OutcomeState, RunResult
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.jobs import evaluate

# the name of a file may be private too
PORTRAIT = "Erika Mustermann.jpg"
SOURCES = {
    PORTRAIT: "astronaut.jpg",
    "cat.jpg": "cat.jpg",
    "held.jpg": "vice_president.jpg",
    "note.jpg": "coffee_note.jpg",
}


def photo(name: str) -> np.ndarray:
    return decode_file(photos_folder() / SOURCES[name], name).pixels


def covered(pixels: np.ndarray, box: Box) -> np.ndarray:
    edited = pixels.copy()
    rows, columns = slice(int(box.y), int(box.bottom)), slice(int(box.x), int(box.right))
    edited[rows, columns] = cv2.GaussianBlur(edited, (0, 0), 25)[rows, columns]
    return edited


@dataclass(frozen=True)
class World:
    root: Path
    originals: Path
    run: Path

    def config(self, *overrides: str, metrics: Sequence[str] | None = None) -> Evaluate:
        places = [f"paths.runs={self.root / 'outputs'}", f"paths.private={self.root / 'private'}"]
        dataset = ["dataset=folder", f"dataset.root={self.originals}"]
        made = load("evaluate", [*dataset, *places, "engine.threads=2", *overrides])
        assert isinstance(made, Evaluate)
        if metrics is not None:
            made = made.model_copy(update={"metrics": {n: made.metrics[n] for n in metrics}})
        return made


def make_world(root: Path) -> World:
    originals = root / "originals"
    originals.mkdir(parents=True)
    for name, source in SOURCES.items():
        shutil.copyfile(photos_folder() / source, originals / name)
    (originals / "damaged.jpg").write_bytes((photos_folder() / "cat.jpg").read_bytes()[:5000])
    face, note = Box(160, 30, 130, 170), Box(330, 200, 270, 200)
    fates = {
        PORTRAIT: Fate(
            covered(photo(PORTRAIT), face),
            published_as="0123abcd.png",
            boxes=[(face, Category.FACE)],
        ),
        "cat.jpg": Fate(photo("cat.jpg"), state=OutcomeState.SAFE),
        "damaged.jpg": Fate(state=OutcomeState.FAILED, reason="truncated"),
        "held.jpg": Fate(
            state=OutcomeState.NEEDS_REVIEW,
            reason="a face is still found",
            boxes=[(Box(196, 79, 137, 189), Category.FACE)],
        ),
        "note.jpg": Fate(covered(photo("note.jpg"), note), boxes=[(note, Category.TEXT)]),
    }
    run = make_run(root, ["dataset=folder", f"dataset.root={originals}"], fates)
    return World(root, originals, run)


@pytest.fixture
def new_world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def evaluated(world: World) -> RunResult:
    return evaluate.run(world.config(f"runs=[{world.run}]", "engine.unit_size=2"))


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("unsafe2safe.evaluation.runner.Runner._write", forbidden)

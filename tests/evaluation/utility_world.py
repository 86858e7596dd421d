"""A small Caltech101 whose classes are plain textures, and runs over it whose worth is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evaluation.make_run import Fate, make_run, png

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.records import OutcomeState
from unsafe2safe.evaluation.results import Evaluation, UtilityTable
from unsafe2safe.jobs import evaluate

CLASSES = ("checks", "discs", "lines", "noise")
EACH, SIDE = 10, 48
HELD, SAFE = range(2), range(2, 6)  # numbers of a class's images that the runs hold or keep


def texture(kind: str, number: int) -> np.ndarray:
    """(SIDE, SIDE, 3): one class's picture, in colours and phases of its own."""
    rng = np.random.default_rng([CLASSES.index(kind), number])
    y, x = np.mgrid[:SIDE, :SIDE] + rng.integers(0, 8, 2)[:, None, None]
    drawn = {
        "checks": ((x // 6 + y // 6) % 2).astype(float),
        "discs": ((x % 16 - 8) ** 2 + (y % 16 - 8) ** 2 < 36).astype(float),
        "lines": ((x // 3) % 2).astype(float),
        "noise": rng.random((SIDE, SIDE)),
    }[kind]
    low, high = rng.integers(0, 90, 3), rng.integers(150, 256, 3)
    return (low + drawn[..., None] * (high - low)).astype(np.uint8)


def grey(kind: str, number: int) -> np.ndarray:
    return np.full_like(texture(kind, number), 127)


@dataclass(frozen=True)
class UtilityWorld:
    """``good`` publishes the originals as they are, ``grey`` nothing of them; both hold back the
    first two images of a class, and find the next four safe."""

    root: Path
    good: Path
    grey: Path

    @property
    def originals(self) -> Path:
        return self.root / "data" / "101_ObjectCategories"

    def config(self, *overrides: str) -> Evaluate:
        places = [f"paths.runs={self.root / 'outputs'}", f"paths.private={self.root / 'private'}"]
        chosen = [*dataset(self.root), *places, "engine.threads=2", "references=[]", *overrides]
        made = load("evaluate", chosen)
        assert isinstance(made, Evaluate)
        return made.model_copy(update={"metrics": {"ssim": made.metrics["ssim"]}})

    def evaluate(self, *overrides: str) -> tuple[UtilityTable, ...]:
        runs = f"runs=[{self.good},{self.grey}]"
        result = evaluate.run(self.config(runs, *overrides))
        return Evaluation.read(result.output_dir / "metrics.json").utility


def dataset(root: Path) -> list[str]:
    return ["dataset=caltech101", f"dataset.root={root / 'data'}"]


def image_id(kind: str, number: int) -> str:
    return f"101_ObjectCategories/{kind}/image_{number:04d}.png"


def fates(made) -> dict[str, Fate]:
    found = {}
    for kind in CLASSES:
        for number in range(EACH):
            if number in HELD:
                fate = Fate(state=OutcomeState.NEEDS_REVIEW, reason="a face is still found")
            elif number in SAFE:
                fate = Fate(texture(kind, number), OutcomeState.SAFE)
            else:
                fate = Fate(made(kind, number))
            if fate.pixels is not None:
                fate = Fate(fate.pixels, fate.state, published_as=f"{kind}-{number}.png")
            found[image_id(kind, number)] = fate
    return found


def make_world(root: Path) -> UtilityWorld:
    for kind in CLASSES:
        folder = root / "data" / "101_ObjectCategories" / kind
        folder.mkdir(parents=True)
        for number in range(EACH):
            (folder / f"image_{number:04d}.png").write_bytes(png(texture(kind, number)))
    good = make_run(root, dataset(root), fates(texture), "good")
    destroyer = {
        name: Fate(grey("noise", 0), fate.state, published_as=fate.published_as)
        if fate.pixels is not None
        else fate
        for name, fate in fates(texture).items()
    }
    return UtilityWorld(root, good, make_run(root, dataset(root), destroyer, "grey"))

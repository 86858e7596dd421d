"""A small data set with the run of Stage 1 behind it, made without a model; and its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.pseudonyms import restore, true_names
from unsafe2safe.core.records import (
    Box,
    Category,
    Outcome,
    PrivacyFlag,
    Provenance,
    Region,
    RunResult,
    Triplet,
    TripletState,
)
from unsafe2safe.core.tables import read_records, write_records
from unsafe2safe.editors.base import Editor
from unsafe2safe.jobs import anonymize
from unsafe2safe.jobs.common import run_spec

UNITS = ("engine.unit_size=4", "batch_size=2")
SIDES = ((96, 64), (64, 96), (80, 80))
_SAFE_EVERY, _REVIEW_EVERY = 5, 7


@dataclass(frozen=True)
class World:
    root: Path
    count: int

    @property
    def triplets(self) -> Path:
        return self.root / "triplets"

    @property
    def private(self) -> Path:
        return self.root / "private"

    def overrides(self, *more: str) -> list[str]:
        return [
            "dataset=folder", f"dataset.root={self.root / 'images'}", "engine.threads=1",
            f"paths.runs={self.root / 'runs'}", f"paths.private={self.private}",
            f"triplets={self.triplets}", *more,
        ]  # fmt: skip

    def config(self, *more: str) -> Anonymize:
        config = load("anonymize", self.overrides(*more))
        assert isinstance(config, Anonymize)
        return config

    def run(self, output: str, *more: str, editor: Editor | None = None) -> RunResult:
        """anonymize.py into ``root / output``, in this process."""
        return anonymize.run(self.config(f"output_dir={self.root / output}", *more), editor=editor)

    def outcomes(self, run: Path) -> dict[str, Outcome]:
        """The manifest by the true names."""
        ids = [path.name for path in (self.root / "images").iterdir()]
        names = true_names(self.private, ids)
        rows = read_records(run / "manifest.parquet", Outcome)
        return {row.image_id: row for row in (restore(row, names) for row in rows)}

    def written(self, output: str) -> dict[str, bytes]:
        """All that a run wrote, public and private, but run.json, which has a clock, and locks."""
        run = self.root / output
        public = {
            path.relative_to(run).as_posix(): path.read_bytes()
            for path in run.rglob("*")
            if path.is_file() and not path.name.startswith(".lock") and path.name != "run.json"
        }
        shares = list((self.private / "anonymize").glob(f"{output}-*"))
        private = {
            f"private/{path.relative_to(share).as_posix()}": path.read_bytes()
            for share in shares
            for path in share.rglob("*")
            if path.is_file()
        }
        return {**public, **private}


def make_world(root: Path, count: int = 12) -> World:
    """Smooth pictures of three shapes with a busy patch that Stage 1 calls text; every fifth one
    is called safe, and of every seventh it knows nothing."""
    world = World(root, count)
    (root / "images").mkdir(parents=True)
    draw = np.random.default_rng(5)
    triplets, regions = [], []
    for number in range(count):
        width, height = SIDES[number % len(SIDES)]
        image_id = f"person_{number:04d}.png"
        safe = number % _SAFE_EVERY == 2
        _write(root / "images" / image_id, width, height, draw, patch=not safe)
        review = number % _REVIEW_EVERY == 3
        triplets.append(_triplet(image_id, safe=safe, review=review))
        if not safe:
            regions.append(Region(image_id, Box(16, 16, 32, 24), Category.TEXT, 0.9, "planted"))
    _write_triplets(world, triplets, regions)
    return world


def _write(path: Path, width: int, height: int, draw: np.random.Generator, patch: bool) -> None:
    across = np.linspace(40, 200, width)[None, :, None]
    down = np.linspace(0, 40, height)[:, None, None]
    pixels = (across + down + draw.integers(0, 3, (height, width, 3))).clip(0, 255)
    if patch:
        pixels[16:40, 16:48] = draw.integers(0, 256, (6, 8, 3)).repeat(4, 0).repeat(4, 1)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def _triplet(image_id: str, safe: bool, review: bool) -> Triplet:
    return Triplet(
        image_id=image_id,
        privacy_flag=PrivacyFlag.SAFE if safe else PrivacyFlag.UNSAFE,
        state=TripletState.NEEDS_REVIEW if review else TripletState.COMPLETE,
        public_caption="A photo.",
        edit_instruction="Replace all text with plain strokes.",
        combined_caption=None,
        reason="not parsed" if review else "",
        provenance=Provenance(model="planted"),
    )


def _write_triplets(world: World, triplets: Sequence[Triplet], regions: Sequence[Region]) -> None:
    config = load(
        "generate_triplets",
        ["dataset=folder", f"dataset.root={world.root / 'images'}",
         f"output_dir={world.triplets}", f"paths.private={world.private}"],
    )  # fmt: skip
    with RunFolder.open(run_spec(config, "generate_triplets", "planted"), "resume") as folder:
        write_records(folder.path / "triplets" / "part-000000.parquet", Triplet, triplets)
        write_records(folder.path / "regions" / "part-000000.parquet", Region, regions)
        folder.finish({"images": len(triplets)})

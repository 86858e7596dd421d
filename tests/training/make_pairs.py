"""A small data set and a complete anonymize.py run over it, as train.py reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_common import Common
from unsafe2safe.core.ledger import RunFolder, RunSpec, dataset_key, fingerprint
from unsafe2safe.core.records import Box, Category, Pair, Region
from unsafe2safe.core.tables import write_records
from unsafe2safe.jobs.common import plain

CAPTION = "a person outdoors"


@dataclass(frozen=True)
class World:
    """Folders of the made world; ``overrides`` point train.py at it."""

    root: Path
    photos: Path
    pairs: Path

    @property
    def overrides(self) -> list[str]:
        return [
            "dataset=folder",
            f"dataset.root={self.photos}",
            f"pairs={self.pairs}",
            f"paths.runs={self.root / 'outputs'}",
            f"paths.private={self.root / 'private'}",
        ]


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Colour fields with a disc: structured, and different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    field = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).copy()
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 < (height // 4) ** 2
    field[disc] = rng.integers(0, 256, 3)
    return field


def disc_region(name: str, height: int, width: int) -> Region:
    """Where :func:`picture` draws its disc."""
    radius = height // 4
    box = Box(width // 2 - radius, height // 2 - radius, 2 * radius, 2 * radius)
    return Region(name, box, Category.FACE, 0.9, "made")


def make_world(
    root: Path,
    count: int = 4,
    bad: tuple[int, ...] = (),
    *,
    regions: bool = False,
    prefix: str = "p",
) -> World:
    """``count`` pairs, whose targets have the disc in another colour; those in ``bad`` are of
    another size than their source. With ``regions`` the disc is what was found sensitive.
    File names begin with ``prefix``."""
    photos, run = root / "photos", root / "anonymized"
    photos.mkdir(parents=True)
    names = [f"{prefix}{index:02d}.png" for index in range(count)]
    for index, name in enumerate(names):
        Image.fromarray(picture(index, 70 + index, 90)).save(photos / name)
    config = load("train", ["dataset=folder", f"dataset.root={photos}"])
    assert isinstance(config, Common)
    spec = RunSpec(
        "anonymize",
        run,
        root / "private",
        {"made": fingerprint({"count": count, "bad": list(bad), "regions": regions})},
        {},
        dataset_key(plain(config)["dataset"]),
    )
    with RunFolder.open(spec, "resume") as folder:
        rows = []
        for index, name in enumerate(names):
            target = picture(index, 70 + index + (index in bad), 90)[..., ::-1]
            path = run / "published" / name
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.ascontiguousarray(target)).save(path)
            found = (disc_region(name, 70 + index, 90),) if regions else ()
            instruction = f"give the person {('red', 'green', 'blue')[index % 3]} hair"
            rows.append(Pair(name, name, f"published/{name}", CAPTION, instruction, found))
        write_records(run / "pairs" / "part-000000.parquet", Pair, rows)
        folder.finish({"published": count})
    return World(root, photos, run)

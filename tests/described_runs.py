"""Runs of anonymize.py on pictures whose regions are written down instead of looked for."""

from __future__ import annotations

from miniatures import write_triplets_run
from PIL import Image

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.pseudonyms import restore, true_names
from unsafe2safe.core.records import (
    Category,
    Outcome,
    PrivacyFlag,
    Provenance,
    Region,
    Triplet,
    TripletState,
)
from unsafe2safe.core.tables import read_records
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.jobs import anonymize


def common(root):
    return (
        "dataset=folder", f"dataset.root={root / 'images'}", f"paths.runs={root / 'runs'}",
        f"paths.private={root / 'private'}", "publish.format=png", "verify.max_attempts=3",
    )  # fmt: skip


def small(photo, size):
    return Image.open(photos_folder() / photo).convert("RGB").resize(size, Image.Resampling.LANCZOS)


def region(image_id, box, category=Category.FACE):
    return Region(image_id, box, category, 1.0, "test")


def described(root, regions, image_ids, dataset=()):
    """A run of Stage 1 that found these regions, and nothing else in these images."""
    config = load("generate_triplets", [*common(root)[:4], *dataset])
    triplets = []
    for image_id in sorted(image_ids):
        found = sorted({str(r.category) for r in regions if r.image_id == image_id})
        triplets.append(
            Triplet(
                image_id=image_id,
                privacy_flag=PrivacyFlag.UNSAFE if found else PrivacyFlag.SAFE,
                state=TripletState.COMPLETE,
                public_caption="A picture.",
                edit_instruction="Change it.",
                combined_caption=None,
                reason=", ".join(found),
                provenance=Provenance("none"),
            )
        )
    return write_triplets_run(config, root / "triplets", triplets, regions, "private")


def run(root, *overrides, editor=None):
    config = load("anonymize", [*common(root), f"triplets={root / 'triplets'}", *overrides])
    result = anonymize.run(config, editor=editor)
    files = (path for path in (root / "images").rglob("*") if path.is_file())
    names = true_names(
        root / "private", [path.relative_to(root / "images").as_posix() for path in files]
    )
    rows = read_records(result.output_dir / "manifest.parquet", Outcome)
    return result, {row.image_id: row for row in (restore(row, names) for row in rows)}

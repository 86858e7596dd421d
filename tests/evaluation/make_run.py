"""Runs of generate_triplets.py and anonymize.py as their scripts would leave them, in seconds."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.files import make_private, write_bytes
from unsafe2safe.core.ledger import RunFolder, RunSpec
from unsafe2safe.core.records import (
    Box,
    Category,
    Outcome,
    OutcomeState,
    PrivacyFlag,
    PrivateRecord,
    Provenance,
    Region,
    Triplet,
    TripletState,
)
from unsafe2safe.core.tables import write_records
from unsafe2safe.jobs.common import run_spec


@dataclass(frozen=True)
class Fate:
    """What became of an image: its published pixels, or why there are none."""

    pixels: np.ndarray | None = None
    state: OutcomeState = OutcomeState.ANONYMIZED
    reason: str = ""
    published_as: str | None = None
    boxes: Sequence[tuple[Box, Category]] = ()
    private_caption: str = "Marta Lindqvist in front of the Ostertor clinic."


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_run(
    root: Path, overrides: Sequence[str], fates: Mapping[str, Fate], name: str = "run"
) -> Path:
    """A complete anonymize run under ``root/outputs`` with the triplets run behind it."""
    places = [f"paths.runs={root / 'outputs'}", f"paths.private={root / 'private'}"]
    config = load("anonymize", [*overrides, *places, f"output_dir={root / 'outputs' / name}"])
    triplets = _triplets(root / "outputs" / f"{name}-triplets", config, fates)
    spec = run_spec(config, "anonymize", "redact", {"triplets": triplets})
    with RunFolder.open(spec, "resume") as folder:
        outcomes = []
        for image_id, fate in sorted(fates.items()):
            published_as, digest = None, ""
            if fate.pixels is not None:
                content = png(fate.pixels)
                published_as = fate.published_as or f"{Path(image_id).stem}.png"
                digest = hashlib.sha256(content).hexdigest()
                write_bytes(folder.path / "published" / published_as, content)
            outcomes.append(
                Outcome(
                    image_id=image_id,
                    state=fate.state,
                    reason=fate.reason,
                    published_as=published_as,
                    editor="redact",
                    adapter="",
                    attempts=(),
                    input_hmac="",
                    output_sha256=digest,
                    provenance=Provenance(model="redact"),
                )
            )
        write_records(folder.path / "manifest.parquet", Outcome, outcomes)
        folder.finish({"images": len(outcomes)}, inputs={"triplets": str(triplets)})
    return folder.path


def _triplets(path: Path, config, fates: Mapping[str, Fate]) -> Path:
    spec = run_spec(config, "generate_triplets", "detectors")
    spec = RunSpec(spec.script, path, spec.private_root, {}, spec.config, spec.dataset_key)
    with RunFolder.open(spec, "resume") as folder:
        triplets = [
            Triplet(
                image_id=image_id,
                privacy_flag=PrivacyFlag.UNSAFE if fate.boxes else PrivacyFlag.SAFE,
                state=TripletState.COMPLETE,
                public_caption="A picture.",
                edit_instruction="",
                combined_caption=None,
                reason="",
                provenance=Provenance(model="detectors"),
            )
            for image_id, fate in sorted(fates.items())
        ]
        regions = [
            Region(image_id=image_id, box=box, category=category, score=0.9, source="test")
            for image_id, fate in sorted(fates.items())
            for box, category in fate.boxes
        ]
        write_records(path / "triplets" / "part-000000.parquet", Triplet, triplets)
        write_records(path / "regions" / "part-000000.parquet", Region, regions)
        private = [
            PrivateRecord(image_id, fate.private_caption, ())
            for image_id, fate in sorted(fates.items())
        ]
        make_private(folder.private / "private")
        write_records(folder.private / "private" / "part-000000.parquet", PrivateRecord, private)
        folder.finish({"images": len(triplets)})
    return path

"""A complete run folder of anonymize.py made by the store itself, in milliseconds: no model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.files import KeyedHash, write_bytes
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.records import (
    Attempt,
    Box,
    Category,
    Check,
    ImageRecord,
    Outcome,
    OutcomeState,
    Pair,
    Provenance,
    Region,
)
from unsafe2safe.core.units import UnitCut, cut_units
from unsafe2safe.data.encode import encode
from unsafe2safe.jobs.common import run_spec
from unsafe2safe.jobs.outcome_store import OutcomeStore

UNIT_SIZE = 3
HELD_BACK = "held_back"  # part of the names of images that are not published
RENAMED = "anna_weber"  # part of the name of one that is published under another name


@dataclass
class Picture:
    """A published file's bytes and what the manifest says of their size."""

    content: bytes
    size: tuple[int, int] = (24, 16)


@dataclass
class PublishedRun:
    root: Path
    pictures: dict[str, Picture] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.root / "run"

    @property
    def private(self) -> Path:
        return self.root / "private"


def ids() -> list[str]:
    names = [f"folder/photo_{number}.jpg" for number in range(5)]
    return sorted([*names, f"{HELD_BACK}_a.jpg", f"{HELD_BACK}_b.jpg", f"{RENAMED}.jpg"])


def picture(number: int, kind: str = "JPEG") -> Picture:
    pixels = np.random.default_rng(number).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    return Picture(encode(pixels, kind, quality=90))


def make_published_run(root: Path, **replaced: Picture) -> PublishedRun:
    """Eight images in three units, two of them held back and one renamed; with an annotation file
    beside the pictures. ``replaced`` pictures stand for those of the images so called."""
    made = PublishedRun(root)
    config = load(
        "anonymize", [f"output_dir={made.folder}", f"paths.private={made.private}",
                      f"engine.unit_size={UNIT_SIZE}"],
    )  # fmt: skip
    assert isinstance(config, Anonymize)
    records = [ImageRecord(name, root / name, licence="CC BY 4.0") for name in ids()]
    cut = UnitCut.of(ids(), UNIT_SIZE)
    with RunFolder.open(run_spec(config, "anonymize", "redact"), "resume") as folder:
        folder.keep_to(cut)
        keyed = KeyedHash(made.private)
        store = OutcomeStore(folder, cut, keyed)
        for unit in cut_units(ids(), UNIT_SIZE):
            outcomes, pairs = [], []
            for image_id in unit.image_ids:
                number = ids().index(image_id)
                chosen = replaced.get(Path(image_id).stem, picture(number))
                outcomes.append(_outcome(image_id, number, chosen, store, keyed))
                if outcomes[-1].published_as is not None:
                    pairs.append(_pair(outcomes[-1]))
            store.write(unit, outcomes, pairs)

        def annotate(published):
            path = store.published / "annotations.json"
            path.write_text(f'{{"images": {sum(1 for _ in published)}}}')
            return [path]

        store.complete(config, records, {}, annotate)
    return made


def _outcome(
    image_id: str, number: int, chosen: Picture, store: OutcomeStore, keyed: KeyedHash
) -> Outcome:
    checks = (Check("outside_ssim", 0.9 + number / 100, 0.8, True),)
    held_back = HELD_BACK in image_id
    name = None if held_back else image_id
    if RENAMED in image_id:
        name = keyed.digest(image_id.encode())[:24] + ".jpg"
    if name is not None:
        write_bytes(store.published / name, chosen.content)
    return Outcome(
        image_id=image_id,
        state=OutcomeState.NEEDS_REVIEW if held_back else OutcomeState.ANONYMIZED,
        reason="not verified: faces_found" if held_back else "",
        published_as=name,
        editor="redact",
        adapter="",
        attempts=(Attempt("redact", 0, 7 * number, checks),),
        input_hmac=keyed.digest(str(number).encode()),
        output_sha256="" if held_back else hashlib.sha256(chosen.content).hexdigest(),
        provenance=Provenance(model="redact"),
        width=0 if held_back else chosen.size[0],
        height=0 if held_back else chosen.size[1],
    )


def _pair(outcome: Outcome) -> Pair:
    region = Region(outcome.image_id, Box(1, 1, 5, 5), Category.FACE, 0.9, "planted")
    return Pair(
        image_id=outcome.image_id,
        source=outcome.image_id,
        target=f"published/{outcome.published_as}",
        public_caption="A photo.",
        edit_instruction="Change the face.",
        regions=(region,),
    )

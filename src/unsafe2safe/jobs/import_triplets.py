"""Ready-made triplets and pairs as a run of generate_triplets.py: ``mode=import``.

What a table does not say is not assumed: an image without a row, without a readable flag or without
its texts is unsafe and to be reviewed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unsafe2safe.core.config.schema import GenerateTriplets, ImportTable
from unsafe2safe.core.errors import UnreadableImage, UsageError, describe_fault
from unsafe2safe.core.files import KeyedHash, inside, write_bytes, write_text
from unsafe2safe.core.ledger import RunFolder, RunSpec, dataset_key, fingerprint, result_keys
from unsafe2safe.core.records import (
    Finding,
    ImageRecord,
    Pair,
    PrivacyFlag,
    PrivateRecord,
    Provenance,
    RunResult,
    Triplet,
    TripletState,
    WorkUnit,
)
from unsafe2safe.core.tables import count_rows, write_records
from unsafe2safe.core.units import UnitCut, cut_units
from unsafe2safe.data.decode import DecodedImage, decode_bytes, read_file
from unsafe2safe.data.encode import encode
from unsafe2safe.data.source import ImageSource
from unsafe2safe.data.triplet_table import TableRow, TripletTable
from unsafe2safe.engines.local import run_units
from unsafe2safe.jobs.common import open_source, plain, result_of
from unsafe2safe.jobs.triplet_store import TripletStore
from unsafe2safe.stage1.base import Described, failed
from unsafe2safe.stage1.detectors import regions_of
from unsafe2safe.stage1.guard import PrivateSide, find_leaks
from unsafe2safe.stage1.inspect import inspect
from unsafe2safe.vision.perception import Perception

log = logging.getLogger("unsafe2safe")

_SCRIPT = "generate_triplets"
# Leaks of an image's own secrets. The guard's other kinds (demographic words, brands, ...) stand
# in most texts that other tools made; for those the table's owner vouches.
_OWN = frozenset({"text", "contact", "name", "finding"})


def run(config: GenerateTriplets, table: ImportTable) -> RunResult:
    """Write the triplets of a table for the images of the data set, and its pairs if it has any.

    Raises:
        UsageError: the table cannot be read, or names none of the images.
    """
    if table.file is None:
        raise UsageError("mode=import needs table.file=... (CSV, TSV, JSONL or Parquet)")
    opened = TripletTable.open(table.file, table.columns)
    source = open_source(config)
    image_ids = [record.image_id for record in source.records()]
    with RunFolder.open(_spec(config, table, opened), config.existing) as folder:
        cut = UnitCut.of(image_ids, config.engine.unit_size)
        folder.keep_to(cut)
        store = TripletStore(folder, cut)
        finished = store.finished()
        if not folder.complete or len(finished) < cut.units:
            rows = _Rows(opened, image_ids)
            importer = _Importer(config, table, opened, source, rows, folder)

            def work(unit: WorkUnit, advance: Callable[[], None]) -> None:
                store.write(unit, importer.unit(unit, advance))

            units = cut_units(image_ids, config.engine.unit_size)
            run_units(units, lambda unit: unit.index in finished, work, "import")
            _tell_unmatched(folder, rows.unmatched)
            folder.state["imported"] = {
                "columns": dict(opened.columns),
                "rows": rows.count,
                "unmatched": len(rows.unmatched),
                "pairs": _count_pairs(folder.path),
            }
            store.complete(config)
        return _result(folder)


def _spec(config: GenerateTriplets, table: ImportTable, opened: TripletTable) -> RunSpec:
    """The run is identified by what stands in the table, not by where the table lies.

    Its hash is keyed: a plain one would tell whoever holds the private captions that these are
    they.
    """
    content = plain(config)
    with opened.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    keys = {
        **result_keys(content, ("stage1", "table")),
        **{f"table.columns.{role}": name for role, name in sorted(opened.columns.items())},
        "table.content": KeyedHash(config.paths.private).digest(digest),
        "table.regions": table.regions,
    }
    name = f"{config.dataset['name']}-import-{fingerprint(keys)}"
    output_dir = config.output_dir or config.paths.runs / _SCRIPT / name
    key = dataset_key(content["dataset"])
    return RunSpec(_SCRIPT, output_dir, config.paths.private, keys, content, key)


class _Rows:
    """The rows of a table by image: by its id, else by its file name where that names one only."""

    def __init__(self, table: TripletTable, image_ids: Sequence[str]) -> None:
        known = set(image_ids)
        names: dict[str, str | None] = {}
        for image_id in image_ids:
            name = PurePosixPath(image_id).name
            names[name] = None if name in names else image_id
        self.by_image: dict[str, TableRow] = {}
        self.doubled: set[str] = set()
        self.unmatched: list[TableRow] = []
        self.count = 0
        for row in table.rows():
            self.count += 1
            found = row.image_id if row.image_id in known else None
            if found is None and not row.fault:
                found = names.get(PurePosixPath(row.image_id).name)
            if found is None:
                self.unmatched.append(row)
            elif found in self.by_image and not _agree(self.by_image[found], row):
                self.doubled.add(found)
            else:
                self.by_image.setdefault(found, row)
        if not self.by_image:
            raise UsageError(
                f"none of {self.count} rows of {table.path} names an image of the data set "
                f"(column {table.columns['image_id']!r}; an id looks like {image_ids[0]!r})"
            )


def _agree(first: TableRow, second: TableRow) -> bool:
    def content(row: TableRow) -> tuple[Any, ...]:
        return (row.flag, row.public_caption, row.edit_instruction, row.combined_caption,
                row.private_caption, row.number if row.embedded else row.target)  # fmt: skip

    return content(first) == content(second)


@dataclass(eq=False)
class _Importer:
    config: GenerateTriplets
    table: ImportTable
    opened: TripletTable
    source: ImageSource
    rows: _Rows
    folder: RunFolder

    def __post_init__(self) -> None:
        self.model = f"import:{self.opened.format}"
        self.perception = Perception(self.config.vision, self.config.engine.threads)

    def unit(self, unit: WorkUnit, advance: Callable[[], None]) -> list[Described]:
        """Records of a unit; its pairs are written on the way, before its triplets."""
        described, pairs = [], []
        for image_id in unit.image_ids:
            try:
                item, pair = self._image(self.source.record(image_id))
            except UnreadableImage as error:
                item, pair = self._failed(image_id, error.reason), None
            except Exception as error:  # one bad image must not end the run
                item, pair = self._failed(image_id, f"import: {describe_fault(error)}"), None
            described.append(item)
            pairs += [pair] if pair else []
            advance()
        if "target" in self.opened.columns:
            write_records(self.folder.path / "pairs" / f"{unit.name}.parquet", Pair, pairs)
        return described

    def _failed(self, image_id: str, reason: str) -> Described:
        log.warning("%s: %s", image_id, reason)
        return failed(image_id, reason, self.model, self.config.seed)

    def _image(self, record: ImageRecord) -> tuple[Described, Pair | None]:
        image_id = record.image_id
        row = self.rows.by_image.get(image_id)
        if row is None:
            doubts = ["no row of the table names it"]
            return self._described(image_id, TableRow(0, image_id), doubts, ()), None
        doubts = _doubts(row)
        if image_id in self.rows.doubled:
            doubts.append("rows of the table contradict each other")
        image: DecodedImage | None = None
        findings: tuple[Finding, ...] = ()
        if self.table.regions == "detectors" or row.has_target:
            image = self.source.decode(record)
        if image is not None and self.table.regions == "detectors":
            findings = inspect([image], self.perception)[0].findings
        row, leaked = _without_leaks(row, findings)
        doubts += leaked
        described = self._described(image_id, row, doubts, findings)
        if image is None or described.triplet.state != TripletState.COMPLETE:
            return described, None
        return described, self._pair(described, row, image)

    def _described(
        self, image_id: str, row: TableRow, doubts: Sequence[str], findings: tuple[Finding, ...]
    ) -> Described:
        triplet = Triplet(
            image_id=image_id,
            privacy_flag=PrivacyFlag.UNSAFE if doubts or row.flag is None else row.flag,
            state=TripletState.NEEDS_REVIEW if doubts else TripletState.COMPLETE,
            public_caption=row.public_caption,
            edit_instruction=row.edit_instruction,
            combined_caption=row.combined_caption or None,
            reason="; ".join(doubts),
            provenance=Provenance(model=self.model, seed=self.config.seed),
        )
        private = PrivateRecord(image_id, row.private_caption, findings)
        return Described(triplet, private, regions_of(image_id, findings))

    def _pair(self, described: Described, row: TableRow, image: DecodedImage) -> Pair | None:
        """The pair of a row whose target can be trained on; what is wrong with others is logged."""
        image_id = described.triplet.image_id
        if not row.has_target or described.triplet.privacy_flag == PrivacyFlag.SAFE:
            return None
        try:
            content = self._target_content(image_id, row)
            target = decode_bytes(content, image_id, orientation=self.source.orientation).pixels
            if target.shape != image.pixels.shape:
                raise UnreadableImage(image_id, "differs in size from its source")
            if np.array_equal(target, image.pixels):
                raise UnreadableImage(image_id, "is its source, unedited")
        except UnreadableImage as error:
            log.warning("%s: no pair, the target %s", image_id, error.reason)
            return None
        name = f"targets/{image_id}.png"
        write_bytes(inside(self.folder.path, name), encode(target, "PNG", quality=100))
        return Pair(
            image_id=image_id,
            source=image_id,
            target=name,
            public_caption=row.public_caption,
            edit_instruction=row.edit_instruction,
            regions=described.regions,
            combined_caption=row.combined_caption or None,
        )

    def _target_content(self, image_id: str, row: TableRow) -> bytes:
        if row.embedded:
            return self.opened.picture(row.number)
        try:
            return read_file(inside(self.opened.path.parent, row.target), image_id)
        except UsageError:
            raise UnreadableImage(image_id, "leaves the folder of its table") from None


def _doubts(row: TableRow) -> list[str]:
    doubts = [] if row.flag else ["its privacy flag cannot be read"]
    if not row.public_caption:
        doubts.append("its public caption is empty")
    if not row.edit_instruction and row.flag != PrivacyFlag.SAFE:
        doubts.append("its edit instruction is empty")
    return doubts


def _without_leaks(row: TableRow, findings: tuple[Finding, ...]) -> tuple[TableRow, list[str]]:
    """The row without public texts that tell what is private; those move to the private side."""
    private = PrivateSide(findings, row.private_caption)
    leaking: dict[str, str] = {}
    doubts = []
    for name in ("public_caption", "edit_instruction", "combined_caption"):
        text = getattr(row, name)
        kinds = sorted({leak.kind for leak in find_leaks(text, private)} & _OWN)
        if kinds:
            leaking[name] = text
            doubts.append(f"its {name.replace('_', ' ')} leaks ({', '.join(kinds)})")
    if not leaking:
        return row, []
    kept = "; ".join(text for text in (row.private_caption, *leaking.values()) if text)
    changes = {**dict.fromkeys(leaking, ""), "private_caption": kept}
    return replace(row, **changes), doubts  # type: ignore[arg-type]


def _tell_unmatched(folder: RunFolder, rows: Sequence[TableRow]) -> None:
    """``unmatched.jsonl``: rows that belong to no image of the data set."""
    lines = [
        {
            "row": row.number,
            "image_id": row.image_id,
            "reason": row.fault or "names no image of the data set, or several",
        }
        for row in rows
    ]
    text = "".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in lines)
    write_text(folder.path / "unmatched.jsonl", text)


def _count_pairs(folder: Path) -> int:
    return sum(count_rows(path, Pair) for path in (folder / "pairs").glob("part-*.parquet"))


def _result(folder: RunFolder) -> RunResult:
    counts, told = folder.state["counts"], folder.state["imported"]
    bad = counts["failed"] + counts["needs_review"] + told["unmatched"]
    columns = ", ".join(f"{role} from {name!r}" for role, name in told["columns"].items())
    message = (
        f"{told['rows']} rows ({columns})\n"
        f"{counts['images']} images: {counts['safe']} safe, {counts['unsafe']} unsafe, "
        f"{counts['needs_review']} to review, {counts['failed']} failed\n"
    )
    if "privacy_flag" not in told["columns"]:
        message += "no column of privacy flags: every image counts as unsafe\n"
    if "target" in told["columns"]:
        message += f"{told['pairs']} training pairs: {folder.path / 'pairs'}\n"
    if told["unmatched"]:
        message += (
            f"{told['unmatched']} rows name no image of the data set: "
            f"{folder.path / 'unmatched.jsonl'}\n"
        )
    if counts["failed"] + counts["needs_review"]:
        message += f"what failed and why: {folder.path / 'failures.jsonl'}\n"
    message += f"triplets and regions: {folder.path}\nprivate captions: {folder.private}"
    return result_of(folder, bad, message, folder.path / "triplets", folder.path / "regions")

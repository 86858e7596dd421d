"""Stage 1 over a data set: ``generate_triplets.py``.

Each unit writes its private part, its regions and, last, its triplets: a unit is finished if and
only if its triplets part exists.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema import GenerateTriplets
from unsafe2safe.core.errors import UnreadableImage, describe_fault
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.records import (
    ImageRecord,
    PrivateRecord,
    Region,
    RunResult,
    Triplet,
    TripletState,
    WorkUnit,
)
from unsafe2safe.core.tables import read_parts, write_records
from unsafe2safe.core.units import cut_units
from unsafe2safe.data.decode import DecodedImage
from unsafe2safe.data.source import ImageSource
from unsafe2safe.engines.local import run_units
from unsafe2safe.jobs.common import open_source, result_of, run_spec, track_counts
from unsafe2safe.stage1.base import Described, Stage1, failed
from unsafe2safe.vision.perception import Perception

log = logging.getLogger("unsafe2safe")

_BATCH = 8  # images in memory at once


def run(config: GenerateTriplets) -> RunResult:
    """Write triplets and regions of the data set to the run folder, private records apart."""
    stage1 = build(config.stage1, "stage1", Stage1)  # type: ignore[type-abstract]
    source = open_source(config)
    spec = run_spec(config, "generate_triplets", stage1.name)
    with RunFolder.open(spec, config.existing) as folder:
        if not folder.complete:
            records = {record.image_id: record for record in source.records()}
            units = cut_units(list(records), config.engine.unit_size)
            writer = _Writer(folder, source, records, stage1, config)
            run_units(units, writer.finished, writer.write, "generate_triplets")
            writer.finish()
        return _result(folder)


class _Writer:
    def __init__(
        self,
        folder: RunFolder,
        source: ImageSource,
        records: dict[str, ImageRecord],
        stage1: Stage1,
        config: GenerateTriplets,
    ) -> None:
        self.folder, self.source, self.records = folder, source, records
        self.stage1, self.seed, self.config = stage1, config.seed, config
        self.perception = Perception(config.vision, config.engine.threads)
        self.triplets = folder.path / "triplets"
        self.regions = folder.path / "regions"
        self.private = folder.private / "private"

    def finished(self, unit: WorkUnit) -> bool:
        return _part(self.triplets, unit).exists()

    def write(self, unit: WorkUnit, advance: Callable[[], None]) -> None:
        described: list[Described] = []
        for batch in _batches(unit.image_ids):
            described.extend(self._describe(batch))
            for _ in batch:
                advance()
        private = [item.private for item in described]
        regions = [region for item in described for region in item.regions]
        write_records(_part(self.private, unit), PrivateRecord, private, mode=0o600)
        write_records(_part(self.regions, unit), Region, regions)
        write_records(_part(self.triplets, unit), Triplet, [item.triplet for item in described])

    def finish(self) -> None:
        counts: Counter[str] = Counter(images=0, safe=0, unsafe=0, needs_review=0, failed=0)
        failures = []
        for triplet in read_parts(self.triplets, Triplet):
            counts["images"] += 1
            if triplet.state == TripletState.COMPLETE:
                counts[triplet.privacy_flag] += 1
                continue
            counts[triplet.state] += 1
            failures.append(
                {"image_id": triplet.image_id, "state": triplet.state, "reason": triplet.reason}
            )
        self.folder.write_failures(failures)
        track_counts(self.config, self.folder, counts)
        self.folder.finish(counts)

    def _describe(self, image_ids: tuple[str, ...]) -> list[Described]:
        by_id: dict[str, Described] = {}
        readable: list[tuple[ImageRecord, DecodedImage]] = []
        for image_id in image_ids:
            try:
                readable.append(
                    (self.records[image_id], self.source.decode(self.records[image_id]))
                )
            except UnreadableImage as error:
                by_id[image_id] = self._failed(image_id, error.reason)
        try:
            results = self.stage1.describe(readable, self.perception, self.seed)
        except Exception:  # one bad image must not take its batch with it
            log.warning("a batch of %d images failed; trying them one by one", len(readable))
            results = [self._describe_one(record, image) for record, image in readable]
        by_id.update((item.triplet.image_id, item) for item in results)
        return [by_id[image_id] for image_id in image_ids]

    def _describe_one(self, record: ImageRecord, image: DecodedImage) -> Described:
        try:
            return self.stage1.describe([(record, image)], self.perception, self.seed)[0]
        except Exception as error:
            return self._failed(record.image_id, f"stage 1 raised {describe_fault(error)}")

    def _failed(self, image_id: str, reason: str) -> Described:
        log.warning("%s: %s", image_id, reason)
        return failed(image_id, reason, self.stage1.name, self.seed)


def _batches(image_ids: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(image_ids), _BATCH):
        yield image_ids[start : start + _BATCH]


def _part(root: Path, unit: WorkUnit) -> Path:
    return root / f"{unit.name}.parquet"


def _result(folder: RunFolder) -> RunResult:
    counts = folder.state["counts"]
    bad = counts["failed"] + counts["needs_review"]
    message = (
        f"{counts['images']} images: {counts['safe']} safe, {counts['unsafe']} unsafe, "
        f"{counts['needs_review']} to review, {counts['failed']} failed\n"
        f"triplets and regions: {folder.path}\n"
        f"private captions and findings: {folder.private}"
    )
    if bad:
        message += f"\nwhat failed and why: {folder.path / 'failures.jsonl'}"
    return result_of(folder, bad, message, folder.path / "triplets", folder.path / "regions")

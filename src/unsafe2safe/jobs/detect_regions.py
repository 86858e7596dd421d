"""``anonymize.py detect_only=true``: the regions that a run would begin with, and no edit.

They are Stage 1's, and what the strict detectors of verification see beside them. The run has a
folder of its own, of which a unit is finished if and only if its part of ``regions/`` exists; what
failed stands in that part's own metadata.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw

from unsafe2safe.anonymize.batches import batches_of
from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.anonymize.lookup import TripletLookup
from unsafe2safe.anonymize.preparation import Descriptions, Preparation
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.errors import UsageError, describe_fault
from unsafe2safe.core.files import KeyedHash, make_private, write_bytes
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.pseudonyms import Pseudonyms
from unsafe2safe.core.records import Category, ExitStatus, Region, RunResult, WorkUnit
from unsafe2safe.core.tables import count_rows, read_table, write_records
from unsafe2safe.core.units import UnitCut
from unsafe2safe.engines.local import run_units
from unsafe2safe.engines.overlap import prepared_ahead
from unsafe2safe.jobs.anonymize_run import Work, cut_to_merge
from unsafe2safe.jobs.common import result_of, track_counts
from unsafe2safe.jobs.sharding import shard_of, told_to_merge
from unsafe2safe.vision.regions import covered, mask_of

_FAILURES = b"failures"  # of a unit, in its part's metadata
_IMAGES = b"images"
_SEEN_ALREADY = 0.5  # share of a detection under Stage 1's regions from which it is no new one
_CONTACT_SIDE = 640
_SHOWN_AS = {Category.FACE: "red", Category.TEXT: "yellow", Category.PERSON: "lime"}


def run(config: Anonymize, work: Work) -> RunResult:
    """Look at all units, or those of one shard."""
    shard = shard_of(config)
    cut = UnitCut.of(work.image_ids, config.engine.unit_size)
    with RunFolder.open(work.spec, config.existing, shard) as folder:
        folder.keep_to(cut)
        looking = _Looking(config, work, folder)
        finished = looking.finished(cut)
        dealt = work.units(config, shard)
        if len(finished) < cut.units and shard is None:
            folder.reopen()
        run_units(dealt, lambda unit: unit.index in finished, looking.write, "detect_regions")
        if shard is not None:
            message = told_to_merge(work.spec, shard)
            return RunResult(ExitStatus.DONE, folder.path, {"units": len(dealt)}, message=message)
        return looking.complete(cut)


def merge(config: Anonymize, work: Work) -> RunResult:
    """Complete a run that shards have written."""
    cut = cut_to_merge(work.spec)
    with RunFolder.open(work.spec, "resume") as folder:
        return _Looking(config, work, folder).complete(cut)


class _Looking:
    def __init__(self, config: Anonymize, work: Work, folder: RunFolder) -> None:
        self.config, self.work, self.folder = config, work, folder
        self.regions = folder.path / "regions"
        self._records = work.source.records()
        self._lookup = TripletLookup(work.triplets)
        self._preparation = Preparation(work.source, work.ladder.editors, config, work.given)
        self._names = Pseudonyms(KeyedHash(config.paths.private))

    def finished(self, cut: UnitCut) -> set[int]:
        """Units that need no more work."""
        return {index for index in range(cut.units) if self._part(index).exists()}

    def write(self, unit: WorkUnit, advance: Callable[[], None]) -> None:
        first = unit.index * self.config.engine.unit_size
        records = self._records[first : first + len(unit.image_ids)]
        described = Descriptions(self._lookup, None, unit.image_ids)
        batches = [
            [records[index] for index in batch]
            for batch in batches_of(self.work.source, records, self.config.batch_size)
        ]
        prepare = partial(self._preparation.prepare, described=described)
        found: dict[str, list[Region]] = {}
        failures: dict[str, str] = {}
        with closing(prepared_ahead(batches, prepare, self.config.engine.ahead)) as prepared:
            for batch in prepared:
                failures.update(batch.failures)
                for candidate in batch.candidates:
                    try:
                        found[candidate.image_id] = self._look(candidate)
                    except UsageError:
                        raise
                    except Exception as error:  # one bad image never ends a run
                        failures[candidate.image_id] = f"detection raised {describe_fault(error)}"
                for _ in (*batch.candidates, *batch.failures):
                    advance()
        write_records(
            self._part(unit.index),
            Region,
            [region for image_id in unit.image_ids for region in found.get(image_id, ())],
            notes={
                _IMAGES.decode(): str(len(unit.image_ids)),
                _FAILURES.decode(): json.dumps(failures, sort_keys=True),
            },
        )

    def _look(self, candidate: Candidate) -> list[Region]:
        """Stage 1's regions, and the strict detectors' that lie outside of them."""
        pixels = candidate.image.pixels
        height, width = pixels.shape[:2]
        known = mask_of((region.box for region in candidate.regions), height, width)
        seen = [
            (Category.FACE, face.box, face.score)
            for face in candidate.perception.verify_faces(pixels)
        ]
        seen += [
            (Category.TEXT, line.box, line.score)
            for line in candidate.perception.verify_text(pixels)
        ]
        regions = list(candidate.regions) + [
            Region(candidate.image_id, box, category, float(score), "second_look")
            for category, box, score in seen
            if covered(box, known) < _SEEN_ALREADY
        ]
        if self.config.contact_images and regions:
            folder = make_private(self.folder.private / "contact")
            name = self._names.of(candidate.image_id).partition(":")[2] + ".jpg"
            write_bytes(folder / name, _contact_image(candidate, regions), mode=0o600)
        return regions

    def complete(self, cut: UnitCut) -> RunResult:
        missing = sorted(set(range(cut.units)) - self.finished(cut))
        if missing:
            raise UsageError(
                f"{self.folder.path} lacks {len(missing)} of {cut.units} units, "
                f"part-{missing[0]:06d} first; run the same command for them"
            )
        counts = Counter(images=0, regions=0, failed=0)
        failures: dict[str, str] = {}
        for index in range(cut.units):
            notes = read_table(self._part(index), Region).schema.metadata or {}
            counts["regions"] += count_rows(self._part(index), Region)
            counts["images"] += int(notes.get(_IMAGES, b"0"))
            failures.update(json.loads(notes.get(_FAILURES, b"{}")))
        counts["failed"] = len(failures)
        self.folder.write_failures(_rows(failures))
        track_counts(self.config, self.folder, counts)
        self.folder.finish(counts, inputs={"triplets": str(self.work.triplets)})
        message = (
            f"{counts['images']} images looked at, {counts['regions']} regions, "
            f"{counts['failed']} failed\nregions: {self.regions}"
        )
        if self.config.contact_images:
            message += f"\ncontact images, private: {self.folder.private / 'contact'}"
        return result_of(self.folder, counts["failed"], message, self.regions)

    def _part(self, index: int) -> Path:
        return self.regions / f"{WorkUnit(index, ()).name}.parquet"


def _rows(failures: Mapping[str, str]) -> Sequence[Mapping[str, str]]:
    return [{"image_id": name, "reason": reason} for name, reason in sorted(failures.items())]


def _contact_image(candidate: Candidate, regions: Sequence[Region]) -> bytes:
    """The original, small, with its regions outlined, as a JPEG."""
    picture = Image.fromarray(candidate.image.pixels)
    scale = min(1.0, _CONTACT_SIDE / max(picture.size))
    picture = picture.resize(
        (round(picture.width * scale) or 1, round(picture.height * scale) or 1)
    )
    draw = ImageDraw.Draw(picture)
    for region in regions:
        box = region.box
        corners = [box.x * scale, box.y * scale, box.right * scale, box.bottom * scale]
        draw.rectangle(corners, outline=_SHOWN_AS.get(region.category, "cyan"), width=2)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()

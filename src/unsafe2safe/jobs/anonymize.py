"""Stage 2 over a data set: ``anonymize.py``.

Each unit writes its published files, its pairs and, last, its outcomes under ``audit/``: a unit is
finished if and only if its outcomes exist. ``manifest.parquet`` gathers them when all are there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.anonymize.ladder import Ladder, build_ladder
from unsafe2safe.anonymize.lookup import PrivateCaptions, TripletLookup
from unsafe2safe.anonymize.loop import Loop
from unsafe2safe.anonymize.pairs import attribution, pair_of
from unsafe2safe.anonymize.publish import Publisher
from unsafe2safe.anonymize.witnesses import Witnesses, build_witnesses
from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.errors import UnreadableImage
from unsafe2safe.core.files import KeyedHash, write_text
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.records import (
    ImageRecord,
    Outcome,
    OutcomeState,
    Pair,
    Provenance,
    RunResult,
    WorkUnit,
)
from unsafe2safe.core.tables import read_parts, write_records
from unsafe2safe.core.units import UnitCut, cut_units
from unsafe2safe.data.source import ImageSource
from unsafe2safe.editors.base import Editor
from unsafe2safe.engines.local import run_units
from unsafe2safe.jobs.common import find_input, open_source, result_of, run_spec, track_counts
from unsafe2safe.vision.perception import Perception

log = logging.getLogger("unsafe2safe")


def run(config: Anonymize, editor: Editor | None = None) -> RunResult:
    """Publish what passes verification; hold back the rest. ``editor`` replaces the configured one
    for callers of the Python API that bring their own."""
    editor = editor or build({**config.editor, "adapter": config.adapter}, "editor", Editor)  # type: ignore[type-abstract]
    source = open_source(config)
    ladder, witnesses = build_ladder(config, editor), build_witnesses(config, source)
    ladder.tell_licences()
    triplets = find_input(
        config,
        "triplets",
        config.triplets,
        "generate_triplets",
        f"python generate_triplets.py dataset={config.dataset['name']}",
    )
    inputs = {"triplets": triplets, "adapter": config.adapter}
    content = {**editor.weights_content(), **ladder.content, **witnesses.content}
    scratch = ("editor.scratch",)  # where an external command works changes no result
    spec = run_spec(config, "anonymize", editor.name, inputs, scratch, content)
    with RunFolder.open(spec, config.existing) as folder:
        if not folder.complete:
            image_ids = [record.image_id for record in source.records()]
            folder.keep_to(UnitCut.of(image_ids, config.engine.unit_size))
            writer = _Writer(folder, source, triplets, ladder, witnesses, config)
            units = cut_units(image_ids, config.engine.unit_size)
            run_units(units, writer.finished, writer.write, "anonymize")
            writer.finish()
        return _result(folder)


class _Writer:
    def __init__(
        self,
        folder: RunFolder,
        source: ImageSource,
        triplets: Path,
        ladder: Ladder,
        witnesses: Witnesses,
        config: Anonymize,
    ) -> None:
        self.folder, self.source, self.config = folder, source, config
        self.triplets_run = triplets
        self.records: dict[str, ImageRecord] = {r.image_id: r for r in source.records()}
        self.lookup = TripletLookup(triplets)
        readers = [editor.name for editor in ladder.editors if editor.reads_private_caption]
        self.private_captions = (
            PrivateCaptions(triplets, config.paths.private, self.lookup, readers[0])
            if readers
            else None
        )
        self.perception = Perception(config.vision, config.engine.threads)
        self.keyed = KeyedHash(config.paths.private)
        self.audit = folder.path / "audit"
        self.published = folder.path / "published"
        self.loop = Loop(
            ladder=ladder,
            config=config,
            publisher=Publisher(self.published, config.publish, self.keyed),
            inputs=self.keyed,
            quarantine=folder.private / "quarantine",
            witnesses=witnesses,
        )

    def finished(self, unit: WorkUnit) -> bool:
        return (self.audit / f"{unit.name}.parquet").exists()

    def write(self, unit: WorkUnit, advance: Callable[[], None]) -> None:
        outcomes: list[Outcome] = []
        pairs: list[Pair] = []
        size = self.config.batch_size
        for start in range(0, len(unit.image_ids), size):
            batch = unit.image_ids[start : start + size]
            batch_outcomes, batch_pairs = self._process(batch)
            outcomes.extend(batch_outcomes)
            pairs.extend(batch_pairs)
            for _ in batch:
                advance()
        if self.config.write_pairs:
            write_records(self.folder.path / "pairs" / f"{unit.name}.parquet", Pair, pairs)
        write_records(self.audit / f"{unit.name}.parquet", Outcome, outcomes)

    def finish(self) -> None:
        outcomes = list(read_parts(self.audit, Outcome))
        write_records(self.folder.path / "manifest.parquet", Outcome, outcomes)
        write_text(self.folder.path / "attribution.csv", attribution(outcomes, self.records))
        self._remove_strays(outcomes)
        counts: Counter[str] = Counter(dict.fromkeys(map(str, OutcomeState), 0))
        counts.update(str(outcome.state) for outcome in outcomes)
        counts["images"] = len(outcomes)
        counts["pairs"] = sum(1 for _ in read_parts(self.folder.path / "pairs", Pair))
        self.folder.write_failures(
            {"image_id": o.image_id, "state": o.state, "reason": o.reason}
            for o in outcomes
            if not o.state.publishable
        )
        shown = (
            (outcome.state, self.published / outcome.published_as)
            for outcome in outcomes
            if outcome.published_as is not None
        )
        track_counts(self.config, self.folder, counts, shown)
        self.folder.finish(counts, inputs={"triplets": str(self.triplets_run)})

    def _process(self, image_ids: tuple[str, ...]) -> tuple[list[Outcome], list[Pair]]:
        described = self.lookup.find(image_ids)
        outcomes: dict[str, Outcome] = {}
        candidates: dict[str, Candidate] = {}
        for image_id in image_ids:
            if image_id not in described:
                outcomes[image_id] = self._failed(image_id, "no triplet; redo generate_triplets.py")
                continue
            record = self.records[image_id]
            try:
                image = self.source.decode(record)
            except UnreadableImage as error:
                outcomes[image_id] = self._failed(image_id, error.reason)
                continue
            triplet, regions = described[image_id]
            candidates[image_id] = Candidate(
                record,
                image,
                triplet,
                list(regions),
                self.perception,
                self.private_captions.find(image_id) if self.private_captions else "",
            )
        outcomes.update(self.loop.run(list(candidates.values())))
        pairs = [
            pair_of(candidate, outcomes[image_id], self.config.min_pair_outside_ssim)
            for image_id, candidate in candidates.items()
        ]
        return [outcomes[image_id] for image_id in image_ids], [p for p in pairs if p is not None]

    def _failed(self, image_id: str, reason: str) -> Outcome:
        log.warning("%s: %s", image_id, reason)
        name = self.loop.ladder.steps[0].editor.name
        return Outcome(
            image_id=image_id,
            state=OutcomeState.FAILED,
            reason=reason,
            published_as=None,
            editor="",
            adapter="",
            attempts=(),
            input_hmac="",
            output_sha256="",
            provenance=Provenance(model=name, seed=self.config.seed),
        )

    def _remove_strays(self, outcomes: list[Outcome]) -> None:
        """Files of an interrupted unit that its second run did not publish again."""
        named = {outcome.published_as for outcome in outcomes}
        for path in self.published.rglob("*"):
            if path.is_file() and path.relative_to(self.published).as_posix() not in named:
                path.unlink()


def _result(folder: RunFolder) -> RunResult:
    counts = folder.state["counts"]
    held_back = counts["needs_review"] + counts["failed"]
    message = (
        f"{counts['images']} images: {counts['safe']} safe and {counts['anonymized']} anonymized "
        f"published, {counts['needs_review']} held back for review, {counts['failed']} failed\n"
        f"published: {folder.path / 'published'}\n"
        f"each image's fate: {folder.path / 'manifest.parquet'}"
    )
    if held_back:
        message += f"\nwhat was held back and why: {folder.path / 'failures.jsonl'}"
    published = folder.path / "published"
    return result_of(folder, held_back, message, published, folder.path / "manifest.parquet")

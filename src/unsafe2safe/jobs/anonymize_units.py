"""Working off one unit of anonymize.py: prepare ahead, edit and verify, write behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from unsafe2safe.anonymize.background import BackgroundPublisher
from unsafe2safe.anonymize.batches import batches_of
from unsafe2safe.anonymize.given_masks import GivenMasks
from unsafe2safe.anonymize.ladder import Ladder
from unsafe2safe.anonymize.lookup import PrivateCaptions, TripletLookup
from unsafe2safe.anonymize.loop import Loop
from unsafe2safe.anonymize.pair_filters import PairFilter
from unsafe2safe.anonymize.pairs import REDACTION, PairWriter
from unsafe2safe.anonymize.preparation import Descriptions, Preparation, PreparedBatch
from unsafe2safe.anonymize.witnesses import Witnesses
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.files import KeyedHash
from unsafe2safe.core.records import Outcome, OutcomeState, Provenance, WorkUnit
from unsafe2safe.data.source import ImageSource
from unsafe2safe.engines.overlap import BackgroundWriter, prepared_ahead
from unsafe2safe.jobs.outcome_store import OutcomeStore

log = logging.getLogger("unsafe2safe")


class UnitWorker:
    """Edits, verifies and publishes the images of one unit after the other."""

    def __init__(
        self,
        config: Anonymize,
        source: ImageSource,
        triplets: Path,
        ladder: Ladder,
        witnesses: Witnesses,
        given: GivenMasks,
        pair_filter: PairFilter,
        store: OutcomeStore,
        keyed: KeyedHash,
        writer: BackgroundWriter,
    ) -> None:
        self.config, self.source, self.store, self.writer = config, source, store, writer
        self._records = source.records()
        self._lookup = TripletLookup(triplets)
        readers = [editor.name for editor in ladder.editors if editor.reads_private_caption]
        self._captions = (
            PrivateCaptions(triplets, config.paths.private, self._lookup, readers[0])
            if readers
            else None
        )
        self._preparation = Preparation(source, ladder.editors, config, given)
        self._pairs = (
            PairWriter(
                store.folder.path,
                config,
                pair_filter,
                self._preparation.perception,
                redacts=ladder.steps[0].editor.name == REDACTION,
                settle=writer.drain,
            )
            if config.write_pairs
            else None
        )
        self.loop = Loop(
            ladder=ladder,
            config=config,
            publisher=BackgroundPublisher(store.published, config.publish, keyed, writer),
            inputs=keyed,
            quarantine=store.folder.private / "quarantine",
            witnesses=witnesses,
        )

    def write(self, unit: WorkUnit, advance: Callable[[], None]) -> None:
        """Work off the unit and write what became of it, once all its pictures are on disk."""
        first = unit.index * self.config.engine.unit_size
        records = self._records[first : first + len(unit.image_ids)]
        described = Descriptions(self._lookup, self._captions, unit.image_ids)
        batches = [
            [records[index] for index in batch]
            for batch in batches_of(self.source, records, self.config.batch_size)
        ]
        prepare = partial(self._preparation.prepare, described=described)
        outcomes: dict[str, Outcome] = {}
        pairs = self._pairs.unit() if self._pairs else None
        # closing: whatever is raised here, no thread goes on preparing
        with closing(prepared_ahead(batches, prepare, self.config.engine.ahead)) as prepared:
            for batch in prepared:
                found = self._process(batch)
                outcomes.update(found)
                if pairs is not None:
                    candidates = {each.image_id: each for each in batch.candidates}
                    pairs.add(list(found.values()), candidates)
                for _ in found:
                    advance()
        self.writer.drain()
        rows = [outcomes[image_id] for image_id in unit.image_ids]
        made = pairs.pairs if pairs else None
        self.store.write(unit, rows, made, pairs.notes if pairs else None)

    def _process(self, batch: PreparedBatch) -> dict[str, Outcome]:
        outcomes = {
            image_id: self._failed(image_id, reason) for image_id, reason in batch.failures.items()
        }
        edited = self.loop.run(batch.candidates)
        for candidate in batch.candidates:
            outcome = edited[candidate.image_id]
            if outcome.published_as is not None:
                height, width = candidate.image.pixels.shape[:2]
                outcome = replace(outcome, width=width, height=height)
            outcomes[candidate.image_id] = outcome
        return outcomes

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

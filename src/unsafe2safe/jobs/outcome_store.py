"""The parts that anonymize.py writes: a unit's files, and the published folder made of them.

Each unit writes its published pictures, its pairs and, last, its outcomes under ``audit/``: a unit
is finished if and only if its outcomes exist. What is written tells the name of an image only where
the image is published under that name; for all others a keyed hash stands, and ``names.csv`` in the
run's private share says whose.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from unsafe2safe.anonymize.chain import Chain, Extras, UnitHead
from unsafe2safe.anonymize.manifest import MANIFEST, writing
from unsafe2safe.anonymize.pairs import attribution, finish_pairs
from unsafe2safe.anonymize.publish import allowed_metadata
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import KeyedHash, write_text
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.pseudonyms import Pseudonyms, is_pseudonym, restore
from unsafe2safe.core.records import ImageRecord, Outcome, OutcomeState, Pair, WorkUnit
from unsafe2safe.core.tables import count_rows, read_records, write_records
from unsafe2safe.core.units import UnitCut
from unsafe2safe.jobs.common import track_counts
from unsafe2safe.jobs.sharding import told_missing

NAMES = "names.csv"  # in the private share

# Writes files beside the published pictures, given who is published, and says which.
WriteExtras = Callable[[Iterable[Outcome]], Iterable[Path]]


def no_extras(_: Iterable[Outcome]) -> Iterable[Path]:
    return ()


class OutcomeStore:
    """The parts of one run folder. ``cut`` says what units there are."""

    def __init__(self, folder: RunFolder, cut: UnitCut, keyed: KeyedHash) -> None:
        self.folder, self.cut = folder, cut
        self.names = Pseudonyms(keyed)
        self.audit = folder.path / "audit"
        self.pairs = folder.path / "pairs"
        self.published = folder.path / "published"

    def write(
        self,
        unit: WorkUnit,
        outcomes: Sequence[Outcome],
        pairs: Sequence[Pair] | None,
        pair_notes: Mapping[str, str] | None = None,
    ) -> None:
        """Write what became of a unit whose pictures are published already.

        ``pairs`` None: none are asked for; ``pair_notes`` go with them. Rows are sorted by what
        they are called, so that their order does not tell the names of those that have none.
        """
        own = {outcome.image_id: _keeps_name(outcome) for outcome in outcomes}
        rows = [self.names.hide(o, published_under_own_name=own[o.image_id]) for o in outcomes]
        if pairs is not None:
            told = [p if own[p.image_id] else self.names.hide_pair(p) for p in pairs]
            told.sort(key=lambda pair: pair.image_id)
            write_records(self.pairs / _part(unit.index), Pair, told, notes=pair_notes)
        rows.sort(key=lambda row: row.image_id)
        write_records(self.audit / _part(unit.index), Outcome, rows)

    def finished(self) -> set[int]:
        """Units that need no more work.

        Raises:
            UsageError: names a file that is cut short or of no unit of this run.
        """
        names = {path.name for path in self.audit.glob("part-*.parquet")}
        done = {index for index in range(self.cut.units) if _part(index) in names}
        strangers = names - {_part(index) for index in done}
        if strangers:
            raise UsageError(f"{self.audit / min(strangers)} belongs to no unit of this run")
        for index in done:
            path = self.audit / _part(index)
            rows, expected = count_rows(path, Outcome), self.cut.images_in(index)
            if rows != expected:
                raise UsageError(
                    f"{path} has {rows} rows, not {expected}; delete it and run the same command "
                    "again, which redoes this part"
                )
        return done

    def complete(
        self,
        config: Anonymize,
        records: Sequence[ImageRecord],
        facts: Mapping[str, object],
        write_extras: WriteExtras = no_extras,
    ) -> None:
        """Check that every unit is there, then write all that is about the whole: manifest,
        attribution, failures, names, chain. ``facts`` are added to run.json.

        Raises:
            UsageError: names the units that are missing, and the shards they belong to.
        """
        missing = sorted(set(range(self.cut.units)) - self.finished())
        if missing:
            raise UsageError(told_missing(self.folder, self.cut, missing))
        heads, counts = self._manifest()
        self._remove_strays()
        known = self.names.known(record.image_id for record in records)
        by_id = {record.image_id: record for record in records}
        extras = Extras(self.folder.path)
        credit = self.folder.path / "attribution.csv"
        write_text(credit, attribution(self._published(known), by_id))
        extras.add(credit)
        extras.add(*write_extras(self._published(known)))
        self.folder.write_failures(
            {"image_id": row.image_id, "state": row.state, "reason": row.reason}
            for row in self._rows()
            if not row.state.publishable
        )
        extras.add(self.folder.path / "failures.jsonl")
        reasons = finish_pairs(self.folder.path)
        extras.add(*sorted(path for path in self.pairs.rglob("*") if path.is_file()))
        write_text(self.folder.private / NAMES, self._names(known), mode=0o600)
        allowed = tuple(sorted(allowed_metadata(config.publish)))
        chain = Chain(allowed, heads, extras.hashes)
        chain.write(self.folder.path)
        track_counts(config, self.folder, counts, self._shown())
        self.folder.finish(counts, audit_root=chain.root, pairs=reasons, **facts)

    def _manifest(self) -> tuple[tuple[UnitHead, ...], Counter[str]]:
        counts: Counter[str] = Counter(dict.fromkeys(map(str, OutcomeState), 0))
        counts.update(images=0, pairs=0)
        heads = []
        with writing(self.folder.path / MANIFEST) as manifest:
            for index in range(self.cut.units):
                rows = read_records(self.audit / _part(index), Outcome)
                heads.append(manifest.add(WorkUnit(index, ()), rows))
                counts.update(str(row.state) for row in rows)
                counts["images"] += len(rows)
                pairs = self.pairs / _part(index)
                counts["pairs"] += count_rows(pairs, Pair) if pairs.exists() else 0
        return tuple(heads), counts

    def _rows(self) -> Iterator[Outcome]:
        for index in range(self.cut.units):
            yield from read_records(self.audit / _part(index), Outcome)

    def _published(self, known: Mapping[str, str]) -> Iterator[Outcome]:
        """Who is published, under its true name.

        Raises:
            UsageError: it has a name that another key was used for.
        """
        for row in self._rows():
            if row.published_as is None:
                continue
            restored = restore(row, known)
            if is_pseudonym(restored.image_id):
                raise UsageError(
                    f"{self.folder.path} was begun with another paths.private, whose hmac.key its "
                    "names were hashed with; give the same again"
                )
            yield restored

    def _names(self, known: Mapping[str, str]) -> str:
        """CSV of all whose names the manifest does not tell."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["manifest_id", "image_id", "state", "published_as", "reason"])
        for row in self._rows():
            if is_pseudonym(row.image_id):
                name = known.get(row.image_id, "")
                told = (row.image_id, name, row.state, row.published_as or "", row.reason)
                writer.writerow(told)
        return buffer.getvalue()

    def _shown(self) -> Iterator[tuple[OutcomeState, Path]]:
        for row in self._rows():
            if row.published_as is not None:
                yield row.state, self.published / row.published_as

    def _remove_strays(self) -> None:
        """Files of an interrupted unit that its second run did not publish again."""
        named = {row.published_as for row in self._rows()}
        for path in self.published.rglob("*"):
            if path.is_file() and path.relative_to(self.published).as_posix() not in named:
                path.unlink()


def _keeps_name(outcome: Outcome) -> bool:
    """Whether an image is published under its own name, but for a suffix that was added."""
    name = outcome.published_as or ""
    return name == outcome.image_id or name.startswith(f"{outcome.image_id}.")


def _part(index: int) -> str:
    return f"{WorkUnit(index, ()).name}.parquet"

"""The parts that generate_triplets.py writes: a unit's three files, and the run made of them.

Each unit writes its private part, its regions and, last, its triplets: a unit is finished if and
only if its triplets part exists. A unit that was stopped in between is redone whole, so that what
it left behind is overwritten.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from unsafe2safe.core.config.schema import GenerateTriplets
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.records import (
    PrivacyFlag,
    PrivateRecord,
    Region,
    Triplet,
    TripletState,
    WorkUnit,
)
from unsafe2safe.core.tables import count_rows, read_table, write_records
from unsafe2safe.core.units import UnitCut
from unsafe2safe.jobs.common import track_counts
from unsafe2safe.jobs.sharding import told_missing
from unsafe2safe.stage1.base import Described

_LEAKS = "leaks"  # what the leak guard kept out of a unit's texts, by kind


class TripletStore:
    """The parts of one run folder. ``cut`` says what units there are."""

    def __init__(self, folder: RunFolder, cut: UnitCut) -> None:
        self.folder, self.cut = folder, cut
        self.triplets = folder.path / "triplets"
        self.regions = folder.path / "regions"
        self.private = folder.private / "private"

    def write(self, unit: WorkUnit, described: Sequence[Described]) -> None:
        name = f"{unit.name}.parquet"
        private = [item.private for item in described]
        regions = [region for item in described for region in item.regions]
        write_records(self.private / name, PrivateRecord, private, mode=0o600)
        write_records(self.regions / name, Region, regions)
        leaks: Counter[str] = Counter()
        for item in described:
            leaks.update(item.leaks)
        write_records(
            self.triplets / name,
            Triplet,
            [item.triplet for item in described],
            notes={_LEAKS: json.dumps(leaks, sort_keys=True)} if leaks else None,
        )

    def finished(self) -> set[int]:
        """Units that need no more work, each with its files looked at.

        Raises:
            UsageError: names a file that is missing, cut short, or of another unit size.
        """
        names = {path.name for path in self.triplets.glob("part-*.parquet")}
        done = {index for index in range(self.cut.units) if _part(index) in names}
        strangers = names - {_part(index) for index in done}
        if strangers:
            raise UsageError(f"{self.triplets / min(strangers)} belongs to no unit of this run")
        for index in done:
            self._check(index)
        return done

    def _check(self, index: int) -> None:
        path = self.triplets / _part(index)
        rows, expected = count_rows(path, Triplet), self.cut.images_in(index)
        if rows != expected:
            raise UsageError(
                f"{path} has {rows} rows, not {expected}; delete it and run the same command "
                "again, which redoes this part"
            )
        beside: list[tuple[Path, type[Region | PrivateRecord]]] = [(self.regions, Region)]
        if not self.folder.state.get("purged"):
            beside.append((self.private, PrivateRecord))
        for root, record_type in beside:
            try:
                count_rows(root / path.name, record_type)
            except UsageError:
                raise UsageError(
                    f"{root / path.name} is missing or damaged; delete {path} and run the same "
                    "command again, which redoes both"
                ) from None

    def complete(self, config: GenerateTriplets) -> None:
        """Check that every unit is there and whole, then write failures.jsonl and the counts.

        Raises:
            UsageError: names the units that are missing, and the shards they belong to.
        """
        missing = sorted(set(range(self.cut.units)) - self.finished())
        if missing:
            raise UsageError(told_missing(self.folder, self.cut, missing))
        counts = Counter(images=0, safe=0, unsafe=0, needs_review=0, failed=0)
        leaks: Counter[str] = Counter()
        self.folder.write_failures(self._failures(counts, leaks))
        track_counts(config, self.folder, counts)
        self.folder.finish(counts, leaks_kept_out=dict(sorted(leaks.items())))

    def _failures(self, counts: Counter[str], leaks: Counter[str]) -> Iterator[dict[str, str]]:
        """What is not complete, part by part; ``counts`` and ``leaks`` are filled on the way."""
        for index in range(self.cut.units):
            table = read_table(self.triplets / _part(index), Triplet)
            leaks.update(json.loads((table.schema.metadata or {}).get(_LEAKS.encode(), b"{}")))
            columns = ("image_id", "privacy_flag", "state", "reason")
            for image_id, flag, state, reason in zip(
                *(table[name].to_pylist() for name in columns), strict=True
            ):
                counts["images"] += 1
                if state == TripletState.COMPLETE:
                    counts[PrivacyFlag(flag)] += 1
                    continue
                counts[TripletState(state)] += 1
                yield {"image_id": image_id, "state": state, "reason": reason}


def _part(index: int) -> str:
    return f"{WorkUnit(index, ()).name}.parquet"

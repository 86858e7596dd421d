"""Training data whose frozen part is read from a cache: no picture is decoded or encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unsafe2safe.training.cache.content import Keys
from unsafe2safe.training.cache.rows import batch_of, parts_of
from unsafe2safe.training.cache.store import RowStore
from unsafe2safe.training.draws import SampleKey
from unsafe2safe.training.pairs import PairDataset
from unsafe2safe.training.task import PreparedBatch, TrainingData
from unsafe2safe.training.views import View


@dataclass(frozen=True)
class CachedSample:
    """One visit to a sample, by the keys of its rows."""

    key: SampleKey
    rows: Keys


class CachedPairs(TrainingData[CachedSample, PreparedBatch]):
    """Pairs as a task has prepared them, in the views that their visits draw."""

    def __init__(
        self,
        pairs: PairDataset,
        keys: Mapping[tuple[int, View], Keys],
        kind: type[Any],
        store: RowStore,
    ) -> None:
        """``keys`` are those of every view of each pair of ``pairs``; the store has their rows."""
        self.pairs, self._keys, self._kind, self._store = pairs, keys, kind, store
        self._parts = sorted(set(parts_of(kind).values()))

    @property
    def noun(self) -> str:  # type: ignore[override]
        return self.pairs.noun

    @property
    def buckets(self) -> list[int] | None:
        return self.pairs.buckets

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index_and_visit: tuple[int, int]) -> CachedSample:
        """The rows of a visit; they are read by :meth:`collate`."""
        index, visit = index_and_visit
        image_id = self.pairs.pairs[index].image_id
        return CachedSample(
            SampleKey(image_id, visit), self._keys[index, self.pairs.view(index, visit)]
        )

    def collate(self, items: Sequence[CachedSample]) -> PreparedBatch:
        """Samples to one prepared batch, on the CPU."""
        rows = []
        for item in items:
            row = {}
            for part in self._parts:
                row.update(self._store.read(item.rows[part]))
            rows.append(row)
        return PreparedBatch(tuple(item.key for item in items), batch_of(self._kind, rows))

"""Finding the records of given images in the parts of a run, without reading them all."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Region, Triplet
from unsafe2safe.core.tables import read_records


class TripletLookup:
    """Triplets and regions of a complete run of generate_triplets.py, by ``image_id``.

    Parts are sorted and do not overlap, so the first id of each part tells which part holds an
    image; parts are read when they are asked for, and only the last one read is kept.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._parts = sorted((run / "triplets").glob("part-*.parquet"))
        if not self._parts:
            raise UsageError(f"triplets={run} holds no triplets")
        self._first_ids = [_first_id(part) for part in self._parts]
        self._loaded = -1
        self._triplets: dict[str, Triplet] = {}
        self._regions: dict[str, list[Region]] = {}

    def find(self, image_ids: Sequence[str]) -> dict[str, tuple[Triplet, tuple[Region, ...]]]:
        """Triplet and regions of each image that has them; images never described are absent."""
        found = {}
        for image_id in image_ids:
            self._load(bisect_right(self._first_ids, image_id) - 1)
            triplet = self._triplets.get(image_id)
            if triplet is not None:
                found[image_id] = (triplet, tuple(self._regions.get(image_id, ())))
        return found

    def _load(self, index: int) -> None:
        if index < 0 or index == self._loaded:
            return
        part = self._parts[index]
        self._triplets = {row.image_id: row for row in read_records(part, Triplet)}
        self._regions = {}
        for region in read_records(self._run / "regions" / part.name, Region):
            self._regions.setdefault(region.image_id, []).append(region)
        self._loaded = index


def _first_id(part: Path) -> str:
    try:
        return str(pq.read_table(part, columns=["image_id"])["image_id"][0].as_py())
    except (pa.ArrowException, OSError, IndexError) as error:
        raise UsageError(f"{part} is damaged ({type(error).__name__}); redo its run") from None

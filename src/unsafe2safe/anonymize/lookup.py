"""Finding the records of given images in the parts of a run, without reading them all."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import inside
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.records import PrivateRecord, Region, Triplet
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
            self._load(self._index_of(image_id))
            triplet = self._triplets.get(image_id)
            if triplet is not None:
                found[image_id] = (triplet, tuple(self._regions.get(image_id, ())))
        return found

    def part_of(self, image_id: str) -> str | None:
        """Name of the file that would hold an image; None: it sorts before all of them."""
        index = self._index_of(image_id)
        return self._parts[index].name if index >= 0 else None

    @property
    def part_names(self) -> list[str]:
        return [part.name for part in self._parts]

    def _index_of(self, image_id: str) -> int:
        return bisect_right(self._first_ids, image_id) - 1

    def _load(self, index: int) -> None:
        if index < 0 or index == self._loaded:
            return
        part = self._parts[index]
        self._triplets = {row.image_id: row for row in read_records(part, Triplet)}
        self._regions = {}
        for region in read_records(self._run / "regions" / part.name, Region):
            self._regions.setdefault(region.image_id, []).append(region)
        self._loaded = index


class PrivateCaptions:
    """Private captions of a run of generate_triplets.py, by ``image_id``, from its private share.

    They are read part by part beside ``lookup``'s and kept in memory only.

    Raises:
        UsageError: the share is not under ``private_root``, or not whole, or was purged.
    """

    def __init__(self, run: Path, private_root: Path, lookup: TripletLookup, reader: str) -> None:
        self._lookup = lookup
        state = read_run(run) or {}
        told = f"editor={reader} reads private captions, and those of triplets={run}"
        again = "make the triplets again (generate_triplets.py with existing=overwrite)"
        if state.get("purged"):
            raise UsageError(f"{told} were purged; {again}, or choose another editor")
        self._share = inside(private_root, str(state.get("private", ""))) / "private"
        missing = [name for name in lookup.part_names if not (self._share / name).is_file()]
        if missing:
            raise UsageError(
                f"{told} are not under paths.private={private_root} ({missing[0]} is missing); "
                f"give the paths.private of that run, or {again}"
            )
        self._loaded: str | None = None
        self._captions: dict[str, str] = {}

    def find(self, image_id: str) -> str:
        """The private caption of an image, "" where Stage 1 wrote none."""
        part = self._lookup.part_of(image_id)
        if part is None:
            return ""
        if part != self._loaded:
            rows = read_records(self._share / part, PrivateRecord)
            self._captions = {row.image_id: row.private_caption.strip() for row in rows}
            self._loaded = part
        return self._captions.get(image_id, "")


def _first_id(part: Path) -> str:
    try:
        return str(pq.read_table(part, columns=["image_id"])["image_id"][0].as_py())
    except (pa.ArrowException, OSError, IndexError) as error:
        raise UsageError(f"{part} is damaged ({type(error).__name__}); redo its run") from None

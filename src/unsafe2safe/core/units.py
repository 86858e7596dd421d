"""Cutting a data set into work units, and dealing them to shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

from unsafe2safe.core.records import WorkUnit


def cut_units(image_ids: Sequence[str], size: int) -> list[WorkUnit]:
    """Cut the whole sorted list into units of ``size``; the last one may be shorter.

    Units depend on the list and the size only, never on shards, workers or earlier runs.
    """
    if any(first >= second for first, second in pairwise(image_ids)):
        raise ValueError("image ids must be sorted and unique")
    return [
        WorkUnit(index, tuple(image_ids[start : start + size]))
        for index, start in enumerate(range(0, len(image_ids), size))
    ]


@dataclass(frozen=True)
class UnitCut:
    """How a data set was cut: what must not change while a run's units are worked off."""

    size: int
    images: int
    digest: str  # of the image ids

    @classmethod
    def of(cls, image_ids: Sequence[str], size: int) -> UnitCut:
        digest = blake2b(digest_size=16)
        for image_id in image_ids:
            digest.update(image_id.encode("utf-8", "surrogatepass") + b"\0")
        return cls(size, len(image_ids), digest.hexdigest())

    @property
    def units(self) -> int:
        return -(-self.images // self.size)

    def images_in(self, index: int) -> int:
        """How many images unit ``index`` has."""
        return min(self.size, self.images - index * self.size)


@dataclass(frozen=True)
class Shard:
    """The share ``index`` of ``count`` that one array job or process works off."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``0/8``.

        Raises:
            ValueError: it is not of that form, or the index is not below the count.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError(f"{text!r} is no shard; 0/8 is the first of eight, 7/8 the last")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, unit_index: int) -> bool:
        return unit_index % self.count == self.index

    def split(self, parts: int) -> list[Shard]:
        """Shards that share this one's units out among ``parts`` processes."""
        whole = self.count * parts
        return [Shard(self.index + self.count * part, whole) for part in range(parts)]

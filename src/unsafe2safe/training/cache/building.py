"""Encoding what a cache lacks, by however many processes work on it at the same time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from torch import Tensor

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.progress import Progress
from unsafe2safe.training.cache.content import NO_TEXT, Keys
from unsafe2safe.training.cache.rows import Part, Row, first_row, first_rows, parts_of
from unsafe2safe.training.cache.store import RowStore


@dataclass(frozen=True)
class Wanted:
    """One sample in one view: the keys of its rows, and ``prepare``, which loads it, says what its
    keys are now and gives the fields of a prepared batch of one, at least those that are made of
    the given parts."""

    name: str
    keys: Keys
    prepare: Callable[[Collection[Part]], tuple[Keys, Mapping[str, Any]]]


@dataclass(frozen=True)
class _Item:
    """What is encoded at once: parts of a sample."""

    sample: Wanted
    parts: tuple[Part, ...]

    @property
    def keys(self) -> dict[Part, str]:
        return {part: self.sample.keys[part] for part in self.parts}


def fill(
    store: RowStore,
    wanted: Sequence[Wanted],
    kind: type[Any],
    no_text: Any,
    unit_size: int,
    begin_at: float = 0.0,
) -> None:
    """Encode all rows that ``store`` lacks.

    What several samples share, as a text of many pictures, is encoded once, by itself, and
    of each sample the rest. Both are dealt to buckets by content. A process takes a bucket that
    nobody works on, and writes its rows as one file; in the end it waits for those that others have
    taken, and does itself what they left. Each sample is encoded alone, so that a row is a function
    of its content and not of its neighbours. ``begin_at``, in [0, 1): at which of the buckets, so
    that processes that start together get in each other's way less.

    Raises:
        UsageError: a picture has changed since its key was computed.
    """
    parts = parts_of(kind)
    shared, own = _items(wanted, sorted(set(parts.values())))
    buckets = {
        **_buckets(store, own, unit_size, ""),
        **_buckets(store, shared, unit_size, "shared-"),
    }
    names = sorted(buckets)
    turn = int(begin_at * len(names))
    order = names[turn:] + names[:turn]
    count, left = len(shared) + len(own), sum(map(len, buckets.values()))
    with Progress("encoding", count, count - left) as progress:
        if NO_TEXT not in store:
            with store.bucket(NO_TEXT, wait=True):
                store.refresh()
                if NO_TEXT not in store:
                    store.write(NO_TEXT, {NO_TEXT: _kept(first_row(no_text))}, [])
        for wait in (False, True):
            for name in list(order):
                with store.bucket(name, wait=wait) as ours:
                    if not ours:
                        continue
                    order.remove(name)
                    store.refresh()
                    _fill_bucket(store, name, buckets[name], parts)
                    progress.advance(len(buckets[name]))
    store.refresh()


def lacking(store: RowStore, keys: Keys, kind: type[Any]) -> set[Part]:
    """The parts of a sample that ``store`` has no row of."""
    return {part for part in set(parts_of(kind).values()) if keys[part] not in store}


def _items(wanted: Sequence[Wanted], parts: Sequence[Part]) -> tuple[list[_Item], list[_Item]]:
    """What several samples share, each once, and of each sample what no other has."""
    holders = Counter(sample.keys[part] for sample in wanted for part in parts)
    shared: dict[str, _Item] = {}
    own = []
    for sample in wanted:
        for part in parts:
            if holders[sample.keys[part]] > 1:
                shared.setdefault(sample.keys[part], _Item(sample, (part,)))
        alone = tuple(part for part in parts if holders[sample.keys[part]] == 1)
        if alone:
            own.append(_Item(sample, alone))
    return list(shared.values()), own


def _buckets(
    store: RowStore, items: Sequence[_Item], unit_size: int, prefix: str
) -> dict[str, list[_Item]]:
    """Those of ``items`` that ``store`` lacks, by the first bits of a hash of their keys: as many
    bits as give about ``unit_size`` of all, so that processes that came at other times agree."""
    bits = max(0, (max(len(items), 1) // unit_size).bit_length())
    found: dict[str, list[_Item]] = defaultdict(list)
    for item in items:
        if all(key in store for key in item.keys.values()):
            continue
        digest = blake2b(repr(sorted(item.keys.items())).encode(), digest_size=4).digest()
        found[f"{prefix}{int.from_bytes(digest) >> (32 - bits):06d}of{1 << bits}"].append(item)
    return found


def _fill_bucket(
    store: RowStore, name: str, items: Sequence[_Item], parts: Mapping[str, Part]
) -> None:
    rows: dict[str, Row] = {}
    not_finite: set[str] = set()
    for item in items:
        missing = [part for part, key in item.keys.items() if key not in store]
        if not missing:
            continue
        now, prepared = item.sample.prepare(missing)
        if now != item.sample.keys:
            raise UsageError(
                f"{item.sample.name} has changed while the cache was made; run the same command "
                "again"
            )
        encoded: dict[Part, Row] = {part: {} for part in missing}
        for field, row in first_rows(prepared).items():
            if parts[field] in encoded:
                encoded[parts[field]].update(row)
        for part, row in encoded.items():
            if all(_finite(tensor) for tensor in row.values()):
                rows[item.keys[part]] = _kept(row)
            else:
                not_finite.add(item.keys[part])
    if rows or not_finite:
        store.write(name, rows, sorted(not_finite))


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _kept(row: Row) -> Row:
    return {field: tensor.detach().cpu().clone() for field, tensor in row.items()}

"""Encoding what a cache lacks, by however many processes work on it at the same time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from torch import Tensor

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.progress import Progress
from unsafe2safe.training.cache.content import NO_TEXT, Keys
from unsafe2safe.training.cache.rows import Part, Row, first_row, parts_of
from unsafe2safe.training.cache.store import RowStore


@dataclass(frozen=True)
class Wanted:
    """One sample in one view: the keys of its rows, and ``prepare``, which loads it, says what its
    keys are now and gives it as a prepared batch of one."""

    name: str
    keys: Keys
    prepare: Callable[[], tuple[Keys, Any]]


def fill(
    store: RowStore,
    wanted: Sequence[Wanted],
    kind: type[Any],
    no_text: Any,
    unit_size: int,
    begin_at: float = 0.0,
) -> None:
    """Encode all rows that ``store`` lacks.

    Samples are dealt to buckets by their content. A process takes a bucket that nobody works on,
    and writes its rows as one file; in the end it waits for those that others have taken, and does
    itself what they left. Each sample is encoded alone, so that a row is a function of its content
    and not of its neighbours. ``begin_at``, in [0, 1): at which of the buckets, so that processes
    that start together get in each other's way less.

    Raises:
        UsageError: a picture has changed since its key was computed.
    """
    parts = parts_of(kind)
    buckets = _buckets([w for w in wanted if lacking(store, w.keys, kind)], len(wanted), unit_size)
    names = sorted(buckets)
    turn = int(begin_at * len(names))
    order = names[turn:] + names[:turn]
    left = sum(map(len, buckets.values()))
    with Progress("encoding", len(wanted), len(wanted) - left) as progress:
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


def _buckets(
    lacking_samples: Sequence[Wanted], count: int, unit_size: int
) -> dict[str, list[Wanted]]:
    """Samples by the first bits of a hash of their keys: as many bits as give about
    ``unit_size`` of ``count`` samples, so that processes that came at other times agree."""
    bits = max(0, (max(count, 1) // unit_size).bit_length())
    found: dict[str, list[Wanted]] = defaultdict(list)
    for sample in lacking_samples:
        digest = blake2b(repr(sorted(sample.keys.items())).encode(), digest_size=4).digest()
        found[f"{int.from_bytes(digest) >> (32 - bits):06d}of{1 << bits}"].append(sample)
    return found


def _fill_bucket(
    store: RowStore, name: str, samples: Sequence[Wanted], parts: Mapping[str, Part]
) -> None:
    rows: dict[str, Row] = {}
    not_finite: set[str] = set()
    for sample in samples:
        keys = {part: sample.keys[part] for part in set(parts.values())}
        missing = {
            part
            for part, key in keys.items()
            if key not in store and key not in rows and key not in not_finite
        }
        if not missing:
            continue
        now, prepared = sample.prepare()
        if now != sample.keys:
            raise UsageError(
                f"{sample.name} has changed while the cache was made; run the same command again"
            )
        encoded: dict[Part, Row] = {part: {} for part in missing}
        for field, tensor in first_row(prepared).items():
            part = parts[field.partition(".")[0]]
            if part in missing:
                encoded[part][field] = tensor
        for part, row in encoded.items():
            if all(_finite(tensor) for tensor in row.values()):
                rows[keys[part]] = _kept(row)
            else:
                not_finite.add(keys[part])
    if rows or not_finite:
        store.write(name, rows, sorted(not_finite))


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _kept(row: Row) -> Row:
    return {field: tensor.detach().cpu().clone() for field, tensor in row.items()}

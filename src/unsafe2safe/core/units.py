"""Cutting a data set into work units."""

from __future__ import annotations

from collections.abc import Sequence

from unsafe2safe.core.records import WorkUnit


def cut_units(image_ids: Sequence[str], size: int) -> list[WorkUnit]:
    """Cut the whole sorted list into units of ``size``; the last one may be shorter.

    Units depend on the list and the size only, never on shards, workers or earlier runs.
    """
    if list(image_ids) != sorted(set(image_ids)):
        raise ValueError("image ids must be sorted and unique")
    return [
        WorkUnit(index, tuple(image_ids[start : start + size]))
        for index, start in enumerate(range(0, len(image_ids), size))
    ]

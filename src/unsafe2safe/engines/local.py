"""Mapping work over units in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unsafe2safe.core.progress import Progress
from unsafe2safe.core.records import WorkUnit


def run_units(
    units: Sequence[WorkUnit],
    finished: Callable[[WorkUnit], bool],
    work: Callable[[WorkUnit, Callable[[], None]], None],
    label: str,
) -> int:
    """Run ``work(unit, advance)`` on every unit that is not ``finished``; returns how many ran.

    ``advance`` is called by ``work`` once per item. A unit is finished or not, never in between:
    an interrupted one is redone whole.
    """
    open_units = [unit for unit in units if not finished(unit)]
    total = sum(len(unit.image_ids) for unit in units)
    done = total - sum(len(unit.image_ids) for unit in open_units)
    with Progress(label, total, done) as progress:
        for unit in open_units:
            work(unit, progress.advance)
    return len(open_units)

"""What benchmarks print: one line for each figure, beside what is asked of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

QUIET = 0.5  # load average that a benchmark finds before it begins


@dataclass(frozen=True)
class Row:
    """One line of the table; ``met`` is None where nothing is asked."""

    what: str
    value: str
    bar: str = ""
    met: bool | None = None


def told_ratio(ratios: Sequence[float]) -> str:
    """The median with the extremes behind it."""
    return f"{median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"


def at_least(what: str, ratios: Sequence[float], bar: float) -> Row:
    return Row(what, told_ratio(ratios), f"at least {bar:g}", median(ratios) >= bar)


def tell(rows: Sequence[Row], *, judged: bool) -> bool:
    """Print the table; whether all that is asked is met."""
    wide, deep = (max(len(text) for text in column) for column in zip(
        *((row.what, row.value) for row in rows), strict=True
    ))  # fmt: skip
    for row in rows:
        verdict = "" if row.met is None else " met" if row.met else " MISSED"
        end = f"{row.bar}:{verdict if judged else ' not judged'}" if row.bar else ""
        print(f"{row.what:<{wide}}  {row.value:<{deep}}  {end}".rstrip())
    return all(row.met is not False for row in rows)


def warn_unless_below(bound: float, when: str) -> None:
    load = os.getloadavg()[0]
    if load > bound:
        print(
            f"WARNING: load average {load:.1f} {when}: another job runs, or has just ended. "
            "Threads that wait for each other can take many times as long: keep none of this."
        )

"""How well privacy flags agree with the truth; unsafe is the positive class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.core.records import MetricResult

_LEVEL = 0.95


@dataclass(frozen=True)
class Confusion:
    """Images by truth and flag."""

    true_unsafe: int = 0
    false_unsafe: int = 0
    missed_unsafe: int = 0
    true_safe: int = 0

    @classmethod
    def of(cls, pairs: Iterable[tuple[bool, bool]]) -> Confusion:
        """Count pairs of (truly unsafe, flagged unsafe)."""
        cells = [0, 0, 0, 0]
        for truth, flagged in pairs:
            cells[(0 if flagged else 2) if truth else (1 if flagged else 3)] += 1
        return cls(*cells)

    @property
    def cells(self) -> tuple[int, int, int, int]:
        return (self.true_unsafe, self.false_unsafe, self.missed_unsafe, self.true_safe)

    @property
    def images(self) -> int:
        return sum(self.cells)


FIGURES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    # weights of the four cells above and below the fraction bar
    "accuracy": ((1, 0, 0, 1), (1, 1, 1, 1)),
    "precision": ((1, 0, 0, 0), (1, 1, 0, 0)),
    "recall": ((1, 0, 0, 0), (1, 0, 1, 0)),
    "f1": ((2, 0, 0, 0), (2, 1, 1, 0)),
}


def flag_figures(
    confusion: Confusion, samples: int, rng: np.random.Generator
) -> dict[str, MetricResult]:
    """Accuracy, precision, recall and F1 with 95 % percentile bootstrap intervals over images.

    Drawing images with replacement draws the cells of their confusion matrix from a multinomial
    distribution, so that is what is drawn. Draws in which a figure is not defined (no image
    flagged, say) are left out of its interval.
    """
    cells = np.array(confusion.cells, np.float64)
    total = confusion.images
    drawn = np.empty((0, 4))
    if total:
        drawn = rng.multinomial(total, cells / total, size=samples).astype(np.float64)
    results = {}
    for name, (above, below) in FIGURES.items():
        value = float(_ratio(cells @ np.array(above), cells @ np.array(below)))
        found = _ratio(drawn @ np.array(above), drawn @ np.array(below))
        found = found[~np.isnan(found)]
        tail = (1.0 - _LEVEL) / 2.0
        interval = None
        if total > 1 and found.size:
            low, high = np.quantile(found, [tail, 1.0 - tail])
            interval = (float(low), float(high))
        count = int(cells @ (np.array(below) > 0))
        defined = None if np.isnan(value) else value
        results[name] = MetricResult(
            defined, count, n_not_applicable=total - count, interval=interval
        )
    return results


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """``above / below``, NaN where ``below`` is zero."""
    empty = np.full(np.shape(below), np.nan)
    result: NDArray[np.float64] = np.divide(above, below, out=empty, where=below > 0)
    return result

"""Values of single images, read from the tables that an evaluation has written."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unsafe2safe.evaluation.results import Definition, Evaluation

_MOST = 200  # values that stand for a distribution: its quantiles, where there are more
_DIGITS = 4


@dataclass(frozen=True)
class ImageValues:
    """The values of each image, by row and metric; None where an image has none."""

    rows: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)

    def of(self, row: str, item: int) -> dict[str, float]:
        """All values of one image, by its place in the sorted data set."""
        return {
            name: value
            for name, values in self.rows.get(row, {}).items()
            if item < len(values) and (value := values[item]) is not None
        }

    @property
    def metrics(self) -> set[str]:
        """Metrics of which at least one image has a value."""
        return {
            name
            for values in self.rows.values()
            for name, column in values.items()
            if any(value is not None for value in column)
        }


def read_values(tables: Path, evaluation: Evaluation) -> ImageValues:
    """What ``tables/ROW.csv`` hold; rows without such a file are left out."""
    rows = {}
    known = [definition.name for definition in evaluation.definitions]
    for row in evaluation.rows:
        path = tables / f"{row.name}.csv"
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        columns = {name: [_value(line.get(name)) for line in lines] for name in known}
        rows[row.name] = {name: found for name, found in columns.items() if any_value(found)}
    return ImageValues(rows)


def any_value(column: Sequence[float | None]) -> bool:
    return any(value is not None for value in column)


def _value(text: str | None) -> float | None:
    if not text:
        return None
    value = float(text)
    return value if np.isfinite(value) else None


def distributions(evaluation: Evaluation, values: ImageValues) -> list[dict[str, Any]]:
    """For each metric with values of single images, what the page draws: a list per row."""
    measured = values.metrics
    return [
        {
            "name": definition.name,
            "title": definition.title,
            "group": definition.group,
            "direction": definition.direction,
            "rows": [
                _thinned(values.rows.get(row.name, {}).get(definition.name, ()))
                for row in evaluation.rows
            ],
        }
        for definition in evaluation.definitions
        if definition.name in measured
    ]


def _thinned(column: Sequence[float | None]) -> list[float]:
    """Sorted values; of many, the quantiles that keep the form of their distribution."""
    found = np.sort(np.array([value for value in column if value is not None], np.float64))
    if len(found) > _MOST:
        found = np.quantile(found, np.linspace(0.0, 1.0, _MOST))
    return [float(f"{value:.{_DIGITS}g}") for value in found]


def worst_metric(evaluation: Evaluation, values: ImageValues, wanted: str | None) -> str | None:
    """By what pictures are ordered: ``wanted``, or the first measure of privacy that has values."""
    measured = values.metrics
    if wanted in measured:
        return wanted
    judged = (d for d in evaluation.definitions if d.name in measured and d.direction != "none")
    ordered = sorted(judged, key=lambda d: d.group != "privacy")
    return ordered[0].name if ordered else None


def badness(definition: Definition, value: float | None) -> float:
    """The greater the worse; images without a value come last."""
    if value is None:
        return float("-inf")
    return -value if definition.direction == "up" else value

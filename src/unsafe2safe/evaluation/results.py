"""What an evaluation found, as it stands in ``metrics.json``."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import write_json
from unsafe2safe.core.pretrained import public_name
from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.rows import Kind
from unsafe2safe.metrics.base import Direction, Group, Metric

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Definition:
    """What a metric is and how it was set."""

    name: str
    title: str
    group: Group
    direction: Direction
    unit: str
    definition: str
    model: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class RowResult:
    """One row: its figures over all images, and over those that every row has.

    ``held_back`` counts images without an edited one, by reason; ``resized`` those whose edited
    image had another size than the original; ``unreadable`` those that could not be decoded.
    ``metrics_on_common`` is empty for rows of several evaluations, whose images nobody compared.
    """

    name: str
    title: str
    kind: Kind
    edited: int
    resized: int
    unreadable: int
    held_back: dict[str, int]
    metrics: dict[str, MetricResult]
    metrics_on_common: dict[str, MetricResult]


@dataclass(frozen=True)
class Comparison:
    """A paired test of two rows over the images that both have.

    ``difference`` is ``row`` minus ``other`` with its interval; ``p`` is two-sided, ``p_holm`` the
    same after Holm's correction over all comparisons of the evaluation.
    """

    metric: str
    row: str
    other: str
    n: int
    difference: float
    interval: tuple[float, float] | None
    p: float
    p_holm: float


@dataclass(frozen=True)
class Stratum:
    """The figures of the images of one kind: ``by`` names what divides them (``face_size``)."""

    by: str
    value: str
    images: int
    rows: dict[str, dict[str, MetricResult]]  # by row, then by metric


@dataclass(frozen=True)
class UtilityRow:
    """One training set: its figures on real test images, each over the seeds."""

    name: str
    title: str
    train_images: int
    metrics: dict[str, MetricResult]
    unavailable: str = ""


@dataclass(frozen=True)
class UtilityTable:
    """What models trained on each row's images are worth on real ones."""

    name: str
    title: str
    definition: str
    model: str
    seeds: tuple[int, ...]
    test_images: int
    directions: dict[str, Direction]  # by metric
    rows: tuple[UtilityRow, ...]


@dataclass(frozen=True)
class ReferenceCheck:
    """What a reference row must give, and whether it does: a check of the measuring itself."""

    what: str
    value: float
    expected: str
    passed: bool


@dataclass(frozen=True)
class Evaluation:
    """Everything measured. ``common`` counts the images that every row has; 0: not known."""

    dataset: str
    images: int
    common: int
    seed: int
    bootstrap: int
    masks: str
    references: str
    definitions: tuple[Definition, ...]
    rows: tuple[RowResult, ...]
    comparisons: tuple[Comparison, ...] = ()
    strata: tuple[Stratum, ...] = ()
    utility: tuple[UtilityTable, ...] = ()
    checks: tuple[ReferenceCheck, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Write ``metrics.json``; equal results give equal bytes."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Read ``metrics.json`` back.

        Raises:
            UsageError: it is missing, damaged, or of another schema version.
        """
        try:
            content = json.loads(path.read_text("utf-8"))
            version = content.get("schema_version") if isinstance(content, dict) else None
            if version != SCHEMA_VERSION:
                raise UsageError(f"{path} has schema version {version}, not {SCHEMA_VERSION}")
            found: Evaluation = TypeAdapter(cls).validate_python(content)
            return found
        except (OSError, json.JSONDecodeError, ValidationError) as error:
            told = str(error).splitlines()[0]
            raise UsageError(f"{path} is no readable metrics.json ({told})") from None


def define(name: str, metric: Metric) -> Definition:
    return Definition(
        name=name,
        title=metric.heading,
        group=metric.group,
        direction=metric.direction,
        unit=metric.unit,
        definition=metric.definition,
        model=public_name(metric.model),
        settings=_without_places(asdict(metric)),
    )


def _without_places(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as others may read them: files and folders by their last part."""
    return {
        key: _without_places(value)
        if isinstance(value, dict)
        else public_name(value)
        if isinstance(value, str)
        else value
        for key, value in settings.items()
    }


def figures_csv(evaluation: Evaluation) -> str:
    """A line for each row and metric."""
    header = (
        "row kind metric value low high n n_missing n_not_applicable value_on_common unavailable"
    )
    lines: list[list[object]] = [list(header.split())]
    for row in evaluation.rows:
        for name, result in row.metrics.items():
            ends = result.interval or (None, None)
            counts = (result.n, result.n_missing, result.n_not_applicable)
            common = row.metrics_on_common.get(name)
            told = (common.value if common else None, result.unavailable)
            lines.append([row.name, row.kind, name, result.value, *ends, *counts, *told])
    return as_csv(lines)


def as_csv(lines: list[list[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


_HEADLINE = (
    *("face_leak_rate", "text_leak_recall", "ssim_inside", "ssim_outside"),
    *("followed", "leaked", "leaked_letters", "reidentified", "outside_ssim"),
)


def headline(row: RowResult) -> str:
    """A line for the terminal."""
    told = [
        f"{name} {result.value:.3f}"
        for name, result in row.metrics.items()
        if name in _HEADLINE and result.value is not None
    ]
    return f"{row.title}: {', '.join(told) or 'see metrics.json'}"

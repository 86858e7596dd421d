"""The report: one HTML file without any reference to the network.

It shows figures, publishable pictures and public reasons; no text of any image, no path, no clock,
and no original picture unless ``report.include_originals`` asks for it.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from unsafe2safe.core.records import MetricResult, OutcomeState
from unsafe2safe.evaluation.results import Definition, Evaluation, RowResult
from unsafe2safe.evaluation.rows import RunRow
from unsafe2safe.evaluation.scatter import panels
from unsafe2safe.evaluation.subjects import Subjects
from unsafe2safe.vision.arrays import RgbImage, bounded

log = logging.getLogger("unsafe2safe")

_GROUPS = {
    "privacy": ("Privacy", "Can people be recognised, can texts be read?"),
    "cheating": ("Cheating", "Did the edit copy what it should have changed?"),
    "quality": ("Quality", "Is what should have stayed still there?"),
    "utility": ("Utility", "Is the result worth training on?"),
}
_PICTURE_SIDE = 480  # pixels
_SAME = 5e-4  # figures this close are told as equal


@dataclass(frozen=True)
class Picture:
    """A publishable picture as data URI, with its original where that was asked for."""

    name: str
    row: str
    edited: str
    original: str | None
    touched: bool


@dataclass(frozen=True)
class Cell:
    """A figure as told: rounded, with the extent of its bar in percent."""

    value: str
    interval: str
    counts: str
    best: bool
    bar: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    definition: Definition
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Section:
    title: str
    question: str
    lines: tuple[Line, ...]


def pictures(
    rows: Iterable[RunRow], subjects: Subjects, most: int, originals: bool
) -> list[Picture]:
    """At most ``most`` published pictures, edited ones first, shared out among the runs.

    Read from the published files through their verified outcomes; what cannot be read or was not
    published is not shown.
    """
    runs = list(rows)
    found: list[Picture] = []
    for index, row in enumerate(runs):
        room = (most - len(found)) // (len(runs) - index)
        for image_id in row.pictures(subjects.image_ids)[: max(room, 0)]:
            outcome = row.outcomes[image_id]
            try:
                edited = _data_uri(row.published(image_id))
                source = subjects.source.decode(subjects.record(image_id)) if originals else None
            except Exception as error:  # told among the failures of the measurement
                log.warning("%s is not shown: %s", image_id, type(error).__name__)
                continue
            found.append(
                Picture(
                    name=outcome.published_as or "",
                    row=row.title,
                    edited=edited,
                    original=_data_uri(source.pixels) if source else None,
                    touched=outcome.state == OutcomeState.ANONYMIZED,
                )
            )
    return found


def _data_uri(pixels: RgbImage) -> str:
    """A small JPEG made of pixels alone: nothing of a file's metadata can come along."""
    buffer = io.BytesIO()
    Image.fromarray(bounded(pixels, _PICTURE_SIDE)).save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def render(evaluation: Evaluation, shown: Sequence[Picture], versions: Mapping[str, str]) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("unsafe2safe.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context: dict[str, Any] = {
        "evaluation": evaluation,
        "sections": sections(evaluation, [row.metrics for row in evaluation.rows]),
        "common": sections(evaluation, [row.metrics_on_common for row in evaluation.rows])
        if evaluation.common < evaluation.images
        else [],
        "cards": _cards(evaluation),
        "panels": panels(evaluation),
        "pictures": shown,
        "versions": dict(sorted(versions.items())),
        "models": sorted({item.model for item in evaluation.definitions if item.model}),
    }
    return environment.get_template("report.html.j2").render(context)


def sections(
    evaluation: Evaluation, figures: Sequence[Mapping[str, MetricResult]]
) -> list[Section]:
    """The table: metrics by group, one cell per row of the evaluation."""
    found = []
    for group, (title, question) in _GROUPS.items():
        lines = tuple(
            Line(definition, _cells(definition, evaluation.rows, figures))
            for definition in evaluation.definitions
            if definition.group == group
        )
        if lines:
            found.append(Section(title, question, lines))
    return found


def _cells(
    definition: Definition, rows: Sequence[RowResult], figures: Sequence[Mapping[str, MetricResult]]
) -> tuple[Cell, ...]:
    results = [row_figures[definition.name] for row_figures in figures]
    ends = [end for result in results for end in (result.interval or ())]
    values = [result.value for result in results if result.value is not None]
    full = max(1.0, *(abs(number) for number in (*values, *ends)), 0.0)
    best = _best(definition, rows, results)
    return tuple(
        _cell(definition, result, full, best=index in best) for index, result in enumerate(results)
    )


def _best(
    definition: Definition, rows: Sequence[RowResult], results: Sequence[MetricResult]
) -> set[int]:
    """Indices of the best among the rows that are no reference, where several are compared."""
    values = {
        index: result.value
        for index, (row, result) in enumerate(zip(rows, results, strict=True))
        if row.kind != "reference" and result.value is not None
    }
    if len(values) < 2 or definition.direction == "none":
        return set()
    top = max(values.values()) if definition.direction == "up" else min(values.values())
    return {index for index, value in values.items() if abs(value - top) < _SAME}


def _cell(definition: Definition, result: MetricResult, full: float, *, best: bool) -> Cell:
    counts = [f"{result.n} {definition.unit}{'' if result.n == 1 else 's'}"]
    if result.n_missing:
        counts.append(f"{result.n_missing} missing")
    if result.n_not_applicable:
        counts.append(f"{result.n_not_applicable} n/a")
    if result.unavailable:
        return Cell("not available", "", result.unavailable, best=False, bar=0, low=0, high=0)
    if result.value is None:
        return Cell("none", "", ", ".join(counts), best=False, bar=0, low=0, high=0)
    low, high = result.interval or (result.value, result.value)
    return Cell(
        value=_number(result.value),
        interval=_interval(result),
        counts=", ".join(counts),
        best=best,
        bar=_percent(result.value, full),
        low=_percent(low, full),
        high=_percent(high, full),
    )


def _interval(result: MetricResult) -> str:
    """In words where resampling says nothing: a single image, or the same value everywhere."""
    if result.interval is None:
        return "no interval from one image"
    low, high = result.interval
    return "no spread" if low == high else f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _percent(value: float, full: float) -> float:
    return round(100.0 * min(max(value / full, 0.0), 1.0), 2)


@dataclass(frozen=True)
class Card:
    """One figure at the top of the page."""

    label: str
    value: str
    note: str


_CARDS = (
    ("face_leak_rate", "Faces still recognised"),
    ("text_leak_recall", "Lines of text still readable"),
    ("ssim_outside", "Kept outside the masks (SSIM)"),
    ("ssim_inside", "Kept inside the masks (SSIM)"),
    ("followed", "Asked changes found"),
    ("leaked", "Original values still found"),
    ("leaked_letters", "Original letters still read"),
    ("outside_ssim", "Kept outside what is private (SSIM)"),
)
_RATES = {"face_leak_rate", "text_leak_recall", "followed", "leaked", "leaked_letters"}


def _cards(evaluation: Evaluation) -> list[Card]:
    """What the first measured row comes to, beside what identity does."""
    measured = [row for row in evaluation.rows if row.kind != "reference"]
    if not measured:
        return []
    first = measured[0]
    cards = [Card("Images with an edited one", f"{first.edited} of {evaluation.images}", "")]
    for name, label in _CARDS:
        result = first.metrics.get(name)
        if result is None or result.value is None:
            continue
        value = f"{result.value:.0%}" if name in _RATES else f"{result.value:.3f}"
        references = [
            f"{row.name} {_number(found)}"
            for row in evaluation.rows
            if row.kind == "reference" and (found := row.metrics[name].value) is not None
        ]
        cards.append(Card(label, value, ", ".join(references)))
    return cards

"""The report's tables: what stands in each line, told by templates and by LaTeX alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unsafe2safe.core.ledger import flatten
from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.report.cells import (
    Cell,
    best_of,
    full_scale,
    make_cell,
    row_of_cells,
)
from unsafe2safe.evaluation.results import (
    Comparison,
    Definition,
    Evaluation,
    RowResult,
    Stratum,
    UtilityTable,
)
from unsafe2safe.metrics.base import Group

GROUPS: dict[Group, tuple[str, str]] = {
    "privacy": ("Privacy", "Can people be recognised, can texts be read?"),
    "cheating": ("Cheating", "Did the edit copy what it should have changed?"),
    "quality": ("Quality", "Is what should have stayed still there?"),
    "utility": ("Utility", "Is the result worth training on?"),
}
# Where the configuration names nothing that was measured: so many first ones of each group.
_HEADLINE_OF_GROUP = {"privacy": 3, "cheating": 1, "quality": 2, "utility": 1}
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Line:
    """One metric over all rows."""

    definition: Definition
    cells: tuple[Cell, ...]
    unavailable: str = ""  # why no row has it


@dataclass(frozen=True)
class Section:
    """All metrics of a group."""

    group: Group
    title: str
    question: str
    lines: tuple[Line, ...]


def sections(
    evaluation: Evaluation, figures: Sequence[Mapping[str, MetricResult]]
) -> list[Section]:
    """Metrics by group, one cell per row of the evaluation."""
    found = []
    for group, (title, question) in GROUPS.items():
        lines = tuple(
            _line(definition, evaluation.rows, figures)
            for definition in evaluation.definitions
            if definition.group == group
        )
        if lines:
            found.append(Section(group, title, question, lines))
    return found


def _line(
    definition: Definition, rows: Sequence[RowResult], figures: Sequence[Mapping[str, MetricResult]]
) -> Line:
    results = [row_figures[definition.name] for row_figures in figures]
    why = {result.unavailable for result in results}
    unavailable = why.pop() if len(why) == 1 else ""
    return Line(definition, row_of_cells(definition, rows, results), unavailable)


@dataclass(frozen=True)
class HeadlineRow:
    """One row of the evaluation with its cells, one per column."""

    index: int
    row: RowResult
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Headline:
    """The table on top: rows down, the metrics that say most across, by group."""

    groups: tuple[tuple[str, int], ...]  # title and number of columns
    columns: tuple[Definition, ...]
    rows: tuple[HeadlineRow, ...]


def headline(evaluation: Evaluation, wanted: Sequence[str]) -> Headline:
    """The ``wanted`` metrics, of those measured, or the first of each group where none is one."""
    columns = headline_metrics(evaluation, wanted)
    figures = [row.metrics for row in evaluation.rows]
    lines = [_line(definition, evaluation.rows, figures) for definition in columns]
    rows = tuple(
        HeadlineRow(index, row, tuple(line.cells[index] for line in lines))
        for index, row in enumerate(evaluation.rows)
    )
    sizes = {group: sum(item.group == group for item in columns) for group in GROUPS}
    groups = tuple((GROUPS[group][0], size) for group, size in sizes.items() if size)
    return Headline(groups, tuple(columns), rows)


def headline_metrics(evaluation: Evaluation, wanted: Sequence[str]) -> list[Definition]:
    """What the headline shows, by group, and within a group in the order of ``wanted``."""
    measured = {
        item.name: item
        for item in evaluation.definitions
        if any(row.metrics[item.name].value is not None for row in evaluation.rows)
    }
    chosen = [measured[name] for name in dict.fromkeys(wanted) if name in measured]
    if not chosen:
        for group, most in _HEADLINE_OF_GROUP.items():
            of_group = [item for item in measured.values() if item.group == group]
            judged = [item for item in of_group if item.direction != "none"]
            chosen += (judged or of_group)[:most]
    return sorted(chosen, key=lambda item: list(GROUPS).index(item.group))


@dataclass(frozen=True)
class ComparisonLine:
    """A paired test; ``low``, ``high``, ``bar`` and ``zero`` are places in percent."""

    metric: str
    row: str
    other: str
    n: int
    difference: str
    interval: str
    p: str
    p_holm: str
    verdict: str
    low: float
    high: float
    bar: float
    zero: float = 50.0

    @property
    def spread(self) -> float:
        return round(max(self.high - self.low, 0.8), 2)


def comparison_lines(evaluation: Evaluation) -> list[ComparisonLine]:
    """All paired tests, each metric's differences on one scale around zero."""
    named = {item.name: item for item in evaluation.definitions}
    titles = {row.name: row.title for row in evaluation.rows}
    scale: dict[str, float] = {}
    for item in evaluation.comparisons:
        ends = [abs(end) for end in (item.interval or ())] + [abs(item.difference)]
        scale[item.metric] = max(scale.get(item.metric, 1e-12), *ends)
    lines = []
    for item in evaluation.comparisons:
        full = 1.05 * scale[item.metric]
        low, high = item.interval or (item.difference, item.difference)
        definition = named.get(item.metric)
        lines.append(
            ComparisonLine(
                metric=definition.title if definition else item.metric,
                row=titles.get(item.row, item.row),
                other=titles.get(item.other, item.other),
                n=item.n,
                difference=f"{item.difference:+.3f}",
                interval=f"{low:+.3f} to {high:+.3f}" if item.interval else "no interval",
                p=p_value(item.p),
                p_holm=p_value(item.p_holm),
                verdict=_verdict(item, definition),
                low=_around_zero(low, full),
                high=_around_zero(high, full),
                bar=_around_zero(item.difference, full),
            )
        )
    return lines


def _verdict(item: Comparison, definition: Definition | None) -> str:
    if item.p_holm >= _SIGNIFICANT:
        return "not told apart"
    direction = definition.direction if definition else "none"
    if direction == "none":
        return "differs"
    return "better" if (item.difference > 0) == (direction == "up") else "worse"


def _around_zero(value: float, full: float) -> float:
    return round(50.0 + 50.0 * min(max(value / full, -1.0), 1.0), 2)


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


@dataclass(frozen=True)
class StratumLine:
    """One metric of one row over the values of what divides the images."""

    index: int
    row: RowResult
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class StrataTable:
    """The images divided by one thing, for one metric."""

    by: str
    metric: Definition
    values: tuple[tuple[str, int], ...]  # with the number of images
    lines: tuple[StratumLine, ...]


def strata_tables(evaluation: Evaluation, wanted: Sequence[str]) -> list[StrataTable]:
    """For each division and each metric of the headline, its figures side by side."""
    tables = []
    by: dict[str, list[Stratum]] = {}
    for stratum in evaluation.strata:
        by.setdefault(stratum.by, []).append(stratum)
    shown = headline_metrics(evaluation, wanted)
    for name, strata in by.items():
        for definition in shown:
            lines = _stratum_lines(evaluation.rows, strata, definition)
            if lines:
                values = tuple((stratum.value, stratum.images) for stratum in strata)
                told = name.replace("_", " ")
                tables.append(StrataTable(told, definition, values, tuple(lines)))
    return tables


def _stratum_lines(
    rows: Sequence[RowResult], strata: Sequence[Stratum], definition: Definition
) -> list[StratumLine]:
    """The rows that were measured in at least one stratum, all on one scale."""
    found = [
        (index, row, [s.rows.get(row.name, {}).get(definition.name) for s in strata])
        for index, row in enumerate(rows)
    ]
    full = full_scale([result for *_, results in found for result in results if result])
    return [
        StratumLine(
            index,
            row,
            tuple(make_cell(r or MetricResult(None, 0), definition.unit, full) for r in results),
        )
        for index, row, results in found
        if any(results)
    ]


@dataclass(frozen=True)
class UtilityLine:
    """One training set."""

    title: str
    train_images: int
    unavailable: str
    cells: tuple[Cell, ...]


def utility_lines(table: UtilityTable) -> list[UtilityLine]:
    """What each training set is worth; the original is a reference, never marked as best."""
    reference = [row.name in _CONTROLS for row in table.rows]
    columns = []
    for metric, direction in table.directions.items():
        results = [row.metrics.get(metric, MetricResult(None, 0)) for row in table.rows]
        best, full = best_of(direction, results, reference), full_scale(results)
        columns.append(
            [make_cell(r, "run", full, best=index in best) for index, r in enumerate(results)]
        )
    return [
        UtilityLine(
            row.title, row.train_images, row.unavailable, tuple(column[index] for column in columns)
        )
        for index, row in enumerate(table.rows)
    ]


_CONTROLS = {"original", "original_kept", "drop_unsafe", "blur", "mask", "identity", "unrelated"}


@dataclass(frozen=True)
class Reason:
    """Why images of a row are missing or were not measured."""

    text: str
    count: int
    share: float  # of all images, in percent


def reasons(
    evaluation: Evaluation, failures: Mapping[str, Mapping[str, int]]
) -> list[tuple[int, RowResult, tuple[Reason, ...]]]:
    """Rows with what is missing in each, the most frequent reason first.

    ``failures`` counts, by row, what could not be measured, by reason.
    """
    found = []
    for index, row in enumerate(evaluation.rows):
        counted = dict(row.held_back)
        for text, count in failures.get(row.name, {}).items():
            counted[text] = counted.get(text, 0) + count
        ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        told = tuple(
            Reason(text, count, round(100.0 * count / max(evaluation.images, 1), 2))
            for text, count in ordered
        )
        if told or row.kind != "reference":
            found.append((index, row, told))
    return found


def settings_told(definition: Definition) -> dict[str, str]:
    """A metric's settings as text, those of its parts under dotted names."""
    return {
        key: f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in flatten(definition.settings).items()
        if not key.endswith("_target_")
    }

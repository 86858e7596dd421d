"""Finished evaluations in one table and report: ``evaluate.py suite=compare``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import write_text
from unsafe2safe.core.ledger import RunFolder, read_run
from unsafe2safe.core.records import MetricResult, RunResult
from unsafe2safe.evaluation.report.per_image import ImageValues, read_values
from unsafe2safe.evaluation.results import (
    Evaluation,
    RowResult,
    Stratum,
    UtilityRow,
    UtilityTable,
    figures_csv,
    headline,
)
from unsafe2safe.jobs.common import find_input, result_of, run_spec
from unsafe2safe.jobs.evaluate_report import track, write_report

log = logging.getLogger("unsafe2safe")

# Everything else is the evaluations' own.
_UNUSED = (
    *("dataset", "editor", "metrics", "references", "blur_sigma", "mask_margin"),
    *("mask_categories", "bootstrap", "vision", "triplets", "runs", "originals", "edited", "seed"),
    *("evaluations", "suite.utility"),
)


@dataclass(frozen=True)
class _Part:
    """One evaluation: its name in the table, and its rows by their names there."""

    name: str
    folder: Path
    state: Mapping[str, Any]
    evaluation: Evaluation


def run(config: Evaluate) -> RunResult:
    """Write metrics.json, report.html and tables over all rows of ``config.evaluations``.

    Raises:
        UsageError: fewer than two are given, one is no complete evaluation, or two differ in
            data, schema or in how something was measured.
    """
    if len(config.evaluations) < 2:
        raise UsageError("evaluations=[A,B,...] names at least two run folders of evaluate.py")
    parts = _read(config)
    for part in parts[1:]:
        _refuse_other(parts[0], part)
    merged, names = _merge(parts)
    inputs = {f"evaluations.{index}": part.folder for index, part in enumerate(parts)}
    spec = run_spec(
        config, "evaluate", "compare", inputs, ignored=_UNUSED, dataset={"name": merged.dataset}
    )
    with RunFolder.open(spec, config.existing) as folder:
        if not folder.complete:
            write_text(folder.path / "tables" / "figures.csv", figures_csv(merged))
            merged.write(folder.path / "metrics.json")
            folder.write_failures(())
            counts = {"evaluations": len(parts), "rows": len(merged.rows), "images": merged.images}
            folder.finish(counts, report=None)
        evaluation = Evaluation.read(folder.path / "metrics.json")
        write_report(folder, config, evaluation, values=_values(parts, names))
        track(folder, config, evaluation)
        lines = [f"{len(parts)} evaluations, {len(evaluation.rows)} rows"]
        lines += [headline(row) for row in evaluation.rows]
        lines.append(f"report: {folder.path / 'report.html'}")
        written = ("metrics.json", "report.html", "tables")
        return result_of(folder, 0, "\n".join(lines), *(folder.path / name for name in written))


def _read(config: Evaluate) -> list[_Part]:
    found = []
    for path in config.evaluations:
        folder = find_input(config, "evaluations", path, "evaluate", "python evaluate.py")
        evaluation = Evaluation.read(folder / "metrics.json")
        found.append(_Part(folder.resolve().name, folder, read_run(folder) or {}, evaluation))
    if len({part.folder.resolve() for part in found}) < len(found):
        raise UsageError("evaluations names one folder twice")
    counts = Counter(part.name for part in found)
    return [
        replace(part, name=f"{part.name}-{index + 1}") if counts[part.name] > 1 else part
        for index, part in enumerate(found)
    ]


def _refuse_other(first: _Part, part: _Part) -> None:
    """Raise where the figures of two evaluations may not stand in one table."""
    one, other = first.evaluation, part.evaluation
    where = f"{first.folder} and {part.folder} cannot be compared"
    if one.dataset != other.dataset or _data(first.state) != _data(part.state):
        raise UsageError(f"{where}: they are of different data ({one.dataset}, {other.dataset})")
    if one.images != other.images:
        raise UsageError(f"{where}: they are of {one.images} and of {other.images} images")
    if one.masks != other.masks:
        raise UsageError(f"{where}: their masks differ ({one.masks}; {other.masks})")
    if one.bootstrap != other.bootstrap:
        raise UsageError(
            f"{where}: their intervals rest on {one.bootstrap} and on {other.bootstrap} draws"
        )
    defined = [
        {item.name: asdict(item) for item in evaluation.definitions} for evaluation in (one, other)
    ]
    differing = [name for name in {**defined[0], **defined[1]} if _differs(name, *defined)]
    if differing:
        raise UsageError(f"{where}: they define {', '.join(sorted(differing))} differently")


def _differs(name: str, one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return one.get(name) != other.get(name)


def _data(state: Mapping[str, Any]) -> str:
    """Which originals an evaluation is of; of two folders, the edited one may be another."""
    return str(state["keys"].get("originals.files") or state["dataset"])


Names = Mapping[tuple[str, str], str]  # (evaluation, row) to the row's name in the table


def _merge(parts: Sequence[_Part]) -> tuple[Evaluation, Names]:
    """All rows in one evaluation, references last, and once where they are the same."""
    kept: list[tuple[_Part, RowResult]] = []
    names: dict[tuple[str, str], str] = {}
    same: dict[str, RowResult] = {}
    for part in parts:
        for row in part.evaluation.rows:
            if row.kind == "reference" and row.name in same and row == same[row.name]:
                continue
            if row.kind == "reference":
                same.setdefault(row.name, row)
            kept.append((part, row))
    by_name = Counter(row.name for _, row in kept)
    by_title = Counter(row.title for _, row in kept)
    rows = []
    for part, row in kept:
        name = f"{part.name}.{row.name}" if by_name[row.name] > 1 else row.name
        title = f"{row.title} ({part.name})" if by_title[row.title] > 1 else row.title
        names[part.name, row.name] = name
        rows.append(replace(row, name=name, title=title, metrics_on_common={}))
    rows.sort(key=lambda row: row.kind == "reference")
    first = parts[0].evaluation
    seeds = ", ".join(f"{part.name} {part.evaluation.seed}" for part in parts)
    merged = replace(
        first,
        common=0,
        references=f"{first.references}. Rows of {len(parts)} evaluations, with their seeds: "
        f"{seeds}; paired tests are of rows of one evaluation, each corrected by itself",
        rows=tuple(rows),
        comparisons=tuple(
            replace(item, row=names[part.name, item.row], other=names[part.name, item.other])
            for part in parts
            for item in part.evaluation.comparisons
            if (part.name, item.row) in names and (part.name, item.other) in names
        ),
        strata=_strata(parts, names),
        utility=_utility(parts),
        checks=tuple(
            replace(check, what=f"{part.name}: {check.what}")
            for part in parts
            for check in part.evaluation.checks
        ),
    )
    return merged, names


def _strata(parts: Sequence[_Part], names: Names) -> tuple[Stratum, ...]:
    """Strata of the same images, each with the rows of all evaluations."""
    found: dict[tuple[str, str, int], dict[str, dict[str, MetricResult]]] = {}
    for part in parts:
        for stratum in part.evaluation.strata:
            rows = found.setdefault((stratum.by, stratum.value, stratum.images), {})
            for name, metrics in stratum.rows.items():
                if (part.name, name) in names:
                    rows[names[part.name, name]] = metrics
    return tuple(Stratum(*key, rows=rows) for key, rows in found.items())


def _utility(parts: Sequence[_Part]) -> tuple[UtilityTable, ...]:
    """Tables of one protocol joined; a control that gave the same stands in it once."""
    found: list[UtilityTable] = []
    for part in parts:
        for table in part.evaluation.utility:
            bare = replace(table, rows=())
            place = next((i for i, t in enumerate(found) if replace(t, rows=()) == bare), None)
            if place is None:
                found.append(table)
                continue
            joined: list[UtilityRow] = list(found[place].rows)
            for row in table.rows:
                if row in joined:
                    continue
                if all(row.name != other.name for other in joined):
                    joined.append(row)
                    continue
                name, title = f"{part.name}.{row.name}", f"{row.title} ({part.name})"
                joined.append(replace(row, name=name, title=title))
            found[place] = replace(found[place], rows=tuple(joined))
    return tuple(found)


def _values(parts: Sequence[_Part], names: Names) -> ImageValues:
    """Values of single images, under the rows' names in the table."""
    found = {}
    for part in parts:
        values = read_values(part.folder / "tables", part.evaluation).rows
        for row, columns in values.items():
            if (part.name, row) in names:
                found[names[part.name, row]] = columns
    return ImageValues(found)

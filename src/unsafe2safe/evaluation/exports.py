"""What an evaluation is handed on as: CSV, LaTeX, and the JSON schema of its ``metrics.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from unsafe2safe.core.files import write_text
from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.report.cells import best_of, measurable, number
from unsafe2safe.evaluation.report.tables import GROUPS, headline_metrics
from unsafe2safe.evaluation.results import SCHEMA_VERSION, Evaluation, as_csv

SCHEMA_FILE = "metrics.schema.json"


def write_exports(folder: Path, evaluation: Evaluation, headline: Sequence[str]) -> None:
    """Write the schema beside ``metrics.json``, and to ``tables/`` what is beside the figures.

    A table that would be empty is not written.
    """
    write_text(folder / SCHEMA_FILE, schema_json())
    tables = folder / "tables"
    write_text(tables / "table.tex", latex_table(evaluation, headline))
    for name, lines in (
        ("details", _details(evaluation)),
        ("comparisons", _comparisons(evaluation)),
        ("strata", _strata(evaluation)),
        ("utility", _utility(evaluation)),
        ("checks", _checks(evaluation)),
    ):
        if len(lines) > 1:
            write_text(tables / f"{name}.csv", as_csv(lines))


def schema_json() -> str:
    """The JSON Schema (2020-12) that every ``metrics.json`` of this version satisfies."""
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **TypeAdapter(Evaluation).json_schema(),
        "title": "Unsafe2Safe evaluation",
    }
    schema["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    schema["required"] = sorted({*schema["required"], "schema_version"})
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def figure_rows(evaluation: Evaluation) -> tuple[list[str], list[list[str | int | float | None]]]:
    """Columns and a line for each row and metric, as trackers keep them."""
    columns = [
        "row",
        "title",
        "kind",
        "group",
        "metric",
        "value",
        "low",
        "high",
        "n",
        "n_missing",
        "n_not_applicable",
    ]
    lines: list[list[str | int | float | None]] = []
    for row in evaluation.rows:
        for item in evaluation.definitions:
            result = row.metrics[item.name]
            lines.append([row.name, row.title, row.kind, item.group, item.name, *_figures(result)])
            lines[-1] += [result.n, result.n_missing, result.n_not_applicable, result.unavailable]
    return [*columns, "unavailable"], lines


def _figures(result: MetricResult) -> list[float | None]:
    return [result.value, *(result.interval or (None, None))]


def _details(evaluation: Evaluation) -> list[list[object]]:
    lines: list[list[object]] = [["row", "metric", "detail", "value"]]
    for row in evaluation.rows:
        for name, result in row.metrics.items():
            lines += [[row.name, name, detail, value] for detail, value in result.details.items()]
    return lines


def _comparisons(evaluation: Evaluation) -> list[list[object]]:
    lines: list[list[object]] = [
        ["metric", "row", "other", "n", "difference", "low", "high", "p", "p_holm"]
    ]
    for item in evaluation.comparisons:
        ends = item.interval or (None, None)
        figures = (item.n, item.difference, *ends, item.p, item.p_holm)
        lines.append([item.metric, item.row, item.other, *figures])
    return lines


def _strata(evaluation: Evaluation) -> list[list[object]]:
    lines: list[list[object]] = [
        ["by", "stratum", "images", "row", "metric", "value", "low", "high", "n"]
    ]
    for stratum in evaluation.strata:
        for row, metrics in stratum.rows.items():
            for metric, result in metrics.items():
                named = [stratum.by, stratum.value, stratum.images, row, metric]
                lines.append([*named, *_figures(result), result.n])
    return lines


def _utility(evaluation: Evaluation) -> list[list[object]]:
    lines: list[list[object]] = [
        ["table", "row", "train_images", "metric", "value", "low", "high", "seeds"]
    ]
    for table in evaluation.utility:
        for row in table.rows:
            for metric, result in row.metrics.items():
                named = [table.name, row.name, row.train_images, metric]
                lines.append([*named, *_figures(result), result.n])
    return lines


def _checks(evaluation: Evaluation) -> list[list[object]]:
    lines: list[list[object]] = [["what", "value", "expected", "passed"]]
    lines += [[item.what, item.value, item.expected, item.passed] for item in evaluation.checks]
    return lines


_ARROWS = {"up": r" $\uparrow$", "down": r" $\downarrow$", "none": ""}


def latex_table(evaluation: Evaluation, headline: Sequence[str]) -> str:
    r"""The headline as a booktabs table: value and interval, the best in bold.

    The document needs ``\usepackage{booktabs}``.
    """
    columns = headline_metrics(evaluation, headline)
    groups = [
        (GROUPS[group][0], len(list(items)))
        for group, items in groupby(columns, key=lambda item: item.group)
    ]
    over, rules, place = [""], [], 2
    for title, size in groups:
        over.append(rf"\multicolumn{{{size}}}{{c}}{{{escape(title)}}}")
        rules.append(rf"\cmidrule(lr){{{place}-{place + size - 1}}}")
        place += size
    names = ["Row", *(escape(item.title) + _ARROWS[item.direction] for item in columns)]
    reference = [row.kind == "reference" for row in evaluation.rows]
    cells: list[list[str]] = [[] for _ in evaluation.rows]
    for item in columns:
        results = [row.metrics[item.name] for row in evaluation.rows]
        best = best_of(item.direction, results, reference)
        for index, result in enumerate(results):
            cells[index].append(_latex_cell(result, bold=index in best))
    lines = [
        f"% {evaluation.dataset.encode('ascii', 'replace').decode()}, {evaluation.images} images; "
        r"\usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'c' * len(columns)}}}",
        r"\toprule",
        *([_latex_line(over), " ".join(rules)] if groups else []),
        _latex_line(names),
        r"\midrule",
    ]
    for index, row in enumerate(evaluation.rows):
        if index and reference[index] and not reference[index - 1]:
            lines.append(r"\midrule")
        lines.append(_latex_line([escape(row.title), *cells[index]]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(result: MetricResult, *, bold: bool) -> str:
    if result.value is None or not measurable(result):
        return "--"
    value = number(result.value)
    told = rf"\textbf{{{value}}}" if bold else value
    if result.interval is None:
        return told
    low, high = (number(end) for end in result.interval)
    return rf"{told} {{\scriptsize [{low}, {high}]}}"


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def escape(text: str) -> str:
    """``text`` with what LaTeX reads as commands made plain."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)

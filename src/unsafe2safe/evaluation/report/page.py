"""The report: one HTML file without any reference to the network.

It shows figures, publishable pictures and public reasons; no text of any image, no path, no clock,
and no original picture unless ``report.include_originals`` asks for it. Plotly's script travels in
the file, compressed: a browser unpacks it, so that a report has 2 MB and not 5.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from unsafe2safe.core.config.schema import Report
from unsafe2safe.evaluation.report import tables, tradeoffs
from unsafe2safe.evaluation.report.cells import number
from unsafe2safe.evaluation.report.palette import PALETTE, css, dark_of_light, series
from unsafe2safe.evaluation.report.per_image import ImageValues, distributions, worst_metric
from unsafe2safe.evaluation.report.pictures import Picture
from unsafe2safe.evaluation.results import Evaluation


@dataclass(frozen=True)
class Shown:
    """What the page shows beside the figures of ``metrics.json``.

    ``failures`` counts, by row, what could not be measured, by reason; ``versions`` are those of
    the libraries that measured.
    """

    pictures: Sequence[Picture] = ()
    values: ImageValues = field(default_factory=ImageValues)
    failures: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def render(evaluation: Evaluation, shown: Shown, settings: Report) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("unsafe2safe.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.globals["series"] = series
    return environment.get_template("report.html.j2").render(_context(evaluation, shown, settings))


def _context(evaluation: Evaluation, shown: Shown, settings: Report) -> dict[str, Any]:
    own = [row for row in evaluation.rows if row.kind != "reference"]
    planes = tradeoffs.planes(evaluation, settings.headline)
    spread = distributions(evaluation, shown.values)
    titles = {item.name: item for item in evaluation.definitions}
    sortable = [
        titles[item["name"]]
        for item in spread
        if item["direction"] != "none" and any(item["name"] in p.values for p in shown.pictures)
    ]
    figures = tables.sections(evaluation, [row.metrics for row in evaluation.rows])
    cells = [cell for section in figures for line in section.lines for cell in line.cells]
    shared = 0 < evaluation.common < evaluation.images
    return {
        "evaluation": evaluation,
        "own": own,
        "references": len(evaluation.rows) - len(own),
        "held": sum(sum(row.held_back.values()) for row in own),
        "headline": tables.headline(evaluation, settings.headline),
        "sections": figures,
        "detailed": any(cell.details for cell in cells),
        "with_chance": any(cell.chance is not None for cell in cells),
        "common": tables.sections(evaluation, [row.metrics_on_common for row in evaluation.rows])
        if shared
        else [],
        "planes": planes,
        "spread": spread,
        "pictures": shown.pictures,
        "order": worst_metric(evaluation, shown.values, settings.order_by),
        "sortable": sortable,
        "comparisons": tables.comparison_lines(evaluation),
        "strata": tables.strata_tables(evaluation, settings.headline),
        "utility": [(table, tables.utility_lines(table)) for table in evaluation.utility],
        "reasons": tables.reasons(evaluation, shown.failures),
        "passed": sum(check.passed for check in evaluation.checks),
        "versions": dict(sorted(shown.versions.items())),
        "models": sorted({item.model for item in evaluation.definitions if item.model}),
        "group_titles": {name: title for name, (title, _) in tables.GROUPS.items()},
        "settings_told": tables.settings_told,
        "palette": css(),
        "data": {
            "dark": dark_of_light(),
            "tone": {name: colour.light for name, colour in PALETTE.items()},
            "planes": {
                plane.key: tradeoffs.figure(plane) | {"close": tradeoffs.close_up(plane)}
                for plane in planes
            },
            "spread": {item["name"]: item for item in spread},
            "rows": [
                {"title": row.title, "kind": row.kind, "colour": tradeoffs.light(index, row.kind)}
                for index, row in enumerate(evaluation.rows)
            ],
        },
        "plotly": _packed_plotly() if planes or spread else "",
        "plotly_version": version("plotly"),
    }


@cache
def _packed_plotly() -> str:
    """Plotly's script, gzipped, as base64; the same bytes each time."""
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode("utf-8"), 9, mtime=0)
    return base64.b64encode(packed).decode("ascii")

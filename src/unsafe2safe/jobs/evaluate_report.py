"""The last steps of every evaluation: its page, its tables for papers, its tracker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.files import write_text
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.evaluation.exports import figure_rows, write_exports
from unsafe2safe.evaluation.report import tradeoffs
from unsafe2safe.evaluation.report.page import Shown, render
from unsafe2safe.evaluation.report.per_image import ImageValues, read_values, worst_metric
from unsafe2safe.evaluation.report.pictures import pictures
from unsafe2safe.evaluation.report.tables import headline_metrics
from unsafe2safe.evaluation.results import Evaluation
from unsafe2safe.evaluation.rows import Row
from unsafe2safe.evaluation.subjects import Subjects
from unsafe2safe.jobs.common import plain
from unsafe2safe.metrics.tradeoff import Tradeoff, draw_tradeoff
from unsafe2safe.tracking.opening import open_tracker


def write_report(
    folder: RunFolder,
    config: Evaluate,
    evaluation: Evaluation,
    rows: Sequence[Row] = (),
    subjects: Subjects | None = None,
    values: ImageValues | None = None,
) -> None:
    """Write report.html and the tables; again where the same figures are to be shown in another
    way. Pictures are those of ``rows``; ``values`` of single images are read from the tables."""
    wanted = plain(config)["report"]
    path = folder.path / "report.html"
    if folder.state.get("report") == wanted and path.exists():
        return
    settings = config.report
    write_exports(folder.path, evaluation, settings.headline)
    if values is None:
        values = read_values(folder.path / "tables", evaluation)
    order = worst_metric(evaluation, values, settings.order_by)
    definition = next((item for item in evaluation.definitions if item.name == order), None)
    shown = Shown(
        pictures=pictures(
            rows,
            subjects,
            values,
            definition,
            most=settings.max_pictures,
            originals=settings.include_originals,
        )
        if subjects is not None
        else (),
        values=values,
        failures=_failures(folder.path / "failures.jsonl"),
        versions=folder.state["versions"],
    )
    write_text(path, render(evaluation, shown, settings))
    folder.finish(folder.state["counts"], report=wanted)


def _failures(path: Path) -> Mapping[str, Mapping[str, int]]:
    """How often each row failed, by reason."""
    counts: dict[str, Counter[str]] = {}
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            failure = json.loads(line)
            counts.setdefault(failure["row"], Counter())[failure["reason"]] += 1
    return counts


def track(folder: RunFolder, config: Evaluate, evaluation: Evaluation) -> None:
    """Hand figures, tables and the scatter to the tracker, once for each kind of it."""
    name = config.logger.name
    if name in ("none", folder.state.get("logged")):
        return
    figures = {
        f"{row.name}/{metric}": result.value
        for row in evaluation.rows
        for metric, result in row.metrics.items()
        if result.value is not None
    }
    run_id = str(folder.state["fingerprint"])
    planes = tradeoffs.planes(evaluation, config.report.headline)
    with open_tracker(
        config.logger, folder.path, plain(config), run_id, list(figures), keep_until=-1
    ) as tracker:
        tracker.log_metrics(0, figures)
        tracker.log_summary(_summary(config, evaluation, planes))
        tracker.log_table("all_figures", *figure_rows(evaluation))
        for plane in planes[:1]:
            points = [Tradeoff(p.privacy, p.fidelity, p.index) for p in plane.points]
            drawing = draw_tradeoff(points, None)
            tracker.log_figure("privacy_against_fidelity", tradeoffs.figure(plane), drawing)
    folder.finish(folder.state["counts"], logged=name)


def _summary(
    config: Evaluate, evaluation: Evaluation, planes: Sequence[tradeoffs.Plane]
) -> dict[str, float]:
    """What the headline says, and the hypervolumes of the compared rows."""
    summary = {
        f"headline/{row.name}/{item.name}": value
        for item in headline_metrics(evaluation, config.report.headline)
        for row in evaluation.rows
        if (value := row.metrics[item.name].value) is not None
    }
    summary |= {f"hypervolume/{plane.key}": plane.hypervolume for plane in planes}
    return summary

"""Measuring runs or folders: ``evaluate.py``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import write_json, write_text
from unsafe2safe.core.ledger import RunFolder, RunSpec, purge, read_run
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.core.units import UnitCut
from unsafe2safe.evaluation.feature_store import FeatureStore, delete, store_file
from unsafe2safe.evaluation.checks import check_references
from unsafe2safe.evaluation.comparisons import compare
from unsafe2safe.evaluation.report import pictures, render
from unsafe2safe.evaluation.results import (
    Evaluation,
    as_csv,
    define,
    figures_csv,
    headline,
)
from unsafe2safe.evaluation.rows import (
    Row,
    RunRow,
    reference_row,
)
from unsafe2safe.evaluation.runner import Measured, Runner, Work, summarize
from unsafe2safe.evaluation.seeds import mean_rows
from unsafe2safe.evaluation.strata import stratify
from unsafe2safe.evaluation.subjects import Subjects
from unsafe2safe.jobs import evaluate_flags
from unsafe2safe.jobs.common import plain, result_of
from unsafe2safe.jobs.evaluate_inputs import folders_work, runs_work
from unsafe2safe.jobs.sharding import run_devices, shard_of, told_missing, told_to_merge
from unsafe2safe.metrics.base import Metric, SetMetric
from unsafe2safe.metrics.features import Memory
from unsafe2safe.tracking.opening import open_tracker
from unsafe2safe.vision.perception import Perception

log = logging.getLogger("unsafe2safe")

_SCRIPT = "evaluate"
_UNAVAILABLE = "units/unavailable.json"


def run(config: Evaluate) -> RunResult:
    """Write metrics.json, report.html and tables of the runs or folders that ``config`` names, or
    do with such a run what ``config.mode`` says."""
    if config.suite.name == "flags":
        if config.mode != "run":
            raise UsageError(f"mode={config.mode}: suite=flags measures at once and keeps nothing")
        return evaluate_flags.run(config)
    metrics = {
        name: build(settings, f"metrics.{name}", Metric)  # type: ignore[type-abstract]
        for name, settings in config.metrics.items()
    }
    if not metrics and config.mode != "purge":
        raise UsageError("no metrics are chosen (metrics is empty)")
    work = _work(config)
    match config.mode:
        case "purge":
            return _purge(work.spec)
        case "merge":
            return _merge(config, work, metrics)
        case _ if config.engine.devices > 1:
            merge = partial(_merge, config, work, metrics)
            return run_devices(_SCRIPT, config, config.engine, work.spec, merge)
        case _:
            return _run(config, work, metrics)


def _run(config: Evaluate, work: Work, metrics: Mapping[str, Metric]) -> RunResult:
    """Measure all units, or those of one shard, in this process."""
    shard = shard_of(config)
    with RunFolder.open(work.spec, config.existing, shard) as folder:
        cut = UnitCut.of(work.subjects.image_ids, config.engine.unit_size)
        folder.keep_to(cut)
        if shard is not None or not folder.complete:
            units = _measure(folder, config, work, metrics)
            if shard is not None:
                told = told_to_merge(folder.spec, shard)
                return RunResult(ExitStatus.DONE, folder.path, {"units": units}, message=told)
        return _told(folder, config, work, metrics)


def _merge(config: Evaluate, work: Work, metrics: Mapping[str, Metric]) -> RunResult:
    """Complete a run that shards have measured."""
    state = read_run(work.spec.output_dir)
    if state is None or not state.get("units"):
        raise UsageError(f"output_dir={work.spec.output_dir} holds no measurements to merge")
    with RunFolder.open(work.spec, "resume") as folder:
        return _told(folder, config, work, metrics)


def _purge(spec: RunSpec) -> RunResult:
    deleted, files = purge(_SCRIPT, spec.output_dir, spec.private_root)
    store = store_file(spec.private_root, spec.dataset_key)
    files += delete(store)
    told = f"deleted {deleted} and {store} ({files} files)"
    return RunResult(ExitStatus.DONE, spec.output_dir, {"files": files}, message=told)


def _told(
    folder: RunFolder, config: Evaluate, work: Work, metrics: Mapping[str, Metric]
) -> RunResult:
    """Figures and report of a run whose units are all measured."""
    if not folder.complete:
        _summarize(folder, config, work, metrics)
    evaluation = Evaluation.read(folder.path / "metrics.json")
    _report(folder, config, work, evaluation)
    _track(folder, config, evaluation)
    return _result(folder, evaluation)


def _work(config: Evaluate) -> Work:
    if config.suite.name == "truth":
        from unsafe2safe.jobs import evaluate_truth  # imports torch, which the rest starts without

        return evaluate_truth.work(config)
    odd = set(config.references) - {"identity", "blur", "mask", "unrelated"}
    if odd:
        raise UsageError(f"references: {min(odd)} needs suite=truth")
    work = folders_work(config) if config.originals or config.edited else runs_work(config)
    references = [
        reference_row(name, config.blur_sigma, work.subjects) for name in config.references
    ]
    return replace(work, rows=[*work.rows, *references])


def _runner(
    folder: RunFolder,
    config: Evaluate,
    work: Work,
    metrics: Mapping[str, Metric],
    memory: Memory | None = None,
) -> Runner:
    return Runner(
        work.subjects,
        work.rows,
        metrics,
        Perception(config.vision, config.engine.threads),
        folder=folder.path / "units",
        private=folder.private / "units",
        unit_size=config.engine.unit_size,
        memory=memory,
    )


def _measure(folder: RunFolder, config: Evaluate, work: Work, metrics: Mapping[str, Metric]) -> int:
    """Measure what can be; why the rest cannot is written beside it."""
    unavailable = {name: why for name, metric in metrics.items() if (why := metric.unavailable())}
    for name, why in unavailable.items():
        log.warning("%s is not available: %s", name, why)
    write_json(folder.path / _UNAVAILABLE, unavailable)
    usable = {name: metric for name, metric in metrics.items() if name not in unavailable}
    if not config.keep_features:
        return _runner(folder, config, work, usable).run(folder.shard)
    with FeatureStore(work.spec.private_root, work.spec.dataset_key) as store:
        return _runner(folder, config, work, usable, store).run(folder.shard)


def _summarize(
    folder: RunFolder, config: Evaluate, work: Work, metrics: Mapping[str, Metric]
) -> None:
    """Write figures and tables of what was measured.

    Raises:
        UsageError: units are missing.
    """
    unavailable = json.loads((folder.path / _UNAVAILABLE).read_text("utf-8"))
    usable = {name: metric for name, metric in metrics.items() if name not in unavailable}
    runner = _runner(folder, config, work, usable)
    if missing := runner.missing():
        cut = UnitCut.of(work.subjects.image_ids, config.engine.unit_size)
        raise UsageError(told_missing(folder, cut, missing))
    items, rows, subjects = runner.items(), work.rows, work.subjects
    common, results = summarize(
        items,
        subjects.image_ids,
        rows,
        metrics,
        unavailable,
        samples=config.bootstrap,
        seed=config.seed,
    )
    measured = {name: metric for name, metric in metrics.items() if name not in unavailable}
    draws = {"samples": config.bootstrap, "seed": config.seed}
    results += mean_rows(items, rows, metrics, results, **draws)
    evaluation = Evaluation(
        dataset=work.dataset,
        images=len(items),
        common=common,
        seed=config.seed,
        bootstrap=config.bootstrap,
        masks=f"{subjects.masks_from}, grown by {config.mask_margin:g} of their size",
        references=(
            "identity returns the original; blur is a Gaussian over the whole frame with a sigma "
            f"of {config.blur_sigma:g} of its long side; mask is grey where something is "
            "sensitive; unrelated is another original of the set"
        ),
        definitions=tuple(define(name, metric) for name, metric in metrics.items()),
        rows=tuple(results),
        comparisons=compare(items, rows, measured, **draws),
        strata=stratify(items, runner.kinds, rows, measured, **draws),
        checks=check_references(results, metrics),
    )
    tables = folder.path / "tables"
    per_image = [name for name, metric in usable.items() if not isinstance(metric, SetMetric)]
    write_text(tables / "figures.csv", figures_csv(evaluation))
    for row in rows:
        write_text(tables / f"{row.name}.csv", _items_csv(row, subjects, items, per_image))
    evaluation.write(folder.path / "metrics.json")
    failures = [
        {"row": row.name, "item": str(number), "reason": item[row.name].failure}
        for number, item in enumerate(items)
        for row in rows
        if item[row.name].failure
    ]
    folder.write_failures(failures)
    folder.finish(
        {
            "images": len(items),
            "rows": len(rows),
            "failures": len(failures),
            **{
                f"{row.name}.edited": result.edited
                for row, result in zip(rows, results, strict=False)  # then means of seeds
            },
        },
        report=None,
    )


def _items_csv(
    row: Row, subjects: Subjects, items: Sequence[dict[str, Measured]], names: list[str]
) -> str:
    """A line per image, by its place in the sorted data set and, if it has one, published name:
    an original's own name may tell what its picture shows."""
    lines: list[list[object]] = [["item", "published_as", "resized", *names]]
    for number, (image_id, item) in enumerate(zip(subjects.image_ids, items, strict=True)):
        measured = item[row.name]
        published = row.outcomes[image_id].published_as if isinstance(row, RunRow) else None
        values = [measured.scores[name].values for name in names]
        means = [sum(found) / len(found) if found else "" for found in values]
        lines.append([number, published or "", int(measured.resized), *means])
    return as_csv(lines)


def _report(folder: RunFolder, config: Evaluate, work: Work, evaluation: Evaluation) -> None:
    """Write report.html; again where the same figures are to be shown in another way."""
    wanted = plain(config)["report"]
    path = folder.path / "report.html"
    if folder.state.get("report") == wanted and path.exists():
        return
    runs = [row for row in work.rows if isinstance(row, RunRow)]
    settings = config.report
    shown = pictures(runs, work.subjects, settings.max_pictures, settings.include_originals)
    write_text(path, render(evaluation, shown, folder.state["versions"]))
    folder.finish(folder.state["counts"], report=wanted)


def _track(folder: RunFolder, config: Evaluate, evaluation: Evaluation) -> None:
    """Hand the figures to the tracker, once for each kind of it."""
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
    with open_tracker(
        config.logger, folder.path, plain(config), run_id, list(figures), keep_until=-1
    ) as tracker:
        tracker.log_metrics(0, figures)
    folder.finish(folder.state["counts"], logged=name)


def _result(folder: RunFolder, evaluation: Evaluation) -> RunResult:
    failures = folder.state["counts"]["failures"]
    lines = [f"{evaluation.images} images, {len(evaluation.rows)} rows"]
    lines += [headline(row) for row in evaluation.rows]
    lines += [f"figures: {folder.path / 'metrics.json'}", f"report: {folder.path / 'report.html'}"]
    if failures:
        lines.append(f"what could not be measured and why: {folder.path / 'failures.jsonl'}")
    written = (folder.path / "metrics.json", folder.path / "report.html", folder.path / "tables")
    return result_of(folder, failures, "\n".join(lines), *written)

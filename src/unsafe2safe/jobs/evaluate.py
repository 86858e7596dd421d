"""Measuring runs or folders: ``evaluate.py``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import RunFolder, purge, read_run
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.core.units import UnitCut
from unsafe2safe.evaluation.feature_store import delete, store_file
from unsafe2safe.evaluation.results import Evaluation, headline
from unsafe2safe.evaluation.rows import reference_row
from unsafe2safe.evaluation.runner import Work
from unsafe2safe.jobs import evaluate_compare, evaluate_flags
from unsafe2safe.jobs.common import result_of
from unsafe2safe.jobs.evaluate_figures import Measures, conclude, measure
from unsafe2safe.jobs.evaluate_inputs import folders_work, runs_work
from unsafe2safe.jobs.evaluate_report import track, write_report
from unsafe2safe.jobs.sharding import run_devices, shard_of, told_to_merge

_SCRIPT = "evaluate"


def run(config: Evaluate) -> RunResult:
    """Write metrics.json, report.html and tables of the runs or folders that ``config`` names, or
    do with such a run what ``config.mode`` says."""
    if config.suite.name == "flags":
        if config.suite.utility:
            raise UsageError("suite.utility needs rows of images: suite=images or suite=truth")
        if config.mode != "run":
            raise UsageError(f"mode={config.mode}: suite=flags measures at once and keeps nothing")
        return evaluate_flags.run(config)
    if config.suite.name == "compare":
        if config.mode != "run":
            raise UsageError(f"mode={config.mode}: suite=compare reads what others measured")
        return evaluate_compare.run(config)
    measures = Measures.of(config)
    if not measures.metrics and config.mode != "purge":
        raise UsageError("no metrics are chosen (metrics is empty)")
    work = _work(config)
    match config.mode:
        case "purge":
            return _purge(work)
        case "merge":
            return _merge(config, work, measures)
        case _ if config.engine.devices > 1:
            merge = partial(_merge, config, work, measures)
            return run_devices(_SCRIPT, config, config.engine, work.spec, merge)
        case _:
            return _run(config, work, measures)


def _run(config: Evaluate, work: Work, measures: Measures) -> RunResult:
    """Measure all units, or those of one shard, in this process."""
    shard = shard_of(config)
    with RunFolder.open(work.spec, config.existing, shard) as folder:
        folder.keep_to(UnitCut.of(work.subjects.image_ids, config.engine.unit_size))
        if shard is not None:
            units = measure(folder, config, work, measures)
            told = told_to_merge(folder.spec, shard)
            return RunResult(ExitStatus.DONE, folder.path, {"units": units}, message=told)
        if not folder.complete:
            measure(folder, config, work, measures)
        return _told(folder, config, work, measures)


def _merge(config: Evaluate, work: Work, measures: Measures) -> RunResult:
    """Complete a run that shards have measured."""
    state = read_run(work.spec.output_dir)
    if state is None or not state.get("units"):
        raise UsageError(f"output_dir={work.spec.output_dir} holds no measurements to merge")
    with RunFolder.open(work.spec, "resume") as folder:
        return _told(folder, config, work, measures)


def _purge(work: Work) -> RunResult:
    spec = work.spec
    deleted, files = purge(_SCRIPT, spec.output_dir, spec.private_root)
    store = store_file(spec.private_root, work.originals)
    files += delete(store)
    told = f"deleted {deleted} and {store} ({files} files)"
    return RunResult(ExitStatus.DONE, spec.output_dir, {"files": files}, message=told)


def _told(folder: RunFolder, config: Evaluate, work: Work, measures: Measures) -> RunResult:
    """Figures and report of a run whose units are all measured."""
    if not folder.complete:
        conclude(folder, config, work, measures)
    evaluation = Evaluation.read(folder.path / "metrics.json")
    write_report(folder, config, evaluation, work.rows, work.subjects)
    track(folder, config, evaluation)
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


def _result(folder: RunFolder, evaluation: Evaluation) -> RunResult:
    failures = folder.state["counts"]["failures"]
    lines = [f"{evaluation.images} images, {len(evaluation.rows)} rows"]
    lines += [headline(row) for row in evaluation.rows]
    lines += [f"figures: {folder.path / 'metrics.json'}", f"report: {folder.path / 'report.html'}"]
    if failures:
        lines.append(f"what could not be measured and why: {folder.path / 'failures.jsonl'}")
    written = (folder.path / "metrics.json", folder.path / "report.html", folder.path / "tables")
    return result_of(folder, failures, "\n".join(lines), *written)

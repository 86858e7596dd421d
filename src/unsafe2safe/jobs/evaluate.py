"""Measuring runs or folders: ``evaluate.py``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import write_text
from unsafe2safe.core.ledger import RunFolder, dataset_key, fingerprint, read_run
from unsafe2safe.core.pseudonyms import true_names
from unsafe2safe.core.records import ImageRecord, RunResult
from unsafe2safe.data.source import ImageSource
from unsafe2safe.evaluation.report import pictures, render
from unsafe2safe.evaluation.results import (
    Evaluation,
    as_csv,
    define,
    figures_csv,
    headline,
)
from unsafe2safe.evaluation.rows import (
    FolderRow,
    Row,
    RunRow,
    match_folders,
    reference_row,
    run_rows,
)
from unsafe2safe.evaluation.runner import Measured, Runner, Work, summarize
from unsafe2safe.evaluation.subjects import Subjects, triplets_of
from unsafe2safe.jobs import evaluate_flags, evaluate_truth
from unsafe2safe.jobs.common import find_input, open_source, plain, result_of, run_spec
from unsafe2safe.metrics.base import Metric
from unsafe2safe.tracking.opening import open_tracker
from unsafe2safe.vision.perception import Perception

log = logging.getLogger("unsafe2safe")


def run(config: Evaluate) -> RunResult:
    """Write metrics.json, report.html and tables of the runs or folders that ``config`` names."""
    if config.suite == "flags":
        return evaluate_flags.run(config)
    if not config.metrics:
        raise UsageError("no metrics are chosen (metrics is empty)")
    metrics = {
        name: build(settings, f"metrics.{name}", Metric)  # type: ignore[type-abstract]
        for name, settings in config.metrics.items()
    }
    work = _work(config)
    rows = work.rows
    with RunFolder.open(work.spec, config.existing) as folder:
        if not folder.complete:
            _measure(folder, config, work, rows, metrics)
        evaluation = Evaluation.read(folder.path / "metrics.json")
        _report(folder, config, work, evaluation)
        _track(folder, config, evaluation)
        return _result(folder, evaluation)


def _work(config: Evaluate) -> Work:
    if config.suite == "truth":
        return evaluate_truth.work(config)
    odd = set(config.references) - {"identity", "blur"}
    if odd:
        raise UsageError(f"references: {min(odd)} needs suite=truth")
    work = _folders(config) if config.originals or config.edited else _runs(config)
    references = [reference_row(name, config.blur_sigma) for name in config.references]
    return replace(work, rows=[*work.rows, *references])


def _runs(config: Evaluate) -> Work:
    """Runs of anonymize.py: those given, or the newest complete one."""
    how = f"python anonymize.py dataset={config.dataset['name']}"
    given: Sequence[Path | None] = config.runs if config.runs is not None else [None]
    if not given:
        raise UsageError("runs is empty; name run folders of anonymize.py, or leave it out")
    folders = [find_input(config, "runs", path, "anonymize", how) for path in given]
    wanted = dataset_key(plain(config)["dataset"])
    for folder in folders:
        made_of = str((read_run(folder) or {}).get("dataset"))
        if made_of != wanted:
            raise UsageError(
                f"runs={folder} was made of the data set {made_of.rpartition('-')[0]!r} with other "
                f"settings than dataset={config.dataset['name']} here; give the dataset=... and "
                "dataset.*=... that it was made with"
            )
    source = open_source(config)
    known = {record.image_id for record in source.records()}
    rows = run_rows(folders, true_names(config.paths.private, known))
    image_ids = known.intersection(*(row.outcomes for row in rows))
    if len(image_ids) < len(known):
        log.warning("images that are not in every run, left out: %d", len(known) - len(image_ids))
    if not image_ids:
        raise UsageError("the runs have no image of the data set in common")
    inputs = {f"runs.{index}": folder for index, folder in enumerate(folders)}
    choice = "-".join(["runs", *([str(len(folders))] if len(folders) > 1 else [])])
    spec = run_spec(config, "evaluate", choice, inputs, ignored=("runs", "editor"))
    subjects = Subjects(source, sorted(image_ids), triplets_of(folders), config)
    return Work(spec, subjects, rows, str(config.dataset["name"]))


def _folders(config: Evaluate) -> Work:
    """Originals and edited images in two folders made by any tool."""
    if config.originals is None or config.edited is None:
        missing = "originals" if config.originals is None else "edited"
        raise UsageError(f"originals=DIR and edited=DIR belong together; {missing} is not given")
    if config.runs is not None:
        raise UsageError("give either runs=[...] or originals=DIR edited=DIR, not both")
    originals = _folder_source(config, "originals", config.originals, config.dataset.get("limit"))
    edited = _folder_source(config, "edited", config.edited, None)
    matched, left_over = match_folders(originals, edited)
    image_ids = [record.image_id for record in originals.records()]
    if not matched:
        raise UsageError(
            f"no file in edited={config.edited} bears the name of one in "
            f"originals={config.originals}"
        )
    if left_over and not config.dataset.get("limit"):
        log.warning("edited files without an original, left out: %d", len(left_over))
    if len(matched) < len(image_ids):
        log.warning("originals without an edited file, missing: %d", len(image_ids) - len(matched))
    plain_spec = run_spec(
        config, "evaluate", "folders", ignored=("dataset.name", "dataset.root", "editor")
    )
    keys = {
        **plain_spec.keys,
        "originals.files": _listing(originals.records()),
        "edited.files": _listing(edited.records()),
    }
    key = f"folders-{fingerprint(keys)}"
    default = config.paths.runs / "evaluate" / key
    spec = replace(plain_spec, keys=keys, dataset_key=key, output_dir=config.output_dir or default)
    subjects = Subjects(originals, image_ids, None, config)
    return Work(spec, subjects, [FolderRow(matched)], "folders")


def _folder_source(config: Evaluate, key: str, root: Path, limit: int | None) -> ImageSource:
    if not root.expanduser().is_dir():
        raise UsageError(f"{key}={root} is not a folder")
    settings = {
        "_target_": "unsafe2safe.data.folder.FolderSource",
        "root": root,
        "limit": limit,
        "orientation": config.dataset.get("orientation", "apply"),
    }
    source = build(settings, key, ImageSource)  # type: ignore[type-abstract]
    source.records()
    return source


def _listing(records: Sequence[ImageRecord]) -> str:
    """Tells whether a folder's files are still the same, by name, size and time of change."""
    files = {}
    for record in records:
        try:
            status = record.path.stat()
            files[record.image_id] = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            files[record.image_id] = "unreadable"
    return fingerprint(files)


def _measure(
    folder: RunFolder,
    config: Evaluate,
    work: Work,
    rows: Sequence[Row],
    metrics: dict[str, Metric],
) -> None:
    perception = Perception(config.vision, config.engine.threads)
    subjects = work.subjects
    runner = Runner(
        subjects,
        rows,
        metrics,
        perception,
        folder=folder.path / "units",
        unit_size=config.engine.unit_size,
    )
    items = runner.run()
    common, results = summarize(
        items, subjects.image_ids, rows, metrics, samples=config.bootstrap, seed=config.seed
    )
    evaluation = Evaluation(
        dataset=work.dataset,
        images=len(items),
        common=common,
        seed=config.seed,
        bootstrap=config.bootstrap,
        masks=f"{subjects.masks_from}, grown by {config.mask_margin:g} of their size",
        references=(
            "identity returns the original; blur is a Gaussian over the whole frame with a sigma "
            f"of {config.blur_sigma:g} of its long side"
        ),
        definitions=tuple(define(name, metric) for name, metric in metrics.items()),
        rows=tuple(results),
    )
    tables = folder.path / "tables"
    write_text(tables / "figures.csv", figures_csv(evaluation))
    for row in rows:
        write_text(tables / f"{row.name}.csv", _items_csv(row, subjects, items, list(metrics)))
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
                for row, result in zip(rows, results, strict=True)
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

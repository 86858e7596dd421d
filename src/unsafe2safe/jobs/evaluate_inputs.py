"""What ``evaluate.py`` measures: runs of ``anonymize.py``, or folders made by any tool."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import dataset_key, fingerprint, read_run
from unsafe2safe.core.pseudonyms import true_names
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.source import ImageSource
from unsafe2safe.evaluation.rows import FolderRow, match_folders, run_rows
from unsafe2safe.evaluation.runner import Work
from unsafe2safe.evaluation.subjects import Subjects, triplets_of
from unsafe2safe.jobs.common import find_input, open_source, plain, run_spec
from unsafe2safe.jobs.evaluate_utility import settings_unused

log = logging.getLogger("unsafe2safe")


def runs_work(config: Evaluate) -> Work:
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
    ignored = ("runs", "editor", *settings_unused(config))
    spec = run_spec(config, "evaluate", choice, inputs, ignored)
    subjects = Subjects(source, sorted(image_ids), triplets_of(folders), config)
    return Work(spec, subjects, rows, str(config.dataset["name"]), spec.dataset_key)


def folders_work(config: Evaluate) -> Work:
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
    ignored = ("dataset.name", "dataset.root", "editor", *settings_unused(config))
    plain_spec = run_spec(config, "evaluate", "folders", ignored=ignored)
    keys = {
        **plain_spec.keys,
        "originals.files": _listing(originals.records()),
        "edited.files": _listing(edited.records()),
    }
    key = f"folders-{fingerprint(keys)}"
    default = config.paths.runs / "evaluate" / key
    spec = replace(plain_spec, keys=keys, dataset_key=key, output_dir=config.output_dir or default)
    subjects = Subjects(originals, image_ids, None, config)
    originals_key = f"folders-{fingerprint({'originals': keys['originals.files']})}"
    return Work(spec, subjects, [FolderRow(matched)], "folders", originals_key)


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

"""What is made of a finished run's adapter when asked: a merged copy, and a place on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.locks import lock_folder, opening
from unsafe2safe.core.records import RunResult
from unsafe2safe.jobs.common import log
from unsafe2safe.training.editor_recipe import trainable_editor
from unsafe2safe.training.export_merged import check_mergeable, export_merged, merged_already
from unsafe2safe.training.hub import check_login, push
from unsafe2safe.training.model_card import add_facts
from unsafe2safe.training.recipe import Recipe

MERGED = "merged"


def asked(config: Train) -> bool:
    """Whether anything is to be made beside the adapter."""
    return bool(config.export.merge) or config.export.push_to_hub is not None


def check_export(config: Train, recipe: Recipe) -> None:
    """Refuse before training what could not be made after it.

    Raises:
        UsageError: the task trains no editor, its adapter cannot be merged, or nobody is logged in
            to the hub.
    """
    if not asked(config):
        return
    if recipe.exported_as != "adapter":
        raise UsageError(
            f"export.merge and export.push_to_hub are for adapters; task={recipe.name} has none"
        )
    if config.export.merge:
        check_mergeable(trainable_editor(config), config.export.merge)
    if config.export.push_to_hub is not None:
        check_login()


def export_further(config: Train, result: RunResult) -> RunResult:
    """Make of the complete run of ``result`` what ``config.export`` asks for, unless it is there.

    Raises:
        UsageError, ExportError: it cannot be made; the adapter stays.
    """
    run = result.output_dir
    if run is None or (read_run(run) or {}).get("status") != "complete":
        return result
    with opening(run):
        lock = lock_folder(run, None)
    try:
        told, written = _make(config, run)
    finally:
        lock.release()
    message = "; ".join([result.message, *told])
    return replace(result, message=message, written=(*result.written, *written))


def _make(config: Train, run: Path) -> tuple[list[str], list[Path]]:
    export, told, folder = config.export, [], run / "adapter"
    if export.merge:
        folder = run / MERGED
        if merged_already(folder, export.merge, export.dtype):
            told.append(f"{folder} is there already")
        else:
            log.info("merging the adapter into its base")
            editor = replace(cast(Any, trainable_editor(config)), adapter=run)
            device = getattr(editor, "device", "cpu")
            made = export_merged(editor, folder, export.merge, export.dtype, device)
            describe(folder, config, read_run(run) or {})
            told.append(
                f"merged in {folder} ({made.size / 2**20:,.0f} MiB in {made.dtype}; edits differ "
                f"from the adapter's by at most {made.difference:.2g})"
            )
    if export.push_to_hub is not None:
        places = (Path.home(), config.paths.private, config.paths.runs, config.paths.data, run)
        address = push(folder, export.push_to_hub, export.private, places)
        told.append(f"{folder.name}/ is at {address}")
    return told, [folder] if export.merge else []


def describe(folder: Path, config: Train, facts: Mapping[str, Any]) -> None:
    """Add to the card in ``folder`` what a run was trained on, and the figures in its ``facts``."""
    data: dict[str, object] = {}
    if config.task["name"] == "editor":
        data["data set"] = config.dataset["name"]
    else:
        data["task"] = config.task["name"]
        if "world" in config.task:
            data["synthetic world"] = config.task["world"]
    counts = facts.get("counts") or {}
    data |= {name: value for name, value in counts.items() if name != "failed"}
    data["samples of a step"] = facts["keys"]["trainer.samples_per_step"]
    data["peak learning rate"] = config.trainer.learning_rate
    data["seed"] = config.seed
    figures = dict(facts.get("held_out") or {})
    add_facts(folder, data, figures)

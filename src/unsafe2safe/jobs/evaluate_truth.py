"""What an editor and its adapters make of scenes whose truth is known: ``suite=truth``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import read_run
from unsafe2safe.data.synthetic.source import SyntheticSource
from unsafe2safe.editors.base import Editor
from unsafe2safe.editors.instruct_pix2pix import InstructPix2PixEditor
from unsafe2safe.evaluation.editor_rows import EditorRow, reconstruction_row, target_row
from unsafe2safe.evaluation.rows import Row, reference_row
from unsafe2safe.evaluation.runner import Work
from unsafe2safe.evaluation.subjects import Subjects
from unsafe2safe.jobs.common import find_input, open_source, run_spec
from unsafe2safe.jobs.evaluate_utility import settings_unused

# How an adapter is sampled is this run's choice; what it was trained with is the adapter's.
_SAMPLING = (
    "steps",
    "text_guidance_scale",
    "image_guidance_scale",
    "batch_size",
    "device",
    "precision",
)


def work(config: Evaluate) -> Work:
    """``editor`` as it is, the adapters of ``runs``, and the references.

    Raises:
        UsageError: the data set's truth is not known, or a run is none of an editor's training.
    """
    source = open_source(config)
    if not isinstance(source, SyntheticSource):
        raise UsageError(
            f"dataset={config.dataset['name']} does not know what its pictures show; "
            "suite=truth needs dataset=synthetic"
        )
    base = _editor(dict(config.editor), "editor")
    how = "python train.py experiment=tiny_finetune"
    folders = [find_input(config, "runs", path, "train", how) for path in config.runs or ()]
    image_ids = [record.image_id for record in source.records()]
    subjects = Subjects(source, image_ids, None, config)
    rows: list[Row] = [EditorRow("base", f"{base.name}, as it is", base, subjects, config.seed)]
    for folder in folders:
        editor, told = _adapted(config, folder)
        rows.append(EditorRow(folder.resolve().name, told, editor, subjects, config.seed))
    if len({row.name for row in rows}) < len(rows):
        raise UsageError("two of the runs have folders of the same name; a table needs two names")
    for name in config.references:
        if name == "target":
            rows.append(target_row(subjects))
        elif name in ("reconstruction", "target_reconstruction"):
            of = "target" if name.startswith("target") else "identity"
            rows.append(reconstruction_row(base, subjects, of))
        else:
            rows.append(reference_row(name, config.blur_sigma, subjects))
    inputs = {f"runs.{index}": folder for index, folder in enumerate(folders)}
    own = ("runs", "mask_margin", "mask_categories", "vision", "editor.batch_size")
    ignored = (*own, *settings_unused(config))
    choice = f"truth-{base.name}"
    spec = run_spec(config, "evaluate", choice, inputs, ignored, base.weights_content())
    return Work(spec, subjects, rows, str(config.dataset["name"]), spec.dataset_key)


def _editor(settings: Mapping[str, Any], section: str) -> InstructPix2PixEditor:
    editor = build(settings, section, Editor)  # type: ignore[type-abstract]
    if not isinstance(editor, InstructPix2PixEditor):
        raise UsageError(f"editor={editor.name} does not edit by an instruction: suite=truth asks")
    return editor


def _adapted(config: Evaluate, folder: Path) -> tuple[InstructPix2PixEditor, str]:
    """The editor that ``folder`` trained, with its adapter, and what the table calls it."""
    state = read_run(folder) or {}
    trained = state.get("config") or {}
    if not (folder / "adapter").is_dir() or not isinstance(trained.get("editor"), dict):
        raise UsageError(f"runs={folder} trained no adapter of an editor")
    settings = dict(trained["editor"]) | {"adapter": str(folder)}
    if settings.get("name") == config.editor.get("name"):
        settings |= {key: config.editor[key] for key in _SAMPLING if key in config.editor}
        settings["weights"] = config.editor.get("weights")
    editor = _editor(settings, "editor")
    words = [editor.name, editor.trainable, f"on {trained['task'].get('world', 'pairs')}"]
    plain = {field.name: field.default for field in fields(InstructPix2PixEditor)}
    for name in ("source", "caption_branch", "captions"):
        default = getattr(plain[name], "default", plain[name])
        if getattr(editor, name) != default:
            words.append(f"{name}={getattr(editor, name)}")
    words.append(f"seed {trained['seed']}")
    return editor, ", ".join(words)

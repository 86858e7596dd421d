"""train.py: from the pairs of an anonymize.py run to an adapter that anonymize.py can load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.records import RunResult
from unsafe2safe.editors.base import Editor
from unsafe2safe.editors.instruct_pix2pix import InstructPix2PixEditor
from unsafe2safe.jobs.common import (
    find_input,
    log,
    open_source,
    plain,
    result_of,
    run_spec,
)
from unsafe2safe.objectives.base import Objective
from unsafe2safe.tracking.csv_sink import read_rows
from unsafe2safe.tracking.opening import METRICS_FILE, open_tracker
from unsafe2safe.training.checkpoints import newest_loadable
from unsafe2safe.training.editor_task import build_task
from unsafe2safe.training.fit import fit
from unsafe2safe.training.pairs import PairDataset, read_pairs, usable_pairs

_METRICS = ("loss", "learning_rate")
_CHECKPOINTS = "checkpoints"
_NEVER_CHANGES_RESULT = (
    "trainer.accelerator",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.gradient_check",
)


def run(config: Train) -> RunResult:
    """Fine-tune ``config.editor``; the same configuration again goes on where it stopped.

    Raises:
        UsageError: no pairs, an editor that cannot be trained, a folder that cannot be used.
    """
    editor = _trainable_editor(config)
    objective = build(config.objective, "objective", Objective)  # type: ignore[type-abstract]
    pairs_folder = find_input(
        config,
        "pairs",
        config.pairs,
        "anonymize",
        "python anonymize.py write_pairs=true",
        also=("generate_triplets",),  # imported pairs
    )
    pairs = read_pairs(pairs_folder)
    source = open_source(config)
    spec = run_spec(
        config,
        "train",
        f"{editor.name}-{editor.trainable}",
        {"pairs": pairs_folder},
        _NEVER_CHANGES_RESULT,
    )
    with RunFolder.open(spec, config.existing) as folder:
        adapter = folder.path / "adapter"
        if folder.complete:
            failed = folder.state["counts"]["failed"]
            return result_of(folder, failed, f"{folder.path} is complete already", adapter)
        dataset = PairDataset(pairs, pairs_folder, source, editor.resolution)
        used, failures = usable_pairs(dataset, folder.path / _CHECKPOINTS / "unusable.json")
        folder.write_failures({"image_id": i, "reason": r} for i, r in failures.items())
        with _threads(config.engine.threads):
            _train(config, editor, objective, used, folder)
        counts = {"pairs": len(used), "failed": len(failures), "steps": config.trainer.max_steps}
        facts = _loss_facts(folder.path / METRICS_FILE)
        folder.finish(counts, loss=facts)
        return result_of(folder, len(failures), _message(folder, counts, facts), adapter)


def _trainable_editor(config: Train) -> InstructPix2PixEditor:
    editor = build(config.editor, "editor", Editor)  # type: ignore[type-abstract]
    if not isinstance(editor, InstructPix2PixEditor):
        raise UsageError(f"editor={editor.name} has no weights that train.py can train")
    if editor.adapter is not None:
        raise UsageError("editor.adapter: train.py begins from the base, without an adapter")
    return editor


def _train(
    config: Train,
    editor: InstructPix2PixEditor,
    objective: Objective,
    pairs: PairDataset,
    folder: RunFolder,
) -> None:
    checkpoints = folder.path / _CHECKPOINTS
    found = newest_loadable(checkpoints)
    step, resume_from = found or (0, None)
    if found:
        log.info("resuming after step %d of %d", step, config.trainer.max_steps)
    log.info("loading editor=%s", editor.name)
    task = build_task(editor, objective, config.seed)
    trained = sum(parameter.numel() for parameter in task.trainable_parameters().values())
    log.info("training %d weights on %d pairs", trained, len(pairs))
    run_id = folder.state["fingerprint"]
    with open_tracker(config.logger, folder.path, plain(config), run_id, _METRICS, step) as tracker:
        fit(task, pairs, config.trainer, config.seed, tracker, checkpoints, resume_from)
    task.export(folder.path / "adapter")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch's thread count inside the block; 0 leaves it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _loss_facts(metrics: Path) -> dict[str, float]:
    """Medians of the loss over the first and the last fifth of the logged steps."""
    losses = [float(row[1]) for row in read_rows(metrics, _METRICS)]
    if not losses:
        return {}
    fifth = max(1, len(losses) // 5)
    return {"first_fifth": median(losses[:fifth]), "last_fifth": median(losses[-fifth:])}


def _message(folder: RunFolder, counts: dict[str, int], facts: dict[str, float]) -> str:
    loss = (
        f"; median loss {facts['first_fifth']:.4f} in the first fifth, "
        f"{facts['last_fifth']:.4f} in the last"
        if facts
        else ""
    )
    failed = f", {counts['failed']} unusable (failures.jsonl)" if counts["failed"] else ""
    return (
        f"trained {counts['steps']} steps on {counts['pairs']} pairs{failed}{loss}; "
        f"adapter in {folder.path / 'adapter'}"
    )

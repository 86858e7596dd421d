"""train.py: from pairs, or from the synthetic world, to weights that the other scripts load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema import Train
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.records import RunResult
from unsafe2safe.jobs.common import find_input, log, plain, result_of, run_spec
from unsafe2safe.tracking.csv_sink import read_rows
from unsafe2safe.tracking.opening import METRICS_FILE, open_tracker
from unsafe2safe.training.checkpoints import newest_loadable
from unsafe2safe.training.fit import fit
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.task import Task, TrainingData

_METRICS = ("loss", "learning_rate")
_CHECKPOINTS = "checkpoints"
_NEVER_CHANGES_RESULT = (
    "trainer.accelerator",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.gradient_check",
)


def run(config: Train) -> RunResult:
    """Train ``config.task``; the same configuration again goes on where it stopped.

    Raises:
        UsageError: nothing to train on, choices that cannot be trained, a folder that cannot be
            used.
    """
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    choice = recipe.choice(config)
    inputs = recipe.inputs(config, partial(find_input, config))
    data = recipe.data(config, inputs)
    spec = run_spec(
        config,
        "train",
        choice,
        inputs,
        (*_NEVER_CHANGES_RESULT, *recipe.unused),
        recipe.content(config, inputs),
        recipe.stands_for,
    )
    with RunFolder.open(spec, config.existing) as folder:
        exported = folder.path / recipe.exported_as
        if folder.complete:
            failed = folder.state["counts"]["failed"]
            return result_of(folder, failed, f"{folder.path} is complete already", exported)
        failures = data.drop_unusable(folder.path / _CHECKPOINTS / "unusable.json")
        folder.write_failures({"image_id": i, "reason": r} for i, r in failures.items())
        with _threads(config.engine.threads):
            log.info("loading task=%s (%s)", recipe.name, choice)
            task = recipe.task(config, inputs)
            _train(config, task, data, folder)
            task.export(exported)
            held_out = task.validate(exported)
        counts = {data.noun: len(data), "failed": len(failures), "steps": config.trainer.max_steps}
        facts = _loss_facts(folder.path / METRICS_FILE)
        folder.finish(counts, loss=facts, held_out=dict(held_out))
        message = _message(counts, data.noun, facts, held_out, exported)
        return result_of(folder, len(failures), message, exported)


def _train(
    config: Train, task: Task[Any, Any, Any], data: TrainingData[Any, Any], folder: RunFolder
) -> None:
    checkpoints = folder.path / _CHECKPOINTS
    found = newest_loadable(checkpoints)
    step, resume_from = found or (0, None)
    if found:
        log.info("resuming after step %d of %d", step, config.trainer.max_steps)
    trained = sum(parameter.numel() for parameter in task.trainable_parameters().values())
    log.info("training %d weights on %d %s", trained, len(data), data.noun)
    run_id = folder.state["fingerprint"]
    with open_tracker(config.logger, folder.path, plain(config), run_id, _METRICS, step) as tracker:
        fit(task, data, config.trainer, config.seed, tracker, checkpoints, resume_from)


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


def _message(
    counts: Mapping[str, int],
    noun: str,
    loss: Mapping[str, float],
    held_out: Mapping[str, float],
    exported: Path,
) -> str:
    parts = [f"trained {counts['steps']} steps on {counts[noun]} {noun}"]
    if counts["failed"]:
        parts[0] += f", {counts['failed']} unusable (failures.jsonl)"
    if loss:
        parts.append(
            f"median loss {loss['first_fifth']:.4f} in the first fifth, "
            f"{loss['last_fifth']:.4f} in the last"
        )
    if held_out:
        told = ", ".join(f"{name} {value:.4g}" for name, value in held_out.items())
        parts.append(f"held out: {told}")
    return "; ".join([*parts, f"{exported.name} in {exported}"])

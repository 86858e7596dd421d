"""train.py: from pairs, or from the synthetic world, to weights that the other scripts load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema_train import Train, Trainer
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.jobs import plan_training, train_export
from unsafe2safe.jobs.common import find_input, log, plain, result_of, run_spec
from unsafe2safe.jobs.train_company import WITHIN, company
from unsafe2safe.jobs.train_validation import Validation, validation_of, without_result
from unsafe2safe.tracking.csv_sink import read_rows
from unsafe2safe.tracking.guard import Tracker
from unsafe2safe.tracking.opening import METRICS_FILE, open_tracker
from unsafe2safe.training.checkpoints import list_checkpoints, newest_loadable
from unsafe2safe.training.fit import fit
from unsafe2safe.training.optimizers import OptimizerFactory, optimizer_factory
from unsafe2safe.training.ranks import (
    ALONE,
    Call,
    Ranks,
    Start,
    external_ranks,
    hear,
    joined,
    launched_rank,
)
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.scale import check_devices, checked_scale
from unsafe2safe.training.sharding import take_trained
from unsafe2safe.training.task import Task, TrainingData
from unsafe2safe.training.validation.results import kept_path

_METRICS = ("loss", "learning_rate")
_CHECKPOINTS = "checkpoints"
_UNUSABLE = "unusable.json"
NEVER_CHANGES_RESULT = (
    "export",
    "plan",
    "cache",
    "sweep",
    "trainer.accelerator",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.gradient_check",
    # The samples of a step count, and not how they are dealt to devices and batches.
    "trainer.batch_size",
    "trainer.accumulate",
    "trainer.devices",
    "trainer.num_nodes",
    # The same sums in another order or on another device.
    "trainer.strategy",
    "trainer.zero_stage",
    "trainer.gradient_checkpointing",
    "trainer.compile",
    "trainer.attention",
)


def run(config: Train) -> RunResult:
    """Train ``config.task``; the same configuration again goes on where it stopped. With
    ``mode=plan`` say what the training would take; with ``mode=sweep`` train many times.

    With ``trainer.devices`` this process starts the others. Under torchrun or srun each process
    comes here, and only the first one writes.

    Raises:
        UsageError: nothing to train on, choices that cannot be trained, a folder that cannot be
            used, fewer devices than asked for.
    """
    if config.mode == "plan":
        if launched_rank():  # one of several that torchrun or srun started: the first one tells
            return RunResult(ExitStatus.DONE, None)
        return plan_training.run(config)
    if config.mode == "purge":
        return _purge(config)
    if config.mode == "sweep":
        from unsafe2safe.jobs import train_sweep  # whose trials come here again

        return train_sweep.run(config)
    check_devices(config.trainer)
    config = checked_scale(config, build(config.task, "task", Recipe))  # type: ignore[type-abstract]
    external = external_ranks(config.trainer.devices, config.trainer.num_nodes)
    if external is None:
        return _with_exports(config, _lead(config, ALONE, Call()))
    with joined(external, WITHIN):
        return take_part(config, external)


def take_part(config: Train, ranks: Ranks) -> RunResult:
    """Train as one of ``ranks``, which are all here already."""
    if ranks.rank:
        return follow(config, ranks)
    call = Call()
    with call.expected_by(ranks):
        result = _lead(config, ranks, call)
    return _with_exports(config, result)


def _with_exports(config: Train, result: RunResult) -> RunResult:
    # the training's own models are gone by now: two at once may be too much
    return train_export.export_further(config, result) if train_export.asked(config) else result


def _purge(config: Train) -> RunResult:
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    deleted, files = recipe.purge(config)
    told = f"deleted {deleted} ({files} files)" if files else f"nothing to delete at {deleted}"
    return RunResult(ExitStatus.DONE, None, {"files": files}, message=told)


def _lead(config: Train, ranks: Ranks, call: Call) -> RunResult:
    optimizer = optimizer_factory(config.optimizer, config.trainer.precision)
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    choice = recipe.choice(config)
    if config.validation.every is not None:
        recipe.validation_choice(config)
    train_export.check_export(config, recipe)
    inputs = recipe.inputs(config, partial(find_input, config))
    data = recipe.data(config, inputs)
    per_step = samples_per_step(config.trainer)
    content = {**recipe.content(config, inputs), "trainer.samples_per_step": str(per_step)}
    spec = run_spec(
        config,
        "train",
        choice,
        inputs,
        (*NEVER_CHANGES_RESULT, *without_result(config), *recipe.unused_in(config)),
        content,
        recipe.stands_for_in(config),
    )
    with RunFolder.open(spec, config.existing) as folder:
        exported = folder.path / recipe.exported_as
        if folder.complete:
            failed = folder.state["counts"]["failed"]
            return result_of(folder, failed, f"{folder.path} is complete already", exported)
        checkpoints = folder.path / _CHECKPOINTS
        failures = data.drop_unusable(checkpoints / _UNUSABLE)
        validation = validation_of(config, recipe, inputs, data, checkpoints)
        step, resume_from = newest_loadable(checkpoints) or (0, None)
        with _threads(config.engine.threads):
            with company(config, ranks) as place:
                call.tell(place, Start(checkpoints, resume_from, inputs))
                log.info("loading task=%s (%s)", recipe.name, choice)
                opened = recipe.open(config, inputs, data, place)
                task, data, failures = opened.task, opened.data, {**failures, **opened.failures}
                folder.write_failures({"image_id": i, "reason": r} for i, r in failures.items())
                reached, validated = _train(
                    config, task, data, folder, step, resume_from, optimizer, place, validation
                )
            if reached < config.trainer.max_steps:
                told = f"stopped by a signal after step {reached}; the same command goes on"
                return RunResult(ExitStatus.STOPPED, folder.path, message=told)
            if config.trainer.shares_weights:  # no process holds all of the base
                task = recipe.task(config, inputs)
                take_trained(task, list_checkpoints(checkpoints)[-1][1])
            task.export(exported)
            held_out = task.validate(exported)
        counts = {data.noun: len(data), "failed": len(failures), "steps": config.trainer.max_steps}
        facts = _loss_facts(folder.path / METRICS_FILE)
        known = {"keys": spec.keys, "counts": counts, "held_out": held_out}
        train_export.describe(exported, config, known)
        found = {"validation": validated} if validated else {}
        folder.finish(counts, loss=facts, held_out=dict(held_out), **found)
        message = _message(counts, data.noun, facts, held_out, exported)
        if validated:
            message += f"; best in {kept_path(folder.path, validated['best'])}"
        return result_of(folder, len(failures), message, exported)


def follow(config: Train, ranks: Ranks) -> RunResult:
    """Train beside the first rank, whose decisions are heard and not made again; writes nothing."""
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    start = hear()
    if start is None:
        return RunResult(ExitStatus.DONE, None)
    data = recipe.data(config, start.inputs)
    data.drop_unusable(start.checkpoints / _UNUSABLE)
    validation = validation_of(config, recipe, start.inputs, data, start.checkpoints)
    with _threads(config.engine.threads):
        opened = recipe.open(config, start.inputs, data, ranks)
        silent = Tracker([], log_private=False)
        folder = start.checkpoints.parent
        fit(
            opened.task,
            opened.data,
            config.trainer,
            config.seed,
            silent,
            start.checkpoints,
            start.resume_from,
            optimizer_factory(config.optimizer, config.trainer.precision),
            ranks,
            validation.callback(config, folder, start.checkpoints, silent, ranks)
            if validation is not None
            else None,
        )
    return RunResult(ExitStatus.DONE, None)


def samples_per_step(trainer: Trainer) -> int:
    """Samples of one optimizer step, over all devices: what counts of how they are dealt."""
    return trainer.batch_size * trainer.accumulate * trainer.processes


def _train(
    config: Train,
    task: Task[Any, Any, Any],
    data: TrainingData[Any, Any],
    folder: RunFolder,
    step: int,
    resume_from: Path | None,
    optimizer: OptimizerFactory,
    ranks: Ranks,
    validation: Validation | None,
) -> tuple[int, dict[str, Any]]:
    """The step reached, and what the validations of a finished training come to."""
    if step:
        log.info("resuming after step %d of %d", step, config.trainer.max_steps)
    trained = sum(parameter.numel() for parameter in task.trainable_parameters().values())
    log.info("training %d weights on %d %s", trained, len(data), data.noun)
    run_id = folder.state["fingerprint"]
    checkpoints = folder.path / _CHECKPOINTS
    with open_tracker(config.logger, folder.path, plain(config), run_id, _METRICS, step) as tracker:
        callback = None
        if validation is not None:
            callback = validation.callback(config, folder.path, checkpoints, tracker, ranks)
        reached = fit(
            task,
            data,
            config.trainer,
            config.seed,
            tracker,
            checkpoints,
            resume_from,
            optimizer,
            ranks,
            callback,
        )
    if callback is None or reached < config.trainer.max_steps:
        return reached, {}
    return reached, callback.finish()


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

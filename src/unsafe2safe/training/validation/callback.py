"""Validation as Lightning sees it: when it is due, what it writes, what of it is kept."""

# ruff: noqa: ARG002 - the signatures are Lightning's
from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from PIL import Image

from unsafe2safe.core.files import atomic_path
from unsafe2safe.core.records import OutcomeState
from unsafe2safe.metrics.tradeoff import Tradeoff, draw_tradeoff
from unsafe2safe.tracking.guard import Cell, Picture, Pixels, Tracker
from unsafe2safe.training.checkpoints import list_checkpoints
from unsafe2safe.training.module import TaskModule
from unsafe2safe.training.validation.editing import EditingTask
from unsafe2safe.training.validation.measure import Shown, Validator
from unsafe2safe.training.validation.results import (
    RESULTS,
    StepResult,
    best_point,
    best_result,
    drop_dominated,
    forget_after,
    kept_path,
    pareto_steps,
    read_results,
    result_path,
    write_result,
)

log = logging.getLogger("unsafe2safe")

_GROUP = "validation"
_DRAWING = "tradeoff.png"


class ValidateAndKeep(pl.Callback):  # type: ignore[misc]
    """Validates every ``every`` steps and after the last one, and keeps the weights worth keeping.

    Stands before Checkpoints in the list of callbacks: of a checkpoint's step the validation is on
    disk already. Where a signal ends the run there may be no time for one, so that it is made when
    the run goes on. Weights are dropped only when the oldest checkpoint knows of what beats them:
    whichever checkpoint a run goes on from, nothing is missing.
    """

    def __init__(
        self, validator: Validator, every: int, run: Path, checkpoints: Path, tracker: Tracker
    ) -> None:
        """Writes into the folder ``run``, on the first process only."""
        self._validator, self._every = validator, every
        self._run, self._checkpoints, self._tracker = run, checkpoints, tracker
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = step = trainer.global_step
        if step == 0:
            self._validator.check()
        missing = False
        if trainer.is_global_zero:
            forget_after(self._run, step)
            missing = not result_path(self._run, step).is_file()
        if step and self._is_due(trainer, step) and trainer.strategy.broadcast(missing):
            self._validate(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step == self._step:  # in the middle of an accumulated step
            return
        self._step = step
        if self._is_due(trainer, step) and not (trainer.should_stop and step < trainer.max_steps):
            self._validate(trainer, pl_module)

    def _is_due(self, trainer: pl.Trainer, step: int) -> bool:
        return step % self._every == 0 or step == trainer.max_steps

    def _validate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        task, step = cast(EditingTask, pl_module.task), trainer.global_step
        averaged = pl_module.average.applied() if pl_module.average is not None else nullcontext()
        with averaged, task.editing() as editor:
            points, shown = self._validator.measure(editor)
            if not trainer.is_global_zero:
                return
            task.export(kept_path(self._run, step), prove=False)
        write_result(self._run, StepResult(step, points))
        self._tell(step, shown)
        known = [saved for saved, _ in list_checkpoints(self._checkpoints)]
        drop_dominated(self._run, self._validator.choice.scalar, min(known, default=0))

    def finish(self) -> dict[str, Any]:
        """Drop all weights that are beaten; the best step and the Pareto set, for run.json."""
        scalar = self._validator.choice.scalar
        drop_dominated(self._run, scalar)
        results = read_results(self._run)
        return {"best": best_result(results, scalar).step, "pareto": pareto_steps(results)}

    def _tell(self, step: int, shown: Sequence[Shown]) -> None:
        results, scalar = read_results(self._run), self._validator.choice.scalar
        now = best_point(next(result for result in results if result.step == step), scalar)
        figures = {"privacy": now.privacy, "fidelity": now.fidelity, "balance": now.balance}
        values = {**now.metrics, **figures}
        told = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        log.info("validation after step %d: %s", step, told)
        tracker = self._tracker
        tracker.log_metrics(step, {f"{_GROUP}/{name}": value for name, value in values.items()})
        best = best_result(results, scalar)
        point = best_point(best, scalar)
        tracker.log_best(
            {
                f"{_GROUP}/best_step": best.step,
                f"{_GROUP}/best_privacy": point.privacy,
                f"{_GROUP}/best_fidelity": point.fidelity,
            }
        )
        drawing = draw_tradeoff(
            [spot for result in results for spot in result.tradeoffs],
            Tradeoff(point.privacy, point.fidelity, best.step),
        )
        _save(drawing, self._run / RESULTS / _DRAWING)
        tracker.log_drawing(f"{_GROUP}/tradeoff", drawing)
        tracker.log_table(f"{_GROUP}/points", *points_table(results))
        if shown:
            tracker.log_table(f"{_GROUP}/edits", *_edits_table(shown, tracker.log_private))
            for picture in shown:
                if picture.edited is not None:
                    key = f"{_GROUP}/edited/{picture.index:02d}"
                    tracker.log_image(key, picture.edited, picture.outcome_state)


def points_table(results: Sequence[StepResult]) -> tuple[list[str], list[list[Cell]]]:
    """Columns and rows of all points, one row for each step and guidance."""
    points = [(result.step, point) for result in results for point in result.points]
    guidance = list(dict.fromkeys(name for _, point in points for name in point.guidance))
    metrics = sorted({name for _, point in points for name in point.metrics})
    columns = ["step", *guidance, "privacy", "fidelity", "balance", *metrics]
    rows: list[list[Cell]] = [
        [
            step,
            *(point.guidance.get(name) for name in guidance),
            point.privacy,
            point.fidelity,
            point.balance,
            *(point.metrics.get(name, "") for name in metrics),
        ]
        for step, point in points
    ]
    return columns, rows


def _edits_table(shown: Sequence[Shown], originals: bool) -> tuple[list[str], list[list[Cell]]]:
    columns = ["picture", "public caption", "outcome", "edited", *(["original"] * originals)]
    rows: list[list[Cell]] = []
    for picture in shown:
        edited = _cell(picture.edited, picture.outcome_state)
        row: list[Cell] = [
            picture.index,
            picture.public_caption,
            str(picture.outcome_state),
            edited,
        ]
        if originals:
            row.append(_cell(picture.original, None))
        rows.append(row)
    return columns, rows


def _cell(pixels: Pixels | None, outcome_state: OutcomeState | None) -> Picture | None:
    return None if pixels is None else Picture(pixels, outcome_state)


def _save(drawing: Pixels, path: Path) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(drawing).save(temporary, "PNG")

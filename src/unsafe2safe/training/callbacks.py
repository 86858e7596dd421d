"""What happens around the steps: the gradient check, the log, the checkpoints, the progress."""

# ruff: noqa: ARG002 - the signatures are Lightning's
from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from tqdm import tqdm

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import atomic_path
from unsafe2safe.training.checkpoints import checkpoint_path, drop_old
from unsafe2safe.training.gradient_check import check_gradients
from unsafe2safe.training.module import TaskModule

_SECONDS_BETWEEN_LINES = 15.0
_STOPPING = (signal.SIGTERM, signal.SIGUSR1)


class GradientCheck(pl.Callback):  # type: ignore[misc]
    """Runs the gradient check before the first step of a run, and not when it is resumed."""

    def __init__(self, probe_batches: Iterator[Any], learning_rate: float) -> None:
        self._batches, self._learning_rate = probe_batches, learning_rate

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > 0:
            return
        assert isinstance(pl_module, TaskModule)
        module = pl_module

        def loss_of_step(_: int) -> Tensor:
            with trainer.precision_plugin.train_step_context():
                return module.batch_loss(next(self._batches))

        check_gradients(
            module.network, module.task.trainable_parameters(), loss_of_step, self._learning_rate
        )


class LossLog(pl.Callback):  # type: ignore[misc]
    """Logs loss and learning rate of every ``every``-th step, and ends a run that diverged.

    Stands before :class:`Checkpoints` in the list of callbacks: a checkpoint's step is always in
    the log already, so that cutting the log at the checkpoint loses nothing.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._learning_rate = 0.0
        self._losses: list[Tensor] = []  # of the batches of a step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._learning_rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # Lightning has divided each by the number of batches of a step.
        self._losses.append(outputs["loss"].detach())
        if len(self._losses) < trainer.accumulate_grad_batches:
            return
        loss = float(trainer.strategy.reduce(torch.stack(self._losses).sum(), reduce_op="mean"))
        self._losses.clear()
        if not math.isfinite(loss):
            raise UsageError(
                f"the loss is {loss} at step {trainer.global_step}; "
                "try a lower trainer.learning_rate"
            )
        step = trainer.global_step
        if trainer.logger is not None and (step % self._every == 0 or step == trainer.max_steps):
            values = {"loss": loss, "learning_rate": self._learning_rate}
            trainer.logger.log_metrics(values, step)


class StopOnSignal(pl.Callback):  # type: ignore[misc]
    """SIGTERM or SIGUSR1, to any rank, ends the run after the step in flight.

    Stands before :class:`Checkpoints`, which then saves that step. Schedulers send one of the two
    some time before they take a machine away.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: dict[int, Any] = {}
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            # Here and not earlier: Lightning has set handlers of its own by now, that raise.
            self._before = {number: signal.signal(number, self._note) for number in _STOPPING}

    def _note(self, number: int, frame: Any) -> None:
        self.received = True

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._step:  # in the middle of an accumulated step
            return
        self._step = trainer.global_step
        if trainer.strategy.reduce_boolean_decision(self.received, all=False):
            trainer.should_stop = True

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class Checkpoints(pl.Callback):  # type: ignore[misc]
    """Saves every ``every`` steps, after the last one, and where the run is stopped."""

    def __init__(self, folder: Path, every: int) -> None:
        self._folder, self._every = folder, every
        self._saved = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        due = step % self._every == 0 or step == trainer.max_steps or trainer.should_stop
        if step == self._saved or not due:
            return
        self._saved = step
        path = checkpoint_path(self._folder, step)
        if not trainer.is_global_zero:
            trainer.save_checkpoint(path)  # takes part in its barriers, writes nothing
            return
        with atomic_path(path) as temporary:
            trainer.save_checkpoint(temporary)
        drop_old(self._folder)


class TrainingProgress(pl.Callback):  # type: ignore[misc]
    """A bar with rate, time left and loss on a terminal; a plain line now and then elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None  # tqdm
        self._begin = self._last = time.monotonic()
        self._first_step = self._shown = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = self._last = time.monotonic()
        self._first_step = self._shown = trainer.global_step
        if sys.stderr.isatty() and trainer.is_global_zero:
            total, done = trainer.max_steps, trainer.global_step
            self._bar = tqdm(total=total, initial=done, desc="training", unit="step")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not trainer.is_global_zero:
            return
        step, now = trainer.global_step, time.monotonic()
        if step == self._shown:
            return
        self._shown = step
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._bar.update(1)
        elif step >= trainer.max_steps or now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            rate = (step - self._first_step) / max(now - self._begin, 1e-9)
            left = (trainer.max_steps - step) / max(rate, 1e-9)
            print(
                f"training: step {step}/{trainer.max_steps}, loss {loss:.4f}, "
                f"{rate:.2f} steps/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

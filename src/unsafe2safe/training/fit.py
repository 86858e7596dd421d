"""One training run from a task and its data to trained weights, resumable at any step."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from unsafe2safe.core.config.schema_train import Trainer
from unsafe2safe.editors.precision import resolve_precision
from unsafe2safe.tracking.guard import Tracker
from unsafe2safe.training.callbacks import (
    Checkpoints,
    GradientCheck,
    LossLog,
    StopOnSignal,
    TrainingProgress,
)
from unsafe2safe.training.checkpoints import StreamedCheckpoints
from unsafe2safe.training.module import TaskModule
from unsafe2safe.training.network_options import as_configured
from unsafe2safe.training.optimizers import OptimizerFactory
from unsafe2safe.training.ranks import ALONE, RankEnvironment, Ranks
from unsafe2safe.training.sampler import ResumableBatchSampler
from unsafe2safe.training.scale import device_type, strategy_of
from unsafe2safe.training.task import KeyedBatch, Task, TrainingData
from unsafe2safe.training.tracker_logger import TrackerLogger
from unsafe2safe.training.validation.callback import ValidateAndKeep

_PROBE_RATE = 1e-2


def fit(
    task: Task[Any, Any, Any],
    data: TrainingData[Any, Any],
    settings: Trainer,
    seed: int,
    tracker: Tracker,
    checkpoints: Path,
    resume_from: Path | None,
    optimizer: OptimizerFactory,
    ranks: Ranks = ALONE,
    validation: ValidateAndKeep | None = None,
) -> int:
    """Train ``task`` to ``settings.max_steps``, from ``resume_from`` where that is given.

    Every one of ``ranks`` calls this at the same time, with its own ``task`` and the same rest.
    With ``settings.ema`` the task holds the averaged weights afterwards, else the last ones.

    Returns:
        The step reached: fewer than ``max_steps`` where a signal stopped the run.

    Raises:
        GradientCheckError: a trainable weight does not learn, or a frozen one does.
        UsageError: the loss is not finite.
    """
    sampler = _sampler(data, settings, seed, ranks)
    module = TaskModule(task, sampler, settings, seed, optimizer)
    callbacks: list[pl.Callback] = [
        LossLog(settings.log_every),
        StopOnSignal(),
        *([validation] if validation is not None else []),
        Checkpoints(checkpoints, settings.checkpoint_every),
        TrainingProgress(),
    ]
    if settings.gradient_check:
        probe = _batches(data, _sampler(data, settings, seed, ranks))
        # AdamW probes, whatever trains: rates of 1, as Prodigy's, would blow it up
        callbacks.insert(0, GradientCheck(probe, min(settings.learning_rate, _PROBE_RATE)))
    plugins: list[Any] = [StreamedCheckpoints()]
    if ranks.world_size > 1:
        plugins.append(RankEnvironment(ranks))
    with _quiet_lightning():
        trainer = pl.Trainer(
            accelerator=settings.accelerator,
            devices=ranks.devices,
            num_nodes=ranks.num_nodes,
            strategy=strategy_of(settings, ranks),
            plugins=plugins,
            precision=resolve_precision(settings.precision, device_type(settings)),
            max_steps=settings.max_steps,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.gradient_clip,
            logger=TrackerLogger(tracker),
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=checkpoints.parent,
        )
        loader: DataLoader[Any] = DataLoader(data, batch_sampler=sampler, collate_fn=data.collate)
        on_interrupt = signal.getsignal(signal.SIGINT)
        try:
            with as_configured(task.denoiser, settings):
                trainer.fit(module, loader, ckpt_path=resume_from, weights_only=True)
        except SystemExit:  # Lightning turns Ctrl-C into sys.exit(1), which would end a sweep
            if on_interrupt is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, on_interrupt)  # Lightning leaves it ignored
            raise KeyboardInterrupt from None
    if module.average is not None:
        module.average.apply()
    return int(trainer.global_step)


def _sampler(
    data: TrainingData[Any, Any], settings: Trainer, seed: int, ranks: Ranks
) -> ResumableBatchSampler:
    return ResumableBatchSampler(
        len(data),
        settings.batch_size,
        seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        buckets=data.buckets,
        accumulate=settings.accumulate,
    )


def _batches(data: TrainingData[Any, Any], sampler: ResumableBatchSampler) -> Iterator[KeyedBatch]:
    for batch in sampler:
        yield data.collate([data[item] for item in batch])


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's tips and its advice on worker processes: squares lie in memory."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)`.*")
            # blocks of Flux return views; none is written to in place
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* a view tensor")
            # the frozen base is in eval mode on purpose
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
            yield
    finally:
        logger.setLevel(level)

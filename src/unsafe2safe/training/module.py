"""The Lightning side of a :class:`Task`: optimizer, schedule, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from unsafe2safe.core.config.schema_train import Trainer
from unsafe2safe.training.averaging import WeightAverage
from unsafe2safe.training.cache.rows import moved
from unsafe2safe.training.draws import keyed_torch_rng
from unsafe2safe.training.optimizers import OptimizerFactory
from unsafe2safe.training.sampler import ResumableBatchSampler
from unsafe2safe.training.schedule import rate_share
from unsafe2safe.training.sharding import kept, put, shard
from unsafe2safe.training.task import KeyedBatch, PreparedBatch, Task


class TaskModule(pl.LightningModule):  # type: ignore[misc]
    """Steps a task. Its ``state_dict`` holds the trained weights only, never the frozen base."""

    def __init__(
        self,
        task: Task[Any, Any, Any],
        sampler: ResumableBatchSampler,
        settings: Trainer,
        seed: int,
        optimizer: OptimizerFactory,
    ) -> None:
        super().__init__()
        self.task, self._optimizer = task, optimizer
        self.network = task.network
        self._sampler, self._settings, self._seed = sampler, settings, seed
        self.average: WeightAverage | None = None
        self.strict_loading = False
        self._configured = False

    def configure_model(self) -> None:
        """Share the denoiser out where the strategy does, before anything holds on to weights."""
        if self._configured:
            return
        self._configured = True
        settings = self._settings
        if settings.strategy == "fsdp" and settings.processes > 1:
            shard(self.task.denoiser, self.device_mesh["data_parallel"])
        if settings.ema:
            self.average = WeightAverage(self.task.trainable_parameters(), settings.ema)
        # Every process has read the same frozen base: DDP need not send it, and could not send
        # torchao's packed weights.
        trained = {f"network.{name}" for name in self.task.trainable_parameters()}
        held = [name for name, _ in (*self.named_parameters(), *self.named_buffers())]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
            self, [name for name in held if name not in trained]
        )

    def training_step(self, batch: KeyedBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Mean loss of a batch."""
        return self.batch_loss(batch)

    def batch_loss(self, batch: KeyedBatch) -> Tensor:
        """Mean of the task's per-sample losses with the draws of the batch's own keys."""
        if isinstance(batch, PreparedBatch):
            prepared = moved(batch.prepared, self.device)
        else:
            with _frozen_parts_not_in_fp16(self.device.type):
                prepared = self.task.prepare(batch)
        draws = self.task.draw(batch.keys, prepared)
        with keyed_torch_rng(self._seed, batch.keys, self.device):
            losses: Tensor = self.task.loss(prepared, draws)
        return losses.mean()

    def configure_optimizers(self) -> dict[str, Any]:
        """The configured optimizer over the trained weights, with the trainer's schedule."""
        settings = self._settings
        optimizer = self._optimizer(
            self.task.trainable_parameters().values(),
            settings.learning_rate,
            settings.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(rate_share, settings))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def optimizer_step(self, *arguments: Any, **settings: Any) -> None:
        """Lightning's step; the average follows it.

        Gradients go at once: Lightning frees them after the next forward pass, where they would
        lie beside all of its activations.
        """
        super().optimizer_step(*arguments, **settings)
        self.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()

    def transfer_batch_to_device(
        self,
        batch: KeyedBatch,
        device: torch.device,  # noqa: ARG002
        dataloader_idx: int,  # noqa: ARG002
    ) -> KeyedBatch:
        """Leave the move to ``Task.prepare``, which knows what goes where."""
        return batch

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        """The trained weights by name, whole; on the first rank where they lie in parts."""
        return {name: kept(p.detach()) for name, p in self.task.trainable_parameters().items()}

    def load_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        strict: bool = True,  # noqa: ARG002
        assign: bool = False,  # noqa: ARG002
    ) -> None:
        """Copy trained weights back.

        Raises:
            ValueError: the checkpoint holds other weights than this task trains.
        """
        trainable = self.task.trainable_parameters()
        if set(state_dict) != set(trainable):
            odd = min(set(state_dict) ^ set(trainable))
            raise ValueError(f"the checkpoint does not fit what is trained ({odd})")
        with torch.no_grad():
            for name, parameter in trainable.items():
                put(state_dict[name], parameter)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the average, and the sampler's place: what was trained on, not prefetched."""
        per_step = self._sampler.global_batch * self._settings.accumulate
        self._sampler.samples_seen = self.global_step * per_step
        checkpoint["sampler"] = self._sampler.state_dict()
        if self.average is not None:
            checkpoint["average"] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put sampler and average back to their places."""
        self._sampler.load_state_dict(checkpoint["sampler"])
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])


def _frozen_parts_not_in_fp16(device_type: str) -> AbstractContextManager[Any]:
    """Under 16-mixed the autoencoder and the text encoders, which overflow in fp16, compute in
    their own numbers."""
    half = torch.is_autocast_enabled(device_type) and (
        torch.get_autocast_dtype(device_type) is torch.float16
    )
    return torch.autocast(device_type, enabled=False) if half else nullcontext()

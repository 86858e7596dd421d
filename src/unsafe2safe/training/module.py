"""The Lightning side of a :class:`Task`: optimizer, warm-up, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from unsafe2safe.training.draws import keyed_torch_rng
from unsafe2safe.training.sampler import ResumableBatchSampler
from unsafe2safe.training.task import PairBatch, Task


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with linear warm-up over ``warmup_steps`` and a constant rate after it."""

    learning_rate: float
    weight_decay: float
    warmup_steps: int

    def factor(self, step: int) -> float:
        """Share of the peak rate that step ``step`` (from 0) is taken with."""
        return min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0


class TaskModule(pl.LightningModule):  # type: ignore[misc]
    """Steps a task. Its ``state_dict`` holds the trained weights only, never the frozen base."""

    def __init__(
        self,
        task: Task[Any, Any],
        sampler: ResumableBatchSampler,
        optimizer: OptimizerSettings,
        seed: int,
    ) -> None:
        super().__init__()
        self.task = task
        self.network = task.network
        self._sampler, self._optimizer, self._seed = sampler, optimizer, seed
        self.strict_loading = False

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Mean loss of a batch."""
        return self.batch_loss(batch)

    def batch_loss(self, batch: PairBatch) -> Tensor:
        """Mean of the task's per-sample losses with the draws of the batch's own keys."""
        prepared = self.task.prepare(batch)
        draws = self.task.draw(batch.keys, prepared)
        with keyed_torch_rng(self._seed, batch.keys, self.device):
            losses: Tensor = self.task.loss(prepared, draws)
        return losses.mean()

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW over the trained weights, stepped once per batch."""
        settings = self._optimizer
        optimizer = torch.optim.AdamW(
            list(self.task.trainable_parameters().values()),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def transfer_batch_to_device(
        self,
        batch: PairBatch,
        device: torch.device,  # noqa: ARG002
        dataloader_idx: int,  # noqa: ARG002
    ) -> PairBatch:
        """Leave the move to ``Task.prepare``, which knows what goes where."""
        return batch

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        """The trained weights by name."""
        return {name: p.detach() for name, p in self.task.trainable_parameters().items()}

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
                parameter.copy_(state_dict[name])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the sampler's place: what was trained on, whatever was prefetched."""
        self._sampler.samples_seen = self.global_step * self._sampler.global_batch
        checkpoint["sampler"] = self._sampler.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the sampler back to its place."""
        self._sampler.load_state_dict(checkpoint["sampler"])

"""Stops a training in the middle, as a kill would: nothing runs after it."""

from __future__ import annotations

from typing import Any

import pytest

from unsafe2safe.training.callbacks import TrainingProgress


class Interrupted(Exception):
    """The training was stopped on purpose."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Raise :class:`Interrupted` once ``step`` steps are logged and, when due, kept."""
    passed = TrainingProgress.on_train_batch_end

    def stop(self: TrainingProgress, trainer: Any, *arguments: Any) -> None:
        passed(self, trainer, *arguments)
        if trainer.global_step == step:
            raise Interrupted

    monkeypatch.setattr(TrainingProgress, "on_train_batch_end", stop)

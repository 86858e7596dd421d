"""Lightning's logger interface in front of a tracker, so that nothing passes the privacy guard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers import Logger

from unsafe2safe.tracking.guard import Tracker


class TrackerLogger(Logger):  # type: ignore[misc]
    """Hands metrics to a tracker. Hyperparameters go there as the redacted config, not this way."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self._tracker = tracker

    @property
    def name(self) -> str:
        return "unsafe2safe"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics of a step.

        Raises:
            ValueError: without a step.
        """
        if step is None:
            raise ValueError("metrics of training need a step")
        self._tracker.log_metrics(step, metrics)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: the tracker got the redacted configuration when it was opened."""

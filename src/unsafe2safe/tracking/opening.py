"""From the ``logger`` section of the configuration to a guarded tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unsafe2safe.core.config.schema_common import Logger
from unsafe2safe.tracking.csv_sink import CsvSink
from unsafe2safe.tracking.guard import Sink, Tracker
from unsafe2safe.tracking.redaction import redact_config

METRICS_FILE = "metrics.csv"


def open_tracker(
    settings: Logger,
    folder: Path,
    config: Mapping[str, Any],
    run_id: str,
    metric_columns: Sequence[str],
    keep_until: int,
) -> Tracker:
    """The tracker of a run: ``metrics.csv`` in ``folder`` unless ``none``, and W&B or TensorBoard
    where asked.

    ``metric_columns`` are the metrics that get a column; rows of an earlier start after step
    ``keep_until`` are cut.
    """
    sinks: list[Sink] = []
    if settings.name != "none":
        sinks.append(CsvSink(folder / METRICS_FILE, metric_columns, keep_until))
    if settings.name == "tensorboard":
        from unsafe2safe.tracking.tensorboard_sink import TensorboardSink

        sinks.append(TensorboardSink(folder, redact_config(config), keep_until))
    if settings.name == "wandb":
        from unsafe2safe.tracking.wandb_sink import WandbSink  # starts fast without wandb

        redacted = redact_config(config)
        sinks.append(WandbSink(folder, run_id, settings.project, redacted, online=settings.online))
    return Tracker(sinks, log_private=settings.log_private)

"""TensorBoard event files, told nothing of the machine they are written on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unsafe2safe.core.errors import UsageError
from unsafe2safe.tracking.guard import Passed, Pixels, Sink
from unsafe2safe.tracking.pictures import png

FOLDER = "tensorboard"
_NAME = "events.out.tfevents.{:010d}.unsafe2safe"


class TensorboardSink(Sink):
    """One more event file in ``tensorboard/`` of the run folder for each start of a run.

    ``SummaryWriter`` would put the host's name and the process into the file's name. Every event
    is flushed, so that a killed run loses none. What an earlier start logged after step
    ``keep_until`` is purged by TensorBoard itself when it reads the next file.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], keep_until: int) -> None:
        """Open the next event file. ``config`` must be redacted already.

        Raises:
            UsageError: tensorboard is not installed.
        """
        try:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise UsageError(
                "logger=tensorboard needs tensorboard: pip install unsafe2safe[tensorboard]"
            ) from None
        self._protos = event_pb2
        root = folder / FOLDER
        root.mkdir(parents=True, exist_ok=True)
        number = len(list(root.glob("events.out.tfevents.*")))
        self._file = (root / _NAME.format(number)).open("wb")
        self._records = RecordWriter(self._file)
        self._step = keep_until
        self._add(event_pb2.Event(file_version="brain.Event:2", step=keep_until + 1))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(event_pb2.Event(session_log=start, step=keep_until + 1))
        lines = [f"    {line}" for line in _flat(config)]
        self._text("config", "\n".join(lines), keep_until + 1)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars of a step."""
        from torch.utils.tensorboard.summary import scalar

        self._step = step
        for name, value in values.items():
            self._add(self._protos.Event(summary=scalar(name, value), step=step))  # type: ignore[no-untyped-call]

    def best(self, values: Mapping[str, float]) -> None:
        """Scalars of the last step."""
        self.metrics(self._step, values)

    def summary(self, values: Mapping[str, float]) -> None:
        """Scalars of the last step."""
        self.metrics(self._step, values)

    def figure(self, key: str, figure: Mapping[str, Any], drawing: Pixels) -> None:  # noqa: ARG002
        """The drawing: charts are not for TensorBoard."""
        self.image(key, drawing)

    def image(self, key: str, image: Pixels) -> None:
        """A picture of the last step."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width = image.shape[:2]
        shown = Summary.Image(height=height, width=width, colorspace=3)
        shown.encoded_image_string = png(image)
        summary = Summary(value=[Summary.Value(tag=key, image=shown)])
        self._add(self._protos.Event(summary=summary, step=self._step))

    def text(self, key: str, text: str) -> None:
        """A text of the last step."""
        self._text(key, text, self._step)

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Passed]]) -> None:
        """A table of the last step in Markdown; its pictures beside it."""
        for number, row in enumerate(rows):
            for column, cell in zip(columns, row, strict=True):
                if isinstance(cell, np.ndarray):
                    self.image(f"{key}/{column}/{number:02d}", cell)
        lines = [columns, ["---"] * len(columns), *([_cell(cell) for cell in row] for row in rows)]
        self.text(key, "\n".join(f"| {' | '.join(line)} |" for line in lines))

    def finish(self) -> None:
        """Close the file."""
        self._file.close()

    def _text(self, key: str, text: str, step: int) -> None:
        from torch.utils.tensorboard.summary import text as as_summary

        self._add(self._protos.Event(summary=as_summary(key, text), step=step))  # type: ignore[no-untyped-call]

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._file.flush()


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in sorted(config.items()):
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {value}")
    return lines


def _cell(cell: Passed) -> str:
    if cell is None or isinstance(cell, np.ndarray):
        return ""
    return str(cell).replace("|", "\\|").replace("\n", " ")

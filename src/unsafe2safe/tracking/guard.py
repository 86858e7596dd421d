"""The privacy guard: everything that a run tells a tracker passes through :class:`Tracker`.

What may not leave is refused and counted, never raised: a long run does not end for a picture.
Only a programming error (a metric that is no number, a picture that is no picture) raises.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.core.records import OutcomeState

Pixels = NDArray[np.uint8]
Plain = str | int | float | bool | None
Passed = Plain | Pixels


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture (H, W, 3) uint8 in a table, with the state of its outcome, or None of an original.

    It passes where :meth:`Tracker.log_image` would let it pass.
    """

    pixels: Pixels
    outcome_state: OutcomeState | None


Cell = Plain | Picture
_PIXEL_TRACES = {"image", "heatmap"}


class Sink(ABC):
    """Where what passed the guard goes. Only :class:`Tracker` calls a sink."""

    @abstractmethod
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the values of one step."""

    @abstractmethod
    def image(self, key: str, image: Pixels) -> None:
        """Keep an image (H, W, 3) uint8 RGB."""

    @abstractmethod
    def text(self, key: str, text: str) -> None:
        """Keep a text."""

    @abstractmethod
    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Passed]]) -> None:
        """Keep a table; its pictures have passed."""

    def best(self, values: Mapping[str, float]) -> None:  # noqa: B027 - not all have such a place
        """Keep what was best so far in place of an earlier best."""

    def summary(self, values: Mapping[str, float]) -> None:  # noqa: B027 - few have one
        """Keep what a run comes to, beside its steps."""

    def figure(  # noqa: B027 - few can
        self, key: str, figure: Mapping[str, Any], drawing: Pixels
    ) -> None:
        """Keep a Plotly figure (``data`` and ``layout``), or else its ``drawing``."""

    def files(self, name: str, kind: str, paths: Sequence[Path]) -> None:  # noqa: B027 - few can
        """Keep files together, as an artifact."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is left and let go of files and processes."""


class Tracker:
    """The guard in front of any number of sinks.

    ``log_private`` lets originals and private texts through. An edited picture whose outcome is not
    publishable never passes: it may show the original.
    """

    def __init__(self, sinks: Sequence[Sink], *, log_private: bool = False) -> None:
        self._sinks = tuple(sinks)
        self.log_private = log_private
        self.refused: Counter[str] = Counter()

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log the figures of a step.

        Raises:
            TypeError: a value is no number.
        """
        plain = _numbers(values)
        for sink in self._sinks:
            sink.metrics(step, plain)

    def log_best(self, values: Mapping[str, float]) -> None:
        """Log what was best so far, in place of what was before.

        Raises:
            TypeError: a value is no number.
        """
        plain = _numbers(values)
        for sink in self._sinks:
            sink.best(plain)

    def log_summary(self, values: Mapping[str, float]) -> None:
        """Log what a run comes to.

        Raises:
            TypeError: a value is no number.
        """
        plain = _numbers(values)
        for sink in self._sinks:
            sink.summary(plain)

    def log_figure(self, key: str, figure: Mapping[str, Any], drawing: Pixels) -> bool:
        """Log a Plotly figure (``data`` and ``layout``), drawn from figures and never from a
        picture; ``drawing`` (H, W, 3) uint8 is the same for trackers that keep pictures only.

        Returns:
            Whether it passed: one that holds a picture does not.
        """
        if _holds_picture(figure):
            self.refused["figure_with_picture"] += 1
            return False
        for sink in self._sinks:
            sink.figure(key, figure, drawing)
        return True

    def log_image(self, key: str, image: Pixels, outcome_state: OutcomeState | None) -> bool:
        """Log an edited image with the state of its outcome, or an original with None.

        Returns:
            Whether it passed.

        Raises:
            TypeError: ``image`` is not (H, W, 3) uint8.
        """
        if not self._passes(key, image, outcome_state):
            return False
        for sink in self._sinks:
            sink.image(key, image)
        return True

    def log_drawing(self, key: str, drawing: Pixels) -> None:
        """Log a plot (H, W, 3) uint8, drawn from figures and never from a picture."""
        for sink in self._sinks:
            sink.image(key, drawing)

    def _passes(self, key: str, image: Pixels, outcome_state: OutcomeState | None) -> bool:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise TypeError(f"image {key} is {image.dtype} {image.shape}, not (H, W, 3) uint8")
        allowed = self.log_private if outcome_state is None else outcome_state.publishable
        if not allowed:
            self.refused["original" if outcome_state is None else "unpublishable_image"] += 1
        return allowed

    def log_files(self, name: str, kind: str, paths: Sequence[Path]) -> None:
        """Log files made of figures alone as one artifact, where a tracker has such."""
        for sink in self._sinks:
            sink.files(name, kind, paths)

    def log_text(self, key: str, text: str, private: bool) -> bool:
        """Log a text; ``private`` says whether it came from the private side. Returns as above."""
        if private and not self.log_private:
            self.refused["private_text"] += 1
            return False
        for sink in self._sinks:
            sink.text(key, text)
        return True

    def log_table(
        self,
        key: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        private: bool = False,
    ) -> bool:
        """Log a table; ``private`` if any text came from the private side. Returns as above.

        A :class:`Picture` that may not pass leaves an empty cell.

        Raises:
            TypeError: a row is not as long as ``columns``.
        """
        if any(len(row) != len(columns) for row in rows):
            raise TypeError(f"table {key} has a row that is not {len(columns)} long")
        if private and not self.log_private:
            self.refused["private_table"] += 1
            return False
        passed = [[self._cell(key, cell) for cell in row] for row in rows]
        for sink in self._sinks:
            sink.table(key, columns, passed)
        return True

    def _cell(self, key: str, cell: Cell) -> Passed:
        if not isinstance(cell, Picture):
            return cell
        return cell.pixels if self._passes(key, cell.pixels, cell.outcome_state) else None

    def finish(self) -> None:
        """Close all sinks; nothing may be logged after it."""
        for sink in self._sinks:
            sink.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish()


def _holds_picture(figure: Mapping[str, Any]) -> bool:
    """Whether a Plotly figure carries pixels: as a trace, behind the axes, or as an address."""
    layout = figure.get("layout", {})
    traces = figure.get("data", ())
    if layout.get("images") or any(trace.get("type") in _PIXEL_TRACES for trace in traces):
        return True
    return "data:image" in json.dumps(figure, default=str)


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise TypeError(f"metric {key} is a {type(value).__name__}, not a number")
    return {key: float(value) for key, value in values.items()}

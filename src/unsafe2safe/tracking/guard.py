"""The privacy guard: everything that a run tells a tracker passes through :class:`Tracker`.

What may not leave is refused and counted, never raised: a long run does not end for a picture.
Only a programming error (a metric that is no number, a picture that is no picture) raises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.core.records import OutcomeState

Cell = str | int | float | bool | None
Pixels = NDArray[np.uint8]


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
    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Keep a table."""

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
        self._log_private = log_private
        self.refused: Counter[str] = Counter()

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log the figures of a step.

        Raises:
            TypeError: a value is no number.
        """
        for key, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise TypeError(f"metric {key} is a {type(value).__name__}, not a number")
        plain = {key: float(value) for key, value in values.items()}
        for sink in self._sinks:
            sink.metrics(step, plain)

    def log_image(self, key: str, image: Pixels, outcome_state: OutcomeState | None) -> bool:
        """Log an edited image with the state of its outcome, or an original with None.

        Returns:
            Whether it passed.

        Raises:
            TypeError: ``image`` is not (H, W, 3) uint8.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise TypeError(f"image {key} is {image.dtype} {image.shape}, not (H, W, 3) uint8")
        allowed = self._log_private if outcome_state is None else outcome_state.publishable
        if not allowed:
            self.refused["original" if outcome_state is None else "unpublishable_image"] += 1
            return False
        for sink in self._sinks:
            sink.image(key, image)
        return True

    def log_text(self, key: str, text: str, private: bool) -> bool:
        """Log a text; ``private`` says whether it came from the private side. Returns as above."""
        if private and not self._log_private:
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
        """Log a table; ``private`` if any cell came from the private side. Returns as above.

        Raises:
            TypeError: a row is not as long as ``columns``.
        """
        if any(len(row) != len(columns) for row in rows):
            raise TypeError(f"table {key} has a row that is not {len(columns)} long")
        if private and not self._log_private:
            self.refused["private_table"] += 1
            return False
        for sink in self._sinks:
            sink.table(key, columns, rows)
        return True

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

"""Metrics as a CSV file in the run folder, one row per step, resumable."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unsafe2safe.core.files import write_text
from unsafe2safe.tracking.guard import Passed, Pixels, Sink


class CsvSink(Sink):
    """Appends to ``path``; each row is flushed, so that a killed run loses none.

    ``columns`` (after ``step``) are fixed when the file is opened. Tables go to
    ``tables/<key>.csv`` beside it; pictures and texts are not for CSV and are left out, and so are
    metrics of a group (``validation/privacy``) without a column, which lie in a table as well.
    """

    def __init__(self, path: Path, columns: Sequence[str], keep_until: int) -> None:
        """Open ``path`` after cutting the rows after step ``keep_until``, and any half-written."""
        self.path, self._columns = path, tuple(columns)
        kept = [row for row in read_rows(path, self._columns) if int(row[0]) <= keep_until]
        write_text(path, _lines([("step", *self._columns), *kept]))
        self._file = path.open("a", encoding="utf-8", newline="")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row.

        Raises:
            KeyError: a value has no column.
        """
        known = set(self._columns)
        values = {name: value for name, value in values.items() if name in known or "/" not in name}
        if not values:
            return
        unknown = set(values) - known
        if unknown:
            raise KeyError(f"{self.path.name} has no column {min(unknown)!r}")
        cells = [repr(values[name]) if name in values else "" for name in self._columns]
        self._file.write(_lines([(str(step), *cells)]))
        self._file.flush()

    def image(self, key: str, image: Pixels) -> None:
        """Left out."""

    def text(self, key: str, text: str) -> None:
        """Left out."""

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Passed]]) -> None:
        """Write ``tables/<key>.csv``."""
        content = [columns, *([_cell(cell) for cell in row] for row in rows)]
        write_text(self.path.parent / "tables" / f"{key}.csv", _lines(content))

    def finish(self) -> None:
        """Close the file."""
        self._file.close()


def _cell(cell: Passed) -> str:
    return "" if cell is None or isinstance(cell, np.ndarray) else str(cell)


def _lines(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_rows(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """The whole rows of a metrics file of ``columns``; [] where there is none or it is another's.

    A last line without its end was cut by a kill, whatever it holds.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    rows = list(csv.reader(io.StringIO(whole)))
    if not rows or rows[0] != ["step", *columns]:
        return []
    return [row for row in rows[1:] if len(row) == len(columns) + 1 and row[0].isdigit()]

"""Ready-made triplets and pairs from CSV, TSV, JSONL and Parquet, with named columns.

Cells come as their makers left them. An empty cell, however it is written, is no text; a flag that
cannot be read is no flag.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from unsafe2safe.core.config.components import nearest
from unsafe2safe.core.config.schema import TableColumns
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import PrivacyFlag

FORMATS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
_EMPTY = frozenset({"", "nan", "none", "null", "n/a", "na", "<na>", "nil"})
_UNSAFE = frozenset({"true", "1", "yes", "y", "t", "private", "sensitive"})
_SAFE = frozenset({"false", "0", "no", "n", "f", "public"})
_USUAL: dict[str, tuple[str, ...]] = {  # the first that the table has is taken
    "image_id": ("image_id", "image_path", "file_name", "filename", "file", "path", "source_image",
                 "source", "original_image", "original", "input_image", "image", "id"),
    "privacy_flag": ("privacy_flag", "flag", "unsafe", "is_unsafe", "is_private"),
    "public_caption": ("public_caption", "caption_public", "safe_caption", "public"),
    "edit_instruction": ("edit_instruction", "instruction", "edit_prompt", "edit"),
    "combined_caption": ("combined_caption", "caption_combined", "combined"),
    "private_caption": ("private_caption", "caption_private", "private", "full_description"),
    "target": ("target", "target_image", "edited_image", "edited", "output_image", "safe_image",
               "anonymized_image", "anonymized"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row. Texts are '' where the cell is empty; ``fault`` tells why a row cannot be used.

    ``flag`` is None where the cell cannot be read; where there is no column of flags every row is
    unsafe.
    """

    number: int  # counted from 1, without the heading
    image_id: str
    flag: PrivacyFlag | None = PrivacyFlag.UNSAFE
    public_caption: str = ""
    edit_instruction: str = ""
    combined_caption: str = ""
    private_caption: str = ""
    target: str = ""  # a path relative to the table's folder
    embedded: bool = False  # the target is a picture in the table: see TripletTable.picture
    fault: str = ""

    @property
    def has_target(self) -> bool:
        return self.embedded or bool(self.target)


@dataclass(frozen=True, eq=False)
class TripletTable:
    """A table with its columns found: which column says what, by the names of ours."""

    path: Path
    format: str
    columns: Mapping[str, str]

    @classmethod
    def open(cls, path: Path, wanted: TableColumns) -> TripletTable:
        """Find the columns of ``path``.

        Raises:
            UsageError: the file cannot be read, has not the columns, or none that names images.
        """
        kind = FORMATS.get(path.suffix.lower())
        if kind is None:
            raise UsageError(f"table.file={path}: known are {', '.join(FORMATS)}")
        if not path.is_file():
            raise UsageError(f"table.file={path} does not exist or is no file")
        names = _names(path, kind)
        columns: dict[str, str] = {}
        for role, usual in _USUAL.items():
            given = getattr(wanted, role)
            if given is not None and given not in names:
                raise UsageError(
                    f"table.columns.{role}={given} is no column of {path}{nearest(given, names)}"
                )
            found = given or _first(usual, names, set(columns.values()))
            if found is not None:
                columns[role] = found
        if "image_id" not in columns:
            raise UsageError(
                f"{path} has no column that names images (give table.columns.image_id=...); it "
                f"has {', '.join(names)}"
            )
        return cls(path, kind, columns)

    def rows(self) -> Iterator[TableRow]:
        """All rows, one at a time; one that cannot be read has a ``fault``.

        Raises:
            UsageError: the file is damaged as a whole.
        """
        reader = {"csv": _csv_cells, "jsonl": _json_cells, "parquet": _parquet_cells}[self.format]
        wanted = sorted(set(self.columns.values()))
        for number, cells in enumerate(reader(self.path, wanted), 1):
            yield (
                TableRow(number, "", fault=cells)
                if isinstance(cells, str)
                else self._row(number, cells)
            )

    def picture(self, number: int) -> bytes:
        """The target in a Parquet row; its group of rows is kept for those that come next."""
        file = pq.ParquetFile(self.path)
        first = 1
        for group in range(file.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            if first <= number < last:
                cell = self._group(group)[number - first].as_py()
                return bytes(cell["bytes"] if isinstance(cell, dict) else cell)
            first = last
        raise IndexError(number)

    @lru_cache(maxsize=1)  # noqa: B019 - tables live as long as the run does
    def _group(self, group: int) -> Any:
        column = self.columns["target"]
        return pq.ParquetFile(self.path).read_row_group(group, columns=[column])[column]

    def _row(self, number: int, cells: Mapping[str, Any]) -> TableRow:
        def cell(role: str) -> Any:
            return cells.get(self.columns[role]) if role in self.columns else None

        image_id = _name(cell("image_id"))
        target = cell("target")
        embedded = isinstance(target.get("bytes") if isinstance(target, dict) else target, bytes)
        flag: PrivacyFlag | None = PrivacyFlag.UNSAFE
        if "privacy_flag" in self.columns:
            flag = read_flag(cell("privacy_flag"), self.columns["privacy_flag"])
        return TableRow(
            number=number,
            image_id=image_id.replace("\\", "/").removeprefix("./"),
            flag=flag,
            public_caption=_text(cell("public_caption")),
            edit_instruction=_text(cell("edit_instruction")),
            combined_caption=_text(cell("combined_caption")),
            private_caption=_text(cell("private_caption")),
            target="" if embedded else _name(target),
            embedded=embedded,
            fault="" if image_id else "it names no image",
        )


def read_flag(cell: Any, column: str = "") -> PrivacyFlag | None:
    """The flag that a cell states, or None where it states none.

    True means unsafe, except that in a column named like ``is_safe`` nobody can know: there only
    the words themselves count.
    """
    word = _text(cell).strip("<>[](){}*_\"'`.:= \t").lower()
    if isinstance(cell, float) and cell in (0.0, 1.0):
        word = str(int(cell))
    if word in (PrivacyFlag.SAFE, PrivacyFlag.UNSAFE):
        return PrivacyFlag(word)
    if re.search("safe", column, re.I) and not re.search("unsafe", column, re.I):
        return None
    if word in _UNSAFE:
        return PrivacyFlag.UNSAFE
    return PrivacyFlag.SAFE if word in _SAFE else None


def _text(cell: Any) -> str:
    if cell is None or isinstance(cell, bytes | Mapping | list):
        return ""
    if isinstance(cell, float):
        return "" if math.isnan(cell) else f"{cell:g}"
    text = " ".join(str(cell).split())
    return "" if text.lower() in _EMPTY else text


def _name(cell: Any) -> str:
    """A file's name, in which every blank counts; of a picture in a table, that of its file."""
    if isinstance(cell, Mapping):
        cell = cell.get("path")
    return cell if isinstance(cell, str) and _text(cell) else _text(cell)


def _first(usual: Sequence[str], names: Sequence[str], taken: set[str]) -> str | None:
    plain = {re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"): name for name in names}
    found = (plain[name] for name in usual if name in plain)
    return next((name for name in found if name not in taken), None)


def _names(path: Path, kind: str) -> list[str]:
    try:
        if kind == "parquet":
            return list(pq.read_schema(path).names)
        if kind == "csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                return next(csv.reader(file, delimiter=_delimiter(path)), [])
        names: dict[str, None] = {}
        for number, cells in enumerate(_json_cells(path, ())):
            names.update(dict.fromkeys(cells) if isinstance(cells, Mapping) else {})
            if number == 999:  # not every row needs to have every key
                break
        return list(names)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _csv_cells(path: Path, wanted: Sequence[str]) -> Iterator[Mapping[str, Any] | str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file, delimiter=_delimiter(path), strict=True):
                if None in row or None in row.values():
                    yield "it has not as many cells as the heading"
                else:
                    yield {name: row[name] for name in wanted}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from None


def _json_cells(path: Path, wanted: Sequence[str]) -> Iterator[Mapping[str, Any] | str]:
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    yield "it is no JSON object"
                else:
                    yield {name: row.get(name) for name in wanted} if wanted else row
    except OSError as error:
        raise _unreadable(path, error) from None


def _parquet_cells(path: Path, wanted: Sequence[str]) -> Iterator[Mapping[str, Any] | str]:
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=list(wanted)):
            yield from cast(list[dict[str, Any]], batch.to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _unreadable(path: Path, error: Exception) -> UsageError:
    if isinstance(error, UnicodeDecodeError):
        return UsageError(f"table.file={path} is not UTF-8; save it as UTF-8 and import that")
    return UsageError(f"table.file={path} is no readable {path.suffix} ({type(error).__name__})")

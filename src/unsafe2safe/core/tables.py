"""Parquet files of records: one schema per record type, written whole, read back checked.

Private tables are read with pyarrow too, never through ``datasets``, whose cache would keep them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import atomic_path
from unsafe2safe.core.records import Outcome, Pair, PrivateRecord, Region, Triplet

_BOX = pa.list_(pa.float64(), 4)
_PROVENANCE = pa.struct(
    [
        ("model", pa.string()),
        ("revision", pa.string()),
        ("prompt_hash", pa.string()),
        ("seed", pa.int64()),
        ("schema_version", pa.int64()),
    ]
)
_FINDING = pa.struct(
    [
        ("category", pa.string()),
        ("score", pa.float64()),
        ("source", pa.string()),
        ("box", _BOX),
        ("text", pa.string()),
    ]
)
_REGION_FIELDS = [
    ("image_id", pa.string()),
    ("box", _BOX),
    ("category", pa.string()),
    ("score", pa.float64()),
    ("source", pa.string()),
]
_CHECK = pa.struct(
    [
        ("name", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("passed", pa.bool_()),
    ]
)
_ATTEMPT = pa.struct(
    [
        ("editor", pa.string()),
        ("strength", pa.int64()),
        ("seed", pa.int64()),
        ("checks", pa.list_(_CHECK)),
        ("reason", pa.string()),
        ("rung", pa.string()),
        ("adapter", pa.string()),
        ("margin", pa.float64()),
        ("text_guidance", pa.float64()),
    ]
)

SCHEMAS: dict[type, pa.Schema] = {
    Triplet: pa.schema(
        [
            ("image_id", pa.string()),
            ("privacy_flag", pa.string()),
            ("state", pa.string()),
            ("public_caption", pa.string()),
            ("edit_instruction", pa.string()),
            ("combined_caption", pa.string()),
            ("reason", pa.string()),
            ("provenance", _PROVENANCE),
        ]
    ),
    Region: pa.schema(_REGION_FIELDS),
    PrivateRecord: pa.schema(
        [
            ("image_id", pa.string()),
            ("private_caption", pa.string()),
            ("findings", pa.list_(_FINDING)),
        ]
    ),
    Outcome: pa.schema(
        [
            ("image_id", pa.string()),
            ("state", pa.string()),
            ("reason", pa.string()),
            ("published_as", pa.string()),
            ("editor", pa.string()),
            ("adapter", pa.string()),
            ("attempts", pa.list_(_ATTEMPT)),
            ("input_hmac", pa.string()),
            ("output_sha256", pa.string()),
            ("provenance", _PROVENANCE),
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("notes", pa.list_(pa.string())),
        ]
    ),
    Pair: pa.schema(
        [
            ("image_id", pa.string()),
            ("source", pa.string()),
            ("target", pa.string()),
            ("public_caption", pa.string()),
            ("edit_instruction", pa.string()),
            ("regions", pa.list_(pa.struct(_REGION_FIELDS))),
            ("scores", pa.list_(_CHECK)),
            ("combined_caption", pa.string()),
            ("mask", pa.string()),
        ]
    ),
}

# Columns that parts written by an earlier version lack; the record's default stands for them.
_LATER: Mapping[type, frozenset[str]] = {
    Pair: frozenset({"combined_caption", "mask"}),
    Outcome: frozenset({"width", "height", "notes"}),
}

Record = TypeVar("Record", Triplet, Region, PrivateRecord, Outcome, Pair)


@cache
def _adapters() -> dict[type, TypeAdapter[Any]]:
    return {record_type: TypeAdapter(list[record_type]) for record_type in SCHEMAS}  # type: ignore[valid-type]


def write_records(
    path: Path,
    record_type: type[Record],
    rows: Sequence[Record],
    mode: int | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write ``rows`` atomically; equal rows give equal bytes. ``notes`` go into the file's own
    metadata, where :func:`read_table` gives them back as ``table.schema.metadata``."""
    schema = SCHEMAS[record_type].with_metadata(dict(notes) if notes else None)
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    with atomic_path(path, mode) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            write_statistics=False,
            write_page_checksum=True,
        )


def read_table(path: Path, record_type: type[Record]) -> pa.Table:
    """Read a part as it is stored, each page checked against its checksum.

    Raises:
        UsageError: names the file when it is damaged or holds something else.
    """
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, record_type, error) from None
    missing = set(SCHEMAS[record_type].names) - set(table.column_names)
    missing -= _LATER.get(record_type, frozenset())
    if missing:
        raise _unreadable(path, record_type, f"it has no column {min(missing)}")
    return table


def count_rows(path: Path, record_type: type) -> int:
    """How many rows a part has, from its footer alone: quick, and told if the file is cut short.

    Raises:
        UsageError: names the file when it is missing or damaged.
    """
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, record_type, error) from None


def _unreadable(path: Path, record_type: type, why: Exception | str) -> UsageError:
    told = type(why).__name__ if isinstance(why, OSError) else str(why).splitlines()[0]
    return UsageError(
        f"{path} is missing or damaged: no readable table of {record_type.__name__} records "
        f"({told}); delete it and run the command that wrote it again, which redoes this part"
    )


def read_records(path: Path, record_type: type[Record]) -> list[Record]:
    """Read a part back.

    Raises:
        UsageError: names the file when it is damaged or holds something else.
    """
    rows = read_table(path, record_type).to_pylist()
    try:
        return parse_rows(rows, record_type)
    except ValidationError as error:
        raise _unreadable(path, record_type, error) from None


def parse_rows(rows: Sequence[Mapping[str, Any]], record_type: type[Record]) -> list[Record]:
    """Records of plain rows; columns that the record does not have are left out.

    Raises:
        ValidationError: a row is no such record.
    """
    records: list[Record] = _adapters()[record_type].validate_python(rows)
    return records


def read_parts(folder: Path, record_type: type[Record]) -> Iterator[Record]:
    """All records of ``folder/part-*.parquet`` in the order of the parts."""
    for part in sorted(folder.glob("part-*.parquet")):
        yield from read_records(part, record_type)

"""``manifest.parquet``: every outcome with its place in the hash chain, a row group per unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from unsafe2safe.anonymize.chain import UnitHead, first_link, next_link
from unsafe2safe.core.files import atomic_path
from unsafe2safe.core.records import Outcome, WorkUnit
from unsafe2safe.core.tables import SCHEMAS, parse_rows

MANIFEST = "manifest.parquet"
_ROWS_AT_ONCE = 256
_CHAIN_COLUMNS = {"unit": pa.int64(), "row_hash": pa.string()}
_SCHEMA = pa.schema([*SCHEMAS[Outcome], *_CHAIN_COLUMNS.items()])


@dataclass(frozen=True)
class ManifestRow:
    """An outcome as the manifest has it; ``row_hash`` is its link of the chain."""

    outcome: Outcome
    unit: int
    row_hash: str


class ManifestWriter:
    """Writes units one after the other, so that memory holds one of them."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer

    def add(self, unit: WorkUnit, outcomes: Sequence[Outcome]) -> UnitHead:
        """Append the unit's rows; gives the head of its chain."""
        rows, link = [], first_link(unit.name)
        for outcome in outcomes:
            link = next_link(link, outcome)
            rows.append({**asdict(outcome), "unit": unit.index, "row_hash": link})
        self._writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
        return UnitHead(unit.name, len(rows), link)


@contextmanager
def writing(path: Path) -> Iterator[ManifestWriter]:
    """A manifest that is there, whole, once the block ends well; equal rows give equal bytes."""
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary,
            _SCHEMA,
            compression="zstd",
            write_statistics=False,
            write_page_checksum=True,
        ) as writer,
    ):
        yield ManifestWriter(writer)


def read_rows(path: Path) -> Iterator[ManifestRow]:
    """The rows of a manifest in its order, some at a time.

    Raises:
        ValueError: it is damaged, or no manifest; says how.
    """
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        missing = set(_SCHEMA.names) - set(file.schema_arrow.names)
        if missing:
            raise ValueError(f"has no column {min(missing)}")
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            rows = batch.to_pylist()
            for row, outcome in zip(rows, parse_rows(rows, Outcome), strict=True):
                yield ManifestRow(outcome, int(row["unit"]), str(row["row_hash"]))
    except ValidationError as error:
        raise ValueError(f"holds a row that is no outcome ({error.error_count()} faults)") from None
    except (pa.ArrowException, OSError, TypeError) as error:
        raise ValueError(f"is damaged ({type(error).__name__})") from None

"""Any set that the ``datasets`` library reads: from its hub, or from this disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from unsafe2safe.core.config.components import component, nearest
from unsafe2safe.core.errors import UnreadableImage, UsageError, describe_fault
from unsafe2safe.core.files import make_private
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.decode import read_file
from unsafe2safe.data.encode import READ_SUFFIXES
from unsafe2safe.data.layout import HEAD_BYTES, inner_path, suffix_of
from unsafe2safe.data.source import ImageSource

_DIGITS = 8
_BATCH = 256
_TABLES = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".jsonl": "json"}


@component
class HubSource(ImageSource):
    """One split of a set; its pictures are decoded by us, never by the library.

    ``image_id`` is what stands in ``id_column``, else the row's number in eight digits; a suffix
    that fits the picture's first bytes is added where it is missing. Sets that need code of their
    own to be read are refused by the library.
    """

    name: str = "hub"
    path: str = Field(
        min_length=1,
        description="Id on the hub, or a folder (as `save_to_disk` writes it, or of files), or a "
        "Parquet or Arrow file.",
    )
    subset: str | None = Field(
        default=None, description="Configuration of the set, where it has several."
    )
    revision: str | None = Field(default=None, description="Commit or tag on the hub; null: main.")
    split: str = Field(default="train", description="Split of the set.")
    image_column: str = Field(default="image", description="Column of the pictures.")
    id_column: str | None = Field(
        default=None, description="Column of ids that become image ids; null: row numbers."
    )
    label_column: str | None = Field(default=None, description="Column of class labels.")
    caption_column: str | None = Field(
        default=None, description="Column of captions: a string, or a list of them."
    )
    cache: Path | None = Field(
        default=None,
        description="Where the library keeps its copy of the set, which holds the originals.",
    )

    def found(self) -> Iterator[ImageRecord]:
        """A record per row.

        Raises:
            UsageError: the set cannot be loaded, has no such column, split or no rows, or an id
                that is no path.
        """
        for image_id, row in self._rows.items():
            label, captions = self._told.get(row, (None, ()))
            yield ImageRecord(
                image_id, Path(self.path) / image_id, label=label, captions=tuple(captions)
            )

    def read(self, record: ImageRecord) -> bytes:
        """The picture of a row, as its set holds it.

        Raises:
            UnreadableImage: the row holds none, or the name of a file outside the set.
        """
        try:
            cell = self._table[self._rows[record.image_id]][self.image_column]
        except Exception as error:  # a damaged table
            fault = describe_fault(error)
            raise UnreadableImage(record.image_id, f"row cannot be read: {fault}") from None
        if not cell or (cell.get("bytes") is None and not cell.get("path")):
            raise UnreadableImage(record.image_id, "the row holds no image")
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        path = Path(cell["path"])
        if not any(_within(path, root) for root in self._roots()):
            raise UnreadableImage(record.image_id, "the row names a file outside its data set")
        return read_file(path, record.image_id)

    def _roots(self) -> list[Path]:
        from huggingface_hub.constants import HF_HUB_CACHE

        local = Path(self.path).expanduser()
        roots = [local if local.is_dir() else local.parent] if local.exists() else []
        return [*roots, *([self.cache] if self.cache else []), Path(HF_HUB_CACHE)]

    def column_names(self) -> tuple[str, ...]:
        """The columns of the set.

        Raises:
            UsageError: it cannot be loaded.
        """
        return tuple(self._whole.column_names)

    def column(self, name: str) -> list[Any]:
        """The values of a column, row by row."""
        return list(self._whole[name][:])

    @cached_property
    def _whole(self) -> Any:
        return self._loaded()

    @cached_property
    def _table(self) -> Any:
        """The split as a ``datasets.Dataset`` whose pictures stay encoded."""
        table = self._whole
        for column in (self.image_column, self.id_column, self.label_column, self.caption_column):
            if column is not None and column not in table.column_names:
                raise UsageError(
                    f"{self.path} has no column {column!r}{nearest(column, table.column_names)}"
                )
        from datasets import Image

        try:
            return table.cast_column(self.image_column, Image(decode=False))
        except Exception as error:
            raise UsageError(
                f"column {self.image_column!r} of {self.path} holds no images "
                f"({type(error).__name__})"
            ) from None

    def _loaded(self) -> Any:
        import datasets

        local = Path(self.path).expanduser()
        if not local.exists() and (local.is_absolute() or self.path.startswith((".", "~"))):
            raise UsageError(f"dataset.path={self.path} does not exist")
        try:
            if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
                loaded = datasets.load_from_disk(str(local))
                return self._of_split(loaded) if isinstance(loaded, dict) else loaded
            cache = str(make_private(self.cache)) if self.cache else None
            if local.is_file():
                kind = _TABLES.get(local.suffix.lower())
                if kind is None:
                    raise UsageError(f"dataset.path={self.path}: known are {', '.join(_TABLES)}")
                return datasets.load_dataset(
                    kind, data_files=str(local), split="train", cache_dir=cache
                )
            where = str(local) if local.exists() else self.path
            return self._of_split(
                datasets.load_dataset(
                    where, name=self.subset, revision=self.revision, cache_dir=cache
                )
            )
        except UsageError:
            raise
        except Exception as error:  # the library and its readers raise all sorts of things
            raise UsageError(
                f"dataset.path={self.path} cannot be loaded by `datasets` "
                f"({describe_fault(error)}): is it the id of a set on the Hugging Face hub, "
                "or a local one, and is the network there?"
            ) from None

    def _of_split(self, splits: Any) -> Any:
        if self.split not in splits:
            raise UsageError(
                f"dataset.split={self.split} is not in {self.path}"
                f"{nearest(self.split, list(splits))}"
            )
        return splits[self.split]

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Row by ``image_id``."""
        rows: dict[str, int] = {}
        given = self._table[self.id_column][:] if self.id_column else None
        for row, suffix in enumerate(self._suffixes()):
            image_id = self._id(f"{row:0{_DIGITS}d}" if given is None else given[row], row, suffix)
            if image_id in rows:
                raise UsageError(
                    f"dataset.id_column={self.id_column}: rows {rows[image_id]} and {row} of "
                    f"{self.path} are both {image_id!r}"
                )
            rows[image_id] = row
        if not rows:
            raise UsageError(f"dataset.split={self.split} of {self.path} has no rows")
        return rows

    def _id(self, value: Any, row: int, suffix: str) -> str:
        path = None if value is None else inner_path(str(value))
        if path is None:
            raise UsageError(
                f"dataset.id_column={self.id_column}: row {row} of {self.path} holds {value!r}, "
                "which cannot be an image id"
            )
        known = path.suffix.lower() in READ_SUFFIXES
        return path.as_posix() if known else f"{path.as_posix()}{suffix}"

    def _suffixes(self) -> Iterator[str]:
        """The suffix of each row's picture, from its first bytes; whole pictures are not read."""
        import pyarrow.compute as pc

        column = self._table.select_columns([self.image_column]).with_format("arrow")
        for batch in column.iter(batch_size=_BATCH):
            for chunk in batch[self.image_column].chunks:
                heads = pc.binary_slice(pc.struct_field(chunk, "bytes"), 0, HEAD_BYTES)
                paths = pc.struct_field(chunk, "path")
                for head, path in zip(heads.to_pylist(), paths.to_pylist(), strict=True):
                    named = Path(path or "").suffix.lower()
                    yield suffix_of(head) if head is not None else named or ".bin"

    @cached_property
    def _told(self) -> dict[int, tuple[str | None, list[str]]]:
        """Label and captions by row, where columns of them are configured."""
        if self.label_column is None and self.caption_column is None:
            return {}
        none = [None] * len(self._table)
        labels = self._table[self.label_column][:] if self.label_column else none
        captions = self._table[self.caption_column][:] if self.caption_column else none
        names = getattr(self._table.features.get(self.label_column), "int2str", str)
        return {
            row: (None if label is None else str(names(label)), _captions(caption))
            for row, (label, caption) in enumerate(zip(labels, captions, strict=True))
        }

    def __getstate__(self) -> dict[str, Any]:
        """Without the opened table: another process opens its own."""
        return {
            key: value for key, value in self.__dict__.items() if key not in ("_table", "_whole")
        }


def _captions(cell: Any) -> list[str]:
    texts = cell if isinstance(cell, list | tuple) else [cell]
    return [text.strip() for text in texts if isinstance(text, str) and text.strip()]


def _within(path: Path, root: Path) -> bool:
    try:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    except (OSError, ValueError):
        return False

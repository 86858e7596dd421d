"""Pairs of a user's own, in any folder that the ``datasets`` library reads.

Only such folders are read by that library; pairs of anonymize.py never are.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Box, Category, ImageRecord, Pair, Region
from unsafe2safe.data.hub import HubSource
from unsafe2safe.editors.base import Mask, Pixels
from unsafe2safe.editors.base_weights import sampled_digest
from unsafe2safe.training.buckets import bucket_sizes
from unsafe2safe.training.pairs import PairDataset
from unsafe2safe.training.views import Views

# What a column is called here, and in the data sets of the field.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "source": ("source", "original_image", "input_image", "source_img", "original"),
    "target": ("target", "edited_image", "output_image", "target_img", "edited"),
    "edit_instruction": ("edit_instruction", "instruction", "edit_prompt"),
    "public_caption": ("public_caption", "caption", "edited_prompt"),
    "combined_caption": ("combined_caption",),
    "image_id": ("image_id", "id"),
    "regions": ("regions",),
    "mask": ("mask", "mask_img"),
}
_MARKS = ("state.json", "dataset_dict.json", "dataset_info.json")
_TABLES = (".parquet", ".arrow", ".jsonl", ".csv", ".tar")
_BOXES: TypeAdapter[list[Any]] = TypeAdapter(list[tuple[float, float, float, float]])


def is_pair_folder(path: Path | None) -> bool:
    """Whether ``path`` is a folder of the ``datasets`` library, and none of a run of ours."""
    if path is None or not path.is_dir() or (path / "run.json").is_file():
        return False
    names = {file.name for file in path.iterdir()}
    inner = [file for folder in (path, path / "data") for file in folder.glob("*")]
    return not names.isdisjoint(_MARKS) or any(file.suffix in _TABLES for file in inner)


def folder_digest(path: Path) -> str:
    """A hash of what the folder's files are called and hold; of large ones, of samples."""
    return sampled_digest(path, (file for file in path.rglob("*") if file.is_file()))


class FolderPairs(PairDataset):
    """Rows of such a folder: ``source``, ``target`` and ``edit_instruction``; beside them, where
    there are such columns, ``public_caption``, ``combined_caption``, ``image_id``, and a ``mask``
    picture or ``regions`` (a list of ``box``es: left, top, width, height)."""

    def __init__(
        self,
        folder: Path,
        library_cache: Path,
        resolution: int,
        margin: float = 0.0,
        views: Views | None = None,
        side_step: int | None = None,
    ) -> None:
        """``library_cache`` is where the library keeps its copy of what it has to convert.

        Raises:
            UsageError: it cannot be loaded, has no rows, or lacks a column.
        """
        plain = HubSource(path=str(folder), cache=library_cache)
        self._columns = {
            name: next((n for n in names if n in plain.column_names()), None)
            for name, names in _COLUMNS.items()
        }
        for name in ("source", "target", "edit_instruction"):
            if self._columns[name] is None:
                raise UsageError(
                    f"pairs={folder} has no column {name!r} (or {', '.join(_COLUMNS[name][1:])}); "
                    f"it has {', '.join(plain.column_names())}"
                )
        self._of = {
            name: HubSource(path=str(folder), image_column=column, cache=library_cache)
            for name in ("source", "target", "mask")
            if (column := self._columns[name]) is not None
        }
        self._records = {name: list(source.found()) for name, source in self._of.items()}
        pairs = self._pairs_of(folder, plain)
        self._row = {pair.image_id: int(pair.source) for pair in pairs}
        super().__init__(
            sorted(pairs, key=lambda pair: pair.image_id),
            folder,
            self._of["source"],
            resolution,
            margin,
            views,
            bucket_sizes(resolution, side_step) if side_step else None,
        )

    @property
    def has_masks(self) -> bool:
        return self._columns["mask"] is not None or self._columns["regions"] is not None

    def _pairs_of(self, folder: Path, table: HubSource) -> list[Pair]:
        """A pair for each row, whose ``source`` is the row's number."""

        def texts(name: str) -> list[Any]:
            column = self._columns[name]
            return table.column(column) if column is not None else []

        rows = zip_longest(
            range(len(self._records["source"])),
            *(
                texts(name)
                for name in (
                    "image_id",
                    "edit_instruction",
                    "public_caption",
                    "combined_caption",
                    "regions",
                )
            ),
        )
        pairs = []
        for row, image_id, instruction, caption, combined, regions in rows:
            name = f"{row:08d}" if image_id is None else str(image_id)
            boxes = _regions(folder, row, name, regions or [])
            pairs.append(
                Pair(
                    name,
                    str(row),
                    str(row),
                    str(caption or ""),
                    str(instruction or ""),
                    boxes,
                    combined_caption=str(combined) if combined else None,
                )
            )
        if len({pair.image_id for pair in pairs}) < len(pairs):
            raise UsageError(f"pairs={folder}: two rows have the same image_id")
        return pairs

    def _pictures(self, pair: Pair) -> tuple[Pixels, Pixels]:
        return self._decoded("source", pair), self._decoded("target", pair)

    def drawn_mask(self, pair: Pair) -> Mask | None:
        if "mask" not in self._of:
            return None
        picture = self._decoded("mask", pair)
        mask: Mask = (picture.max(axis=2) > 127).astype("float32")
        return mask

    def _decoded(self, name: str, pair: Pair) -> Pixels:
        return self._of[name].decode(self._record(name, pair)).pixels

    def _record(self, name: str, pair: Pair) -> ImageRecord:
        return self._records[name][self._row[pair.image_id]]

    def _file_facts(self, pair: Pair) -> Any:  # noqa: ARG002
        """None: pictures are no files of their own."""
        return None


def _regions(folder: Path, row: int, image_id: str, given: Any) -> tuple[Region, ...]:
    try:
        boxes = _BOXES.validate_python([entry["box"] for entry in given])
        categories = [Category(entry.get("category") or "other") for entry in given]
    except (ValidationError, ValueError, TypeError, KeyError):
        raise UsageError(
            f"pairs={folder}: regions of row {row} are no list of boxes (left, top, width, height)"
        ) from None
    return tuple(
        Region(image_id, Box(*box), category, 1.0, "given")
        for box, category in zip(boxes, categories, strict=True)
    )

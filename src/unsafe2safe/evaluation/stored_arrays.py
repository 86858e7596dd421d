"""What metrics of the whole set need of each pair: kept in one file a unit, read piece by piece.

A figure of five thousand images is drawn from features that are read when they are asked for, so
that memory does not grow with the set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

Opened = Callable[[Path], Any]


def open_tensors(path: Path) -> Any:
    """The file's tensors, memory-mapped.

    Raises:
        FileNotFoundError: no such file.
        SafetensorError: it is damaged.
    """
    return safe_open(path, framework="numpy")


def stored_name(index: int, row: str, name: str) -> str:
    """What the array ``name`` of a unit's image ``index`` is called in the file; what depends on
    the original alone is there once for all rows."""
    place = str(index) if name.startswith("original.") else f"{index} {row}"
    return f"{place}|{name}"


class StoredArrays(Mapping[str, NDArray[Any]]):
    """The arrays of one pair, each read from its unit's file whenever it is asked for."""

    __slots__ = ("_index", "_opened", "_path", "_row")

    def __init__(self, path: Path, index: int, row: str, opened: Opened) -> None:
        self._path, self._index, self._row, self._opened = path, index, row, opened

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            found: NDArray[Any] = self._opened(self._path).get_tensor(
                stored_name(self._index, self._row, name)
            )
        except SafetensorError as error:
            raise KeyError(name) from error
        return found

    def __iter__(self) -> Iterator[str]:
        keys = self._opened(self._path).keys()
        for key in keys:
            name = key.partition("|")[2]
            if key == stored_name(self._index, self._row, name):
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

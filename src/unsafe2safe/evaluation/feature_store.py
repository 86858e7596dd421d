"""What was seen in images, kept on disk for the next run: faces, texts, embeddings.

Kept by content: whoever measures other edits of the same originals, or the same reference rows,
looks at none of these twice. What is kept is private (embeddings of faces are biometric data), so
that the file lies under ``paths.private``, and contents are told by keyed hashes.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as tensors

from unsafe2safe.core.files import KeyedHash, make_private
from unsafe2safe.vision.arrays import RgbImage

log = logging.getLogger("unsafe2safe")

FOLDER = "features"  # under paths.private
_WAIT = 60.0  # seconds for another process that writes
_TABLE = (
    "CREATE TABLE IF NOT EXISTS features "
    "(content TEXT, what TEXT, arrays BLOB, PRIMARY KEY (content, what)) WITHOUT ROWID"
)


def store_file(private_root: Path, dataset_key: str) -> Path:
    """Where the features of a data set are kept."""
    return private_root / FOLDER / f"{dataset_key}.sqlite"


class FeatureStore:
    """Arrays by the content of an image and by what they are; safe for several processes.

    A store that is damaged is begun anew: everything in it can be computed again.
    """

    def __init__(self, private_root: Path, dataset_key: str) -> None:
        make_private(private_root)
        make_private(private_root / FOLDER)
        self.path = store_file(private_root, dataset_key)
        self._keyed = KeyedHash(private_root)
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, or no room: not damaged
                raise
            log.warning("%s is damaged and begun anew", self.path)
            delete(self.path)
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        self.path.touch(mode=0o600)
        connection = sqlite3.connect(self.path, timeout=_WAIT)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")  # a lost write is computed again
            with connection:
                connection.execute(_TABLE)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def content(self, pixels: RgbImage) -> str:
        """What tells images (H, W, 3) uint8 apart, without telling what they show."""
        return self._keyed.digest(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).data)

    def get(self, content: str, what: str) -> dict[str, NDArray[Any]] | None:
        """The arrays that were put there; None: none were, or they are damaged."""
        query = "SELECT arrays FROM features WHERE content = ? AND what = ?"
        row = self._connection.execute(query, (content, what)).fetchone()
        if row is None:
            return None
        try:
            found: dict[str, NDArray[Any]] = tensors.load(row[0])
        except SafetensorError:
            return None
        return found

    def put(self, content: str, what: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        packed = tensors.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        with self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO features VALUES (?, ?, ?)", (content, what, packed)
            )


def delete(path: Path) -> int:
    """Delete a store with the files that SQLite keeps beside it; how many there were."""
    files = [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")]
    there = [file for file in files if file.exists()]
    for file in there:
        file.unlink()
    return len(there)

"""Rows on disk: safetensors files, memory-mapped, named by what they hold.

A file is ``BUCKET-DIGEST.safetensors`` with the digest of its own bytes, so that damage shows. Its
header is the index: tensors are called ``KEY/FIELD``. Files are written whole and never changed, so
any number of processes may add some while others read.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, zeros

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import make_private, write_bytes
from unsafe2safe.training.cache.rows import Row

log = logging.getLogger("unsafe2safe")

_SUFFIX = ".safetensors"
_NOT_FINITE = "not_finite"
_NOTHING = "-"  # the field of a row without tensors
_DIGEST_BYTES = 16


class RowStore:
    """The rows of one folder. ``not_finite``: keys whose content the encoders cannot encode."""

    def __init__(self, folder: Path) -> None:
        self.folder = make_private(folder)
        self._handles: dict[str, Any] = {}  # open files by name
        self._where: dict[str, tuple[str, list[str]]] = {}  # file and fields by key
        self.not_finite: set[str] = set()

    def files(self) -> list[Path]:
        """All files of rows, in a fixed order."""
        return sorted(self.folder.glob(f"*{_SUFFIX}"))

    def drop_damaged(self, share: int = 0, shares: int = 1) -> list[str]:
        """Delete those of every ``shares``-th file whose bytes are not what was written; their
        names."""
        dropped = []
        for path in self.files()[share::shares]:
            if _digest(path) != path.stem.rpartition("-")[2]:
                log.warning("cache file %s is damaged; what it held is encoded again", path)
                path.unlink(missing_ok=True)
                dropped.append(path.name)
        return dropped

    def refresh(self) -> None:
        """Take in files that are new since the last time."""
        for path in self.files():
            if path.name in self._handles:
                continue
            try:
                handle: Any = safe_open(path, framework="pt")
            except FileNotFoundError:
                continue  # another process found it damaged
            except SafetensorError as error:
                raise UsageError(f"{path} is damaged ({error}); delete it") from None
            self._handles[path.name] = handle
            for name in handle.keys():  # noqa: SIM118 - no dictionary
                key, _, field = name.partition("/")
                file, known = self._where.setdefault(key, (path.name, []))
                if file == path.name and field != _NOTHING:  # else two have encoded the same
                    known.append(field)
            self.not_finite.update(json.loads((handle.metadata() or {}).get(_NOT_FINITE, "[]")))

    def __contains__(self, key: object) -> bool:
        return key in self._where or key in self.not_finite

    def read(self, key: str) -> Row:
        """The tensors of a row by field, copied from the mapped file.

        Raises:
            KeyError: there is no such row.
        """
        file, known = self._where[key]
        handle = self._handles[file]
        return {field: handle.get_tensor(f"{key}/{field}") for field in known}

    def write(self, bucket: str, rows: Mapping[str, Row], not_finite: Sequence[str]) -> None:
        """Add a file of rows, whole or not at all."""
        tensors: dict[str, Tensor] = {
            f"{key}/{field}": tensor.contiguous()
            for key, row in rows.items()
            for field, tensor in (row or {_NOTHING: zeros(0)}).items()
        }
        notes = {_NOT_FINITE: json.dumps(sorted(not_finite))} if not_finite else None
        content = save(tensors, metadata=notes)
        digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()
        write_bytes(self.folder / f"{bucket}-{digest}{_SUFFIX}", content, mode=0o600)

    @contextmanager
    def bucket(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Inside the block no other process writes rows of that bucket; without ``wait`` it gives
        False where one does at present. A process that ends, however it ends, lets go."""
        lock = FileLock(self.folder / f".lock-{name}")
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        try:
            for left in self.folder.glob(f".{name}-*.tmp"):  # by a process that was killed
                with suppress(FileNotFoundError):
                    left.unlink()
            yield True
        finally:
            lock.release()


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(
                file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)
            ).hexdigest()
    except FileNotFoundError:  # another process found it damaged
        return path.stem.rpartition("-")[2]

"""Files that are whole or absent, paths that cannot leave their root, keyed hashes."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from unsafe2safe.core.errors import StorageError, UsageError

_KEY_FILE = "hmac.key"


@contextmanager
def atomic_path(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary sibling that becomes ``path`` when the block ends well.

    The content is flushed to disk before the rename and the rename before the return, so that a
    reader sees the old file, the new file, or none, never half of one.

    Raises:
        StorageError: the disk is full or refuses the file; nothing of it is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else type(error).__name__
        raise StorageError(
            f"cannot write {path}: {reason}; what was written before is whole, and the same "
            "command goes on from there"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, content: bytes, mode: int | None = None) -> None:
    with atomic_path(path, mode) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str, mode: int | None = None) -> None:
    write_bytes(path, content.encode("utf-8"), mode)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def remove_temporaries(root: Path) -> None:
    """Delete what a killed process left behind in ``root`` (temporary names only)."""
    for path in root.rglob(".*.tmp"):
        with suppress(FileNotFoundError):
            path.unlink()


def inside(root: Path, relative: str) -> Path:
    """``root / relative``, refused when it would leave ``root``.

    Raises:
        UsageError: for absolute paths and for paths with ``..`` or that resolve outside.
    """
    parts = PurePosixPath(relative)
    candidate = root / parts
    if parts.is_absolute() or ".." in parts.parts:
        raise UsageError(f"path {relative!r} leaves its root")
    if not candidate.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"path {relative!r} leaves its root through a link")
    return candidate


def make_private(path: Path) -> Path:
    """Create a directory that only its owner can enter (mode 0700)."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror}") from None
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class KeyedHash:
    """HMAC-SHA256 with a key kept under ``paths.private``.

    A plain hash of an original would tell anyone who holds the original that it was in the set.
    """

    def __init__(self, private_root: Path) -> None:
        path = make_private(private_root) / _KEY_FILE
        if not path.exists():
            self._create(path)
        self._key = path.read_bytes()

    @staticmethod
    def exists(private_root: Path) -> bool:
        """Whether there is a key already; making an object makes one."""
        return (private_root / _KEY_FILE).is_file()

    @staticmethod
    def _create(path: Path) -> None:
        """Make the key once, whichever of several processes comes first: linking never replaces."""
        drawn = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        write_bytes(drawn, secrets.token_bytes(32), mode=0o600)
        with suppress(FileExistsError):
            path.hardlink_to(drawn)
        drawn.unlink()

    def digest(self, content: bytes) -> str:
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()

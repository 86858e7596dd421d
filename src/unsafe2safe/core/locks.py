"""Who may write a run folder: one process alone, or one process for each shard.

A lock is an open file that the operating system lets go of when its process ends, however it ends.
``.lock`` is held by a process that works alone, ``.lock-I-of-N`` by the process of one shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.units import Shard

PREFIX = ".lock"
_ALONE = PREFIX
_OPENING = f"{PREFIX}-opening"
_PATIENCE_SECONDS = 60.0  # others hold the opening lock for moments


@contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Hold off all other processes that want to open ``folder`` or write its run.json.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _OPENING)
        lock.acquire(timeout=_PATIENCE_SECONDS)
    except Timeout:
        raise UsageError(f"{folder} is being opened by another process") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"cannot write to output_dir={folder}: {reason}") from None
    try:
        yield
    finally:
        lock.release()


def lock_folder(folder: Path, shard: Shard | None) -> FileLock:
    """Take the folder, or the shard's share of it; to be called while :func:`opening` it.

    Raises:
        UsageError: another process works on the same units, or shards of another count do.
    """
    own = _ALONE if shard is None else f"{PREFIX}-{shard.index}-of-{shard.count}"
    try:
        lock = FileLock(folder / own)
        lock.acquire(timeout=0)
    except Timeout:
        part = "" if shard is None else f" (shard {shard})"
        raise UsageError(f"{folder} is being written by another process{part}") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"cannot write to output_dir={folder}: {reason}") from None
    siblings = "" if shard is None else f"-of-{shard.count}"
    for path in sorted(folder.glob(f"{PREFIX}*")):
        allowed = path.name in (own, _OPENING) or (siblings and path.name.endswith(siblings))
        if not allowed and _is_held(path):
            lock.release()
            who = path.name.removeprefix(f"{PREFIX}-").replace("-of-", "/")
            told = "that works on it alone" if path.name == _ALONE else f"(shard {who})"
            raise UsageError(f"{folder} is being written by another process {told}")
    return lock


def _is_held(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return True  # doubt means held
    lock.release()
    return False

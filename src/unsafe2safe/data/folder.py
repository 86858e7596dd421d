"""Any tree of pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.encode import READ_SUFFIXES
from unsafe2safe.data.source import ImageSource


@component
class FolderSource(ImageSource):
    """All pictures under ``root``, sub-folders included; names that begin with a dot are skipped.

    Links to files are followed inside the root only, links to folders never.
    """

    name: str = "folder"
    root: Path = Field()  # required, unlike the base's

    def found(self) -> Iterator[ImageRecord]:
        """A record per file that is named like a picture.

        Raises:
            UsageError: there is none.
        """
        root = self.root_path
        empty = True
        for record in walk(root):
            empty = False
            yield record
        if empty:
            raise UsageError(f"no images under {root}; looked for {', '.join(READ_SUFFIXES)}")


def walk(root: Path) -> Iterator[ImageRecord]:
    """Records of the files under ``root`` that are named like pictures.

    Folders that cannot be listed and links to folders outside ``root`` yield a record of their
    own, whose decoding fails: what may hold pictures is never left out in silence.
    """
    locked: list[Path] = []

    def remember(error: OSError) -> None:
        locked.append(Path(error.filename))

    resolved = root.resolve()
    for folder, folders, files in os.walk(root, onerror=remember):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(resolved):
                yield _record(root, path)
        for name in files:
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in READ_SUFFIXES:
                yield _record(root, path)
    for path in locked:
        yield _record(root, path)


def _record(root: Path, path: Path) -> ImageRecord:
    return ImageRecord(image_id=printable_id(path.relative_to(root).as_posix()), path=path)


def printable_id(relative: str) -> str:
    r"""``relative`` with bytes that are no UTF-8 spelled out (``\xff``), fit to store."""
    return relative.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

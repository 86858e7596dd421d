"""Finding one's way in official layouts: what is there, what is missing, how ids are formed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.folder import printable_id, walk
from unsafe2safe.data.source import existing_folder

_SIGNATURES = (
    (0, b"\xff\xd8\xff", ".jpg"),
    (0, b"\x89PNG\r\n\x1a\n", ".png"),
    (0, b"GIF8", ".gif"),
    (8, b"WEBP", ".webp"),
    (0, b"II*\0", ".tif"),
    (0, b"MM\0*", ".tif"),
    (0, b"BM", ".bmp"),
    (4, b"ftypavif", ".avif"),
    (4, b"ftyp", ".heic"),
)
HEAD_BYTES = 16  # all that suffix_of looks at


def suffix_of(head: bytes) -> str:
    """The suffix that fits a picture's first bytes; ``.bin`` where they are those of none."""
    for start, signature, suffix in _SIGNATURES:
        if head[start : start + len(signature)] == signature:
            return suffix
    return ".bin"


def rooted(root: Path, whence: str) -> Path:
    """``root`` as an existing folder.

    Raises:
        UsageError: it is none; says where the data set is to be had.
    """
    try:
        return existing_folder(root)
    except UsageError as error:
        raise UsageError(f"{error}; {whence}") from None


def first_of(root: Path, candidates: Sequence[str], what: str, whence: str) -> Path:
    """The first of several places under ``root`` that exists.

    Raises:
        UsageError: names all places, what should be there, and where it is to be had.
    """
    for name in candidates:
        if (root / name).exists():
            return root / name
    places = " or ".join(candidates)
    raise UsageError(f"dataset.root={root} has no {places} ({what}); {whence}")


def inner_path(name: str) -> PurePosixPath | None:
    """``name`` as a relative path that stays where it is put, or None where it does not."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        return None
    return path


def classes(root: Path, images: Path) -> Iterator[ImageRecord]:
    """A record per picture under ``images``, labelled with the folder it lies in."""
    prefix = images.relative_to(root).as_posix()
    for record in walk(images):
        parts = PurePosixPath(record.image_id).parts
        yield ImageRecord(
            image_id=f"{prefix}/{record.image_id}",
            path=record.path,
            label=parts[0] if len(parts) > 1 else None,
            layout_folder=f"{prefix}/{parts[0]}" if len(parts) > 1 else prefix,
        )


def id_of(root: Path, path: Path) -> str:
    """The ``image_id`` of a file under ``root``."""
    return printable_id(path.relative_to(root).as_posix())

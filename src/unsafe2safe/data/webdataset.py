"""WebDataset: pictures in tar shards, with labels and captions in files of the same stem."""

from __future__ import annotations

import itertools
import json
import logging
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UnreadableImage, UsageError
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.encode import READ_SUFFIXES
from unsafe2safe.data.folder import printable_id
from unsafe2safe.data.layout import id_of, inner_path
from unsafe2safe.data.source import ImageSource

_log = logging.getLogger(__name__)
_SIBLINGS = ("cls", "txt", "json")
_MAX_SIBLING = 1 << 20  # bytes; a caption or a label is far smaller
_MAX_SHARDS = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


@dataclass(frozen=True)
class _Member:
    """Where a picture's bytes lie in its shard; ``fault`` tells why there are none."""

    shard: Path
    offset: int
    size: int
    fault: str = ""


@component
class WebDatasetSource(ImageSource):
    """Pictures of uncompressed tar shards; ``image_id`` is ``<shard>/<member>``.

    Headers are read once, at the start; a picture is then read from its place. Files with a
    picture's stem give its label (``.cls``), caption (``.txt``), or both, licence and address
    (``.json``).
    """

    name: str = "webdataset"
    root: Path = Field(description="Folder that the shards' pattern starts from.")  # required
    shards: str = Field(
        default="*.tar",
        min_length=1,
        description="Shards under the root: a glob, or names in braces as in `{000..010}.tar`.",
    )

    def found(self) -> Iterator[ImageRecord]:
        """A record per picture in any shard.

        Raises:
            UsageError: names the shard that is missing, compressed, damaged or not to be trusted.
        """
        for record, _ in self._index.values():
            yield record

    def read(self, record: ImageRecord) -> bytes:
        """The picture's bytes in its shard.

        Raises:
            UnreadableImage: it is no plain member, or the shard has become shorter.
        """
        member = self._index[record.image_id][1]
        if member.fault:
            raise UnreadableImage(record.image_id, member.fault)
        try:
            with member.shard.open("rb") as shard:
                shard.seek(member.offset)
                content = shard.read(member.size)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UnreadableImage(record.image_id, f"shard cannot be read: {reason}") from None
        except MemoryError:
            raise UnreadableImage(record.image_id, "does not fit in memory") from None
        if len(content) != member.size:
            raise UnreadableImage(record.image_id, "its shard is shorter than it was")
        return content

    @cached_property
    def _index(self) -> dict[str, tuple[ImageRecord, _Member]]:
        root = self.root_path
        index: dict[str, tuple[ImageRecord, _Member]] = {}
        shards = self._shards(root)
        for shard in shards:
            for record, member in _pictures(shard, id_of(root, shard)):
                if record.image_id in index:
                    _log.warning("%s: %r appears twice; the first is used", shard, record.image_id)
                index.setdefault(record.image_id, (record, member))
        if not index:
            raise UsageError(
                f"no images in {len(shards)} shards of dataset.shards={self.shards} under {root}; "
                f"looked for {', '.join(READ_SUFFIXES)}"
            )
        return index

    def _shards(self, root: Path) -> list[Path]:
        shards: set[Path] = set()
        missing: list[str] = []
        for pattern in expand_braces(self.shards):
            if inner_path(pattern) is None:
                raise UsageError(f"dataset.shards={self.shards} leaves dataset.root")
            matches = {path for path in root.glob(pattern) if path.is_file()}
            shards |= matches
            if not matches:
                missing.append(pattern)
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UsageError(
                f"dataset.root={root} has no shard {missing[0]}{more} "
                f"(dataset.shards={self.shards})"
            )
        for shard in shards:
            if not self._inside(shard):
                raise UsageError(f"{shard} is a link that leaves dataset.root={root}")
        return sorted(shards)


def expand_braces(pattern: str) -> Iterator[str]:
    """``a{00..02}{x,y}`` to all its names; numbers keep the width they are written with.

    Raises:
        UsageError: braces that do not pair, or more names than anyone has shards.
    """
    pieces = _BRACES.split(pattern)
    if any("{" in piece or "}" in piece for piece in pieces[::2]):
        raise UsageError(f"dataset.shards={pattern} has braces that do not pair")
    choices: list[list[str]] = []
    count = 1
    for index, piece in enumerate(pieces):
        bounds = _RANGE.fullmatch(piece) if index % 2 else None
        if bounds:
            first, last = int(bounds[1]), int(bounds[2])
            count *= max(last - first + 1, 0)
            if count > _MAX_SHARDS or count == 0:
                raise UsageError(f"dataset.shards={pattern} stands for {count} names")
            width = len(bounds[1])
            choices.append([f"{number:0{width}d}" for number in range(first, last + 1)])
        else:
            choices.append(piece.split(",") if index % 2 else [piece])
    for names in itertools.product(*choices):
        yield "".join(names)


def _pictures(shard: Path, prefix: str) -> Iterator[tuple[ImageRecord, _Member]]:
    """Records and places of a shard's pictures."""
    pictures: list[tuple[str, ImageRecord, _Member]] = []
    told: dict[str, ImageRecord] = {}
    blank = ImageRecord("", shard)
    for info, name, file in _members(shard):
        stem, kind = _split(name)
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in READ_SUFFIXES and not info.isdir():
            plain = info.isreg() and not info.issparse()
            fault = "" if plain else "is no plain file inside its shard"
            record = ImageRecord(f"{prefix}/{printable_id(name)}", shard)
            pictures.append((stem, record, _Member(shard, info.offset_data, info.size, fault)))
        elif kind in _SIBLINGS and info.isreg() and info.size <= _MAX_SIBLING:
            position = file.tell()
            file.seek(info.offset_data)
            content = file.read(info.size)
            file.seek(position)
            told[stem] = _add(told.get(stem, blank), kind, content)
    for stem, record, member in pictures:
        facts = told.get(stem, blank)
        yield replace(facts, image_id=record.image_id), member


def _members(shard: Path) -> Iterator[tuple[tarfile.TarInfo, str, BinaryIO]]:
    """Members of an uncompressed tar with their checked names."""
    last = "its beginning"
    try:
        with shard.open("rb") as file:
            head = file.read(2)
            if head in _COMPRESSED:
                raise UsageError(
                    f"{shard} is compressed ({_COMPRESSED[head]}): pictures cannot be read from "
                    "their places in it; unpack it to a plain .tar"
                )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for info in archive:
                    archive.members = []  # type: ignore[attr-defined]  # else it keeps them all
                    path = inner_path(info.name)
                    if path is None and info.name in (".", "./"):
                        continue
                    if path is None:
                        raise UsageError(
                            f"{shard} holds {printable_id(info.name)!r}, which leaves its folder; "
                            "such an archive is not to be trusted"
                        )
                    last = printable_id(info.name)
                    yield info, path.as_posix(), file
                file.seek(archive.offset)
                if any(file.read(tarfile.BLOCKSIZE)):
                    raise UsageError(f"{shard} is damaged after {last}; get or make it again")
                if shard.stat().st_size <= archive.offset:
                    _log.warning("%s has no end mark: it may be cut off after %s", shard, last)
    except tarfile.TarError:
        raise UsageError(
            f"{shard} is no tar, or damaged after {last}; get or make it again"
        ) from None
    except OSError as error:
        raise UsageError(f"{shard} cannot be read: {error.strerror}") from None


def _split(name: str) -> tuple[str, str]:
    """Stem and kind as WebDataset has them: split at the first dot of the last part."""
    folder, _, last = name.rpartition("/")
    stem, _, kind = last.partition(".")
    return f"{folder}/{stem}", kind.lower()


def _add(known: ImageRecord, kind: str, content: bytes) -> ImageRecord:
    text = content.decode("utf-8", "replace").strip()
    if kind == "cls":
        return replace(known, label=text or None)
    if kind == "txt":
        return replace(known, captions=(*known.captions, text)) if text else known
    try:
        facts = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return known
    return _add_facts(known, facts) if isinstance(facts, dict) else known


def _add_facts(known: ImageRecord, facts: dict[str, Any]) -> ImageRecord:
    """The keys that makers of shards have in common; whatever else is there is left alone."""

    def text(*keys: str) -> str | None:
        values = (facts.get(key) for key in keys)
        return next((str(v).strip() for v in values if isinstance(v, str | int) and str(v)), None)

    given = facts.get("captions", facts.get("caption"))
    texts = given if isinstance(given, list) else [given]
    captions = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    fresh = tuple(caption for caption in captions if caption not in known.captions)
    return replace(
        known,
        label=known.label or text("label", "class"),
        captions=(*known.captions, *fresh),
        licence=known.licence or text("licence", "license"),
        credit=known.credit or text("credit", "author", "url"),
    )

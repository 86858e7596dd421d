"""Boxes that the user gives for images: CSV, JSONL or COCO JSON.

Nothing in them is guessed: an image that the data set does not have, a number that is none, a
category that does not exist refuse the whole file.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as parsed

from unsafe2safe.core.config.components import nearest
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Box, Category

BoxesOf: TypeAlias = dict[str, tuple["GivenBox", ...]]  # by image id

_BOXED = tuple(category for category in Category if category != Category.LOCATION)
_Coordinate = Annotated[float, Field(allow_inf_nan=False)]
_Length = Annotated[float, Field(allow_inf_nan=False, gt=0)]
_Name = Annotated[str, BeforeValidator(lambda cell: "" if cell is None else str(cell).strip())]


@dataclass(frozen=True)
class GivenBox:
    """A box in pixels of the upright image; without a category it speaks of all of them."""

    box: Box
    category: Category | None = None


@parsed(frozen=True)
class _Row:
    image_id: Annotated[str, Field(min_length=1)]
    x: _Coordinate
    y: _Coordinate
    width: _Length
    height: _Length
    category: _Name = ""


@parsed(frozen=True)
class _CocoImage:
    id: int
    file_name: Annotated[str, Field(min_length=1)]


@parsed(frozen=True)
class _CocoBox:
    image_id: int
    bbox: tuple[_Coordinate, _Coordinate, _Length, _Length]
    category_id: int | None = None


@parsed(frozen=True)
class _CocoCategory:
    id: int
    name: _Name


@parsed(frozen=True)
class _Coco:
    images: list[_CocoImage]
    annotations: list[_CocoBox]
    categories: list[_CocoCategory] = field(default_factory=list)


def read_boxes(
    path: Path,
    key: str,
    image_ids: Collection[str],
    *,
    foreign_categories: bool,
    unlimited: Callable[[], Collection[str]],
) -> BoxesOf:
    """The boxes of a file, by image; images without any are left out.

    ``key`` is the configuration's name for ``path``. With ``foreign_categories`` those of a COCO
    file that we do not have, such as `car`, count as none. ``unlimited`` gives the ids of the data
    set before ``dataset.limit``, which are known too, but left out.

    Raises:
        UsageError: the file is missing, damaged, of no known kind, or says something of an image,
            or with a category, that there is not.
    """
    told = f"{key}={path}"
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".json": _coco_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{told} is neither .csv, .jsonl nor .json (COCO)")
    try:
        rows = list(reader(path))
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "damaged"
        raise UsageError(f"{told} cannot be read ({reason})") from None
    except _UnusableRow as error:
        raise UsageError(f"{told}: {error}") from None
    known = _Ids(image_ids, unlimited, suffixes=reader is _coco_rows)
    boxes: dict[str, list[GivenBox]] = defaultdict(list)
    for where, row in rows:
        try:
            image_id = known.find(row.image_id)
            category = _category(row.category, foreign_categories and reader is _coco_rows)
        except _UnusableRow as error:
            raise UsageError(f"{told}: {where}: {error}") from None
        if image_id is not None:
            box = Box(row.x, row.y, row.width, row.height)
            boxes[image_id].append(GivenBox(box, category))
    return {image_id: tuple(some) for image_id, some in boxes.items()}


class _UnusableRow(Exception):  # noqa: N818 - it is told as a UsageError
    """What is wrong with a row; of the user's own file, so it may be quoted."""


class _Ids:
    """The images there are, by their ids; with ``suffixes`` by the end of them too."""

    def __init__(
        self,
        image_ids: Collection[str],
        unlimited: Callable[[], Collection[str]],
        *,
        suffixes: bool,
    ) -> None:
        self._ids, self._all = frozenset(image_ids), unlimited
        self._known: frozenset[str] | None = None
        self._suffixes = suffixes

    def find(self, name: str) -> str | None:
        """The id of an image; None: it is beyond ``dataset.limit``."""
        if name in self._ids:
            return name
        if self._known is None:
            self._known = frozenset(self._all())
        if name in self._known:
            return None
        if self._suffixes:
            matches = self._by_name.get(name.rsplit("/", 1)[-1], ())
            found = [known for known in matches if known.endswith(f"/{name}")]
            if len(found) > 1:
                raise _UnusableRow(f"{name!r} may be {found[0]!r} or {found[1]!r}")
            if found:
                return found[0] if found[0] in self._ids else None
        raise _UnusableRow(
            f"{name!r} is not in the data set{nearest(name, self._known | self._ids)}"
        )

    @property
    def _by_name(self) -> Mapping[str, list[str]]:
        if not hasattr(self, "_names"):
            self._names: dict[str, list[str]] = defaultdict(list)
            for known in sorted(self._known or self._ids):
                self._names[known.rsplit("/", 1)[-1]].append(known)
        return self._names


def _category(name: str, foreign: bool) -> Category | None:
    if not name:
        return None
    names = [str(category) for category in _BOXED]
    if name.lower() in names:
        return Category(name.lower())
    if foreign:
        return None
    raise _UnusableRow(f"there is no category {name!r}{nearest(name, names)}")


def _csv_rows(path: Path) -> Iterator[tuple[str, _Row]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        wanted = {"image_id", "x", "y", "width", "height"}
        missing = sorted(wanted - set(reader.fieldnames or ()))
        if missing:
            raise _UnusableRow(f"has no column {', '.join(missing)}")
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row or None in row.values():
                raise _UnusableRow(f"{where} has not as many cells as the heading")
            yield where, _parsed(TypeAdapter(_Row), _only(row), where)


def _json_rows(path: Path) -> Iterator[tuple[str, _Row]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where, content = f"line {number}", json.loads(line)
                if not isinstance(content, dict):
                    raise _UnusableRow(f"{where} is no object")
                yield where, _parsed(TypeAdapter(_Row), _only(content), where)


def _coco_rows(path: Path) -> Iterator[tuple[str, _Row]]:
    content = json.loads(path.read_bytes())
    coco: _Coco = _parsed(TypeAdapter(_Coco), content, "the file")
    names = {image.id: image.file_name for image in coco.images}
    categories = {category.id: category.name for category in coco.categories}
    for number, annotation in enumerate(coco.annotations):
        where = f"annotation {number}"
        if annotation.image_id not in names:
            raise _UnusableRow(f"{where} is of an image {annotation.image_id} that is not listed")
        category = categories.get(annotation.category_id or 0, "")
        yield where, _Row(names[annotation.image_id], *annotation.bbox, category)


def _only(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that are read; a file may have others."""
    return {key: row[key] for key in _Row.__dataclass_fields__ if key in row}


def _parsed(kind: TypeAdapter[Any], content: Any, where: str) -> Any:
    try:
        return kind.validate_python(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise _UnusableRow(f"{where}: {place}: {fault['msg']}") from None

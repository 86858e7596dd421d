"""Boxes of the original annotations: of a COCO file, or of drawn scenes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as parsed

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Box
from unsafe2safe.data.coco import CocoSource
from unsafe2safe.data.source import ImageSource
from unsafe2safe.data.synthetic.attributes import OBJECTS, UNITS
from unsafe2safe.data.synthetic.source import SyntheticSource


@dataclass(frozen=True)
class Annotated:
    """One object: its class and box in pixels. A crowd is neither to be found nor a fault."""

    category: str
    box: Box
    area: float
    crowd: bool = False


@dataclass(frozen=True)
class Annotations:
    """All classes, in order, and the objects of each image with the size they are told in."""

    categories: tuple[str, ...]
    by_image: Mapping[str, tuple[Annotated, ...]]
    sizes: Mapping[str, tuple[int, int]]  # height, width


def read_annotations(source: ImageSource, path: Path | None) -> Annotations:
    """The boxes of the images of ``source``: from ``path``, or what the data set itself has.

    Raises:
        UsageError: there are none, or the file cannot be read.
    """
    if path is None and isinstance(source, SyntheticSource):
        return _of_scenes(source)
    if path is None and isinstance(source, CocoSource):
        path = source.root_path / "annotations" / f"instances_{source.split}.json"
    if path is None:
        raise UsageError(
            f"the data set {source.name} has no boxes; give utility.detection.annotations=FILE "
            "(COCO's instances format)"
        )
    return _of_file(source, path)


def _of_scenes(source: SyntheticSource) -> Annotations:
    """The object of each scene; persons are what anonymizing changes."""
    found, scale = {}, source.side / UNITS
    for record in source.records():
        thing = source.scene(record.image_id).public.thing
        left, top, right, bottom = (scale * edge for edge in thing.rect)
        box = Box(left, top, right - left, bottom - top)
        found[record.image_id] = (Annotated(thing.kind, box, box.area),)
    return Annotations(OBJECTS, found, dict.fromkeys(found, (source.side, source.side)))


@parsed(frozen=True)
class _Picture:
    id: int
    file_name: str
    width: int
    height: int


@parsed(frozen=True)
class _Category:
    id: int
    name: str


@parsed(frozen=True)
class _Object:
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = 0


@parsed(frozen=True)
class _Instances:
    images: list[_Picture]
    annotations: list[_Object]
    categories: list[_Category] = field(default_factory=list)


def _of_file(source: ImageSource, path: Path) -> Annotations:
    instances = _parse(path)
    names = {category.id: category.name for category in instances.categories}
    objects: dict[int, list[Annotated]] = defaultdict(list)
    for each in instances.annotations:
        if each.category_id not in names:
            raise UsageError(f"{path.name}: an object has category {each.category_id}, unknown")
        box = Box(*each.bbox)
        area = box.area if each.area is None else each.area
        objects[each.image_id].append(
            Annotated(names[each.category_id], box, area, bool(each.iscrowd))
        )
    by_name: dict[str, list[str]] = defaultdict(list)
    known = set()
    for record in source.records():
        known.add(record.image_id)
        by_name[PurePosixPath(record.image_id).name].append(record.image_id)
    found, sizes = {}, {}
    for picture in instances.images:
        name = picture.file_name
        same = [name] if name in known else by_name.get(PurePosixPath(name).name, [])
        if len(same) == 1:  # of several files of that name nobody knows which is meant
            found[same[0]] = tuple(objects.get(picture.id, ()))
            sizes[same[0]] = (picture.height, picture.width)
    ordered = sorted(instances.categories, key=lambda category: category.id)
    return Annotations(tuple(category.name for category in ordered), found, sizes)


def _parse(path: Path) -> Any:
    try:
        return TypeAdapter(_Instances).validate_json(path.expanduser().read_bytes())
    except OSError as error:
        raise UsageError(f"utility.detection.annotations={path.name}: {error.strerror}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise UsageError(f"{path.name} is no instances file ({where}: {fault['msg']})") from None

"""COCO's annotation files, restricted to the images that are published.

Boxes, outlines and keypoints stay as they are; captions are the public ones. Of images only name,
size and licence are kept, of annotations only the keys of COCO's own format: whatever else
stands there nobody looked at. Files are read element by element, so that the largest is in memory
as text only.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from unsafe2safe.core.errors import UsageError
from unsafe2safe.data.published import AnnotationFile, PublishedImage

_log = logging.getLogger(__name__)

_OBJECT_KEYS = ("category_id", "bbox", "area", "iscrowd", "segmentation", "keypoints",
                "num_keypoints")  # fmt: skip
_INFO_KEYS = ("description", "url", "version", "year", "contributor")
_COPIED = ("licenses", "categories")
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def restricted(
    annotations: Path, split: str, published: Mapping[str, PublishedImage], renumber: bool
) -> Iterator[AnnotationFile]:
    """Instances, keypoints and captions of ``split`` as far as the folder ``annotations`` has them.

    ``published`` are the published images by ``image_id``. ``renumber`` gives images and
    annotations new ids, since COCO's own are its file names.

    Raises:
        UsageError: names the file that is damaged.
    """
    for kind in ("instances", "person_keypoints", "captions"):
        path = annotations / f"{kind}_{split}.json"
        if path.exists():
            file = _File(path, split, published, renumber)
            pieces = file.captions() if kind == "captions" else file.objects()
            yield AnnotationFile(f"annotations/{path.name}", pieces)


class _File:
    """One annotation file of COCO's."""

    def __init__(
        self, path: Path, split: str, published: Mapping[str, PublishedImage], renumber: bool
    ) -> None:
        self._path, self._split, self._renumber = path, split, renumber
        self._published = published

    def objects(self) -> Iterator[str]:
        """The file with its published images and their annotations."""
        sections = self._sections_of_images()
        ids = {old: new["id"] for old, new, _ in sections}
        yield from self._begin(sections)
        number = 0
        rest: dict[str, Any] = {}
        for key, value in _members(self._text(), self._path):
            if key == "annotations" and isinstance(value, Iterator):
                for element in value:
                    if isinstance(element, dict) and _id(element.get("image_id")) in ids:
                        number += 1
                        yield f"{',' if number > 1 else ''}\n{self._object(element, ids, number)}"
            elif key in _COPIED and isinstance(value, Iterator):
                rest[key] = list(value)
            elif key == "info" and isinstance(value, dict):
                rest[key] = {name: value[name] for name in _INFO_KEYS if name in value}
        yield from self._end(rest)

    def captions(self) -> Iterator[str]:
        """The file with one caption, the public one, of each published image that has one."""
        sections = self._sections_of_images()
        yield from self._begin(sections)
        described = [(new["id"], image) for _, new, image in sections if image.public_caption]
        for number, (identifier, image) in enumerate(described, 1):
            row = {"id": number, "image_id": identifier, "caption": image.public_caption}
            yield f"{',' if number > 1 else ''}\n{_json(row)}"
        rest = {
            key: list(value)
            for key, value in _members(self._text(), self._path)
            if key == "licenses" and isinstance(value, Iterator)
        }
        yield from self._end(rest)

    def _text(self) -> str:
        try:
            return self._path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self._path} cannot be read ({type(error).__name__})") from None

    def _sections_of_images(self) -> list[tuple[int, dict[str, Any], PublishedImage]]:
        """Old id, new entry and published image of each published image that is listed."""
        found = []
        for key, value in _members(self._text(), self._path):
            if key == "images" and isinstance(value, Iterator):
                for entry in value:
                    image = self._find(entry)
                    if image is not None:
                        found.append((entry["id"], entry, image))
                break
        if self._renumber:  # in an order that tells nothing of the old one
            found.sort(key=lambda row: row[2].name)
        return [
            (old, self._image(number if self._renumber else old, entry, image), image)
            for number, (old, entry, image) in enumerate(found, 1)
        ]

    def _find(self, entry: Any) -> PublishedImage | None:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
            return None
        name = PurePosixPath(str(entry.get("file_name")))
        image = self._published.get(f"{self._split}/{name}")
        if image is None:
            return None
        if (entry.get("width"), entry.get("height")) != (image.width, image.height):
            _log.warning(
                "%s: %s is published as %d x %d pixels, annotated as %s x %s; its annotations are "
                "left out", self._path.name, image.name, image.width, image.height,
                entry.get("width"), entry.get("height"),
            )  # fmt: skip
            return None
        return image

    def _image(self, identifier: int, entry: dict[str, Any], image: PublishedImage) -> Any:
        new = {
            "id": identifier,
            "file_name": image.name.removeprefix(f"{self._split}/"),
            "width": image.width,
            "height": image.height,
        }
        if isinstance(entry.get("license"), int):
            new["license"] = entry["license"]
        return new

    def _object(self, element: dict[str, Any], ids: Mapping[int, int], number: int) -> str:
        kept = {key: element[key] for key in _OBJECT_KEYS if key in element}
        identifier = number if self._renumber else element.get("id")
        return _json({"id": identifier, "image_id": ids[element["image_id"]], **kept})

    @staticmethod
    def _begin(sections: list[tuple[int, dict[str, Any], PublishedImage]]) -> Iterator[str]:
        yield '{"images": ['
        for index, (_, new, _) in enumerate(sections):
            yield f"{',' if index else ''}\n{_json(new)}"
        yield '\n],\n"annotations": ['

    @staticmethod
    def _end(rest: Mapping[str, Any]) -> Iterator[str]:
        yield "\n]"
        for key, value in sorted(rest.items()):
            yield f',\n"{key}": {_json(value)}'
        yield "}\n"


def _id(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _members(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and values of a JSON object; of a list an iterator, used up before the next key."""
    scanner = _Scanner(text, path)
    scanner.take("{")
    while scanner.peek() != "}":
        key = scanner.value()
        scanner.take(":")
        if scanner.peek() == "[":
            elements = scanner.elements()
            yield str(key), elements
            for _ in elements:
                pass
        else:
            yield str(key), scanner.value()
        if scanner.peek() != "}":
            scanner.take(",")


class _Scanner:
    """A place in a JSON text."""

    def __init__(self, text: str, path: Path) -> None:
        self._text, self._path, self._at = text, path, 0

    def peek(self) -> str:
        """The next character that is no space.

        Raises:
            UsageError: there is none.
        """
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at
        if self._at >= len(self._text):
            raise UsageError(f"{self._path} is cut off")
        return self._text[self._at]

    def take(self, character: str) -> None:
        if self.peek() != character:
            raise UsageError(f"{self._path} is no JSON object (at character {self._at})")
        self._at += 1

    def value(self) -> Any:
        self.peek()
        try:
            value, self._at = _DECODER.raw_decode(self._text, self._at)
        except (json.JSONDecodeError, RecursionError):
            raise UsageError(f"{self._path} is no JSON (at character {self._at})") from None
        return value

    def elements(self) -> Iterator[Any]:
        self.take("[")
        while self.peek() != "]":
            yield self.value()
            if self.peek() != "]":
                self.take(",")
        self.take("]")

"""The photographs that come with the package, with what is known to be in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Box, ImageRecord
from unsafe2safe.data.folder import walk
from unsafe2safe.data.source import ImageSource, existing_folder
from unsafe2safe.data.truth import PrivacyTruth

_CC0 = ("CC0", "scikit-image 0.26 sample images")
_US_GOVERNMENT = ("US government work", "official portrait, face-recognition 1.3.0 test images")
_SOURCES = {  # told in full in assets/photos/LICENSES.md
    "astronaut.jpg": ("public domain", "NASA, scikit-image 0.26 sample images"),
    "cameraman.jpg": _CC0,
    "cat.jpg": _CC0,
    "coffee.jpg": _CC0,
    "cat_poster.jpg": _CC0,
    "coffee_note.jpg": _CC0,
    "portrait_wall.jpg": ("as its parts: CC0, public domain, US government works", "composite"),
    "president_a.jpg": _US_GOVERNMENT,
    "president_b.jpg": _US_GOVERNMENT,
    "president_c.jpg": _US_GOVERNMENT,
    "vice_president.jpg": _US_GOVERNMENT,
}


@dataclass(frozen=True)
class PhotoLabel:
    """What a sample photograph holds. Boxes are in pixels of the decoded picture."""

    unsafe: bool
    face_boxes: tuple[Box, ...] = Field(default=(), alias="face_boxes_xywh")
    text: tuple[str, ...] = ()
    identity: str | None = None


@component
class SamplesSource(ImageSource):
    """The packaged photographs; ``root=null`` stands for the folder inside the package."""

    name: str = "samples"

    @property
    def root_path(self) -> Path:
        return existing_folder(photos_folder() if self.root is None else self.root)

    def found(self) -> Iterator[ImageRecord]:
        """A record per photograph, with its licence and credit."""
        for record in walk(self.root_path):
            licence, credit = _SOURCES.get(record.image_id, (None, None))
            yield replace(record, licence=licence, credit=credit)

    def truth(self, image_id: str) -> PrivacyTruth:
        """Whether the photograph is unsafe, and what makes it so.

        Raises:
            UsageError: no record of this source has that id, or ``labels.json`` does not know it.
        """
        self.record(image_id)
        if image_id not in self._labels:
            raise UsageError(f"labels.json in {self.root_path} says nothing of {image_id!r}")
        label = self._labels[image_id]
        kinds = {"face": bool(label.face_boxes), "text": bool(label.text)}
        return PrivacyTruth(label.unsafe, tuple(kind for kind, there in kinds.items() if there))

    def labels(self) -> Mapping[str, PhotoLabel]:
        """What is in each photograph, by ``image_id``.

        Raises:
            UsageError: ``labels.json`` is missing or damaged.
        """
        return self._labels

    @cached_property
    def _labels(self) -> Mapping[str, PhotoLabel]:
        path = self.root_path / "labels.json"
        try:
            content = path.read_bytes()
            return MappingProxyType(TypeAdapter(dict[str, PhotoLabel]).validate_json(content))
        except (OSError, ValidationError) as error:
            raise UsageError(f"{path} is not readable: {str(error).splitlines()[0]}") from None


def photos_folder() -> Path:
    """The folder of the packaged photographs."""
    return Path(str(resources.files("unsafe2safe"))) / "assets" / "photos"

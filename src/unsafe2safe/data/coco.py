"""COCO in its official layout, 2017 or 2014."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Annotated, TypeVar

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.coco_annotations import restricted
from unsafe2safe.data.published import AnnotationFile, PublishedImage
from unsafe2safe.data.source import ImageSource, existing_folder

_log = logging.getLogger(__name__)
_WHENCE = "COCO is to be had from its own site, cocodataset.org"

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class _Image:
    id: int
    file_name: str
    width: int
    height: int
    license: int | None = None
    flickr_url: str | None = None
    coco_url: str | None = None


@dataclass(frozen=True)
class _Named:
    id: int
    name: str


@dataclass(frozen=True)
class _Object:
    image_id: int
    category_id: int


@dataclass(frozen=True)
class _Caption:
    image_id: int
    caption: str


@dataclass(frozen=True)
class _Instances:
    """The parts of an instances file that are used; outlines are skipped while parsing."""

    images: list[_Image]
    annotations: list[_Object]
    categories: list[_Named]
    licenses: list[_Named] = field(default_factory=list)


@dataclass(frozen=True)
class _Captions:
    annotations: list[_Caption]


@component
class CocoSource(ImageSource):
    """The images of one split that its instances file lists.

    ``label`` is the name of an image's most frequent category (ties: the first by name), width and
    height are the annotated ones. An image that is listed but not on the disk fails when decoded;
    one that is on the disk but not listed is left out and counted in the log.
    """

    name: str = "coco"
    # required, unlike the base's
    root: Path = Field(description="Folder that holds the data set.")
    split: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(
        default="train2017", description="Folder of the images and ending of the annotation files."
    )

    @property
    def root_path(self) -> Path:
        try:
            return existing_folder(self.root)
        except UsageError as error:
            raise UsageError(f"{error}; {_WHENCE}") from None

    def found(self) -> Iterator[ImageRecord]:
        """A record per listed image.

        Raises:
            UsageError: names the folder or file that is missing or damaged.
        """
        root = self.root_path
        folder = root / self.split
        listing = root / "annotations" / f"instances_{self.split}.json"
        for path, kind in ((folder, "the images"), (listing, "their annotations")):
            if not path.exists():
                raise UsageError(
                    f"dataset.root={root} has no {path.relative_to(root)} ({kind} of "
                    f"dataset.split={self.split}); {_WHENCE}"
                )
        if not self._inside(folder):
            raise UsageError(f"{folder} is a link that leaves dataset.root={root}")
        instances = _parse(listing, _Instances)
        if not instances.images:
            raise UsageError(f"no images in {listing}")
        captions = self._captions(root)
        labels = _labels(instances)
        licences = {licence.id: licence.name for licence in instances.licenses}
        for image in instances.images:
            name = PurePosixPath(image.file_name)
            if name.is_absolute() or ".." in name.parts or not name.parts:
                raise UsageError(f"{listing} lists {image.file_name!r}, which leaves {self.split}/")
            yield ImageRecord(
                image_id=f"{self.split}/{name}",
                path=folder / name,
                width=image.width,
                height=image.height,
                label=labels.get(image.id),
                captions=tuple(captions.get(image.id, ())),
                licence=None if image.license is None else licences.get(image.license),
                credit=image.flickr_url or image.coco_url,
                layout_folder=self.split,
            )
        _count_unlisted(folder, {image.file_name for image in instances.images})

    def annotations(
        self, published: Mapping[str, PublishedImage], renumber: bool
    ) -> Iterator[AnnotationFile]:
        """Instances, keypoints and captions, the latter replaced by the public ones."""
        yield from restricted(self.root_path / "annotations", self.split, published, renumber)

    def _captions(self, root: Path) -> dict[int, list[str]]:
        path = root / "annotations" / f"captions_{self.split}.json"
        by_image: dict[int, list[str]] = defaultdict(list)
        if path.exists():
            for annotation in _parse(path, _Captions).annotations:
                by_image[annotation.image_id].append(annotation.caption.strip())
        return by_image


def _parse(path: Path, kind: type[Parsed]) -> Parsed:
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise UsageError(
            f"{path} is not a COCO annotation file ({where or 'content'}: {fault['msg']})"
        ) from None


def _labels(instances: _Instances) -> dict[int, str]:
    names = {category.id: category.name for category in instances.categories}
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for annotation in instances.annotations:
        if annotation.category_id in names:
            counts[annotation.image_id][names[annotation.category_id]] += 1
    return {
        image: min(counter, key=lambda name: (-counter[name], name))
        for image, counter in counts.items()
    }


def _count_unlisted(folder: Path, listed: set[str]) -> None:
    with os.scandir(folder) as entries:
        unlisted = sum(entry.name not in listed for entry in entries)
    if unlisted:
        _log.warning("%s: %d files are not in the annotations and are left out", folder, unlisted)

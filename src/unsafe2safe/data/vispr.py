"""VISPR, the data set of the Visual Privacy Advisor: images with privacy attributes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.layout import first_of, id_of, inner_path, rooted
from unsafe2safe.data.source import ImageSource
from unsafe2safe.data.truth import PrivacyTruth

_log = logging.getLogger(__name__)
SAFE_LABEL = "a0_safe"
_WHENCE = (
    "VISPR is to be had from its page, tribhuvanesh.github.io/vpa: the archives of images "
    "(<split>.tar.gz) and of annotations (<split>_anno.tar.gz)"
)


@dataclass(frozen=True)
class _Annotation:
    """The parts of an annotation file that are used."""

    labels: list[str]
    image_path: str | None = None
    source_url: str | None = None


@component
class VisprSource(ImageSource):
    """The annotated images of one split.

    Images lie in ``<split>/`` or ``images/<split>/``; annotations, one JSON file per image, beside
    them or in ``<split>_anno/``, ``<split>_annotation/``, ``annotations/<split>/``. An annotated
    image that is not on the disk fails when decoded; one without annotation, or whose annotation
    names no attribute, is left out and counted in the log.
    """

    name: str = "vispr"
    root: Path = Field(description="Folder that holds the data set.")  # required
    split: Literal["train2017", "val2017", "test2017"] = Field(
        default="test2017", description="Which of the three official splits."
    )

    @property
    def root_path(self) -> Path:
        return rooted(self.root, _WHENCE)

    def truth(self, image_id: str) -> PrivacyTruth:
        """Unsafe if the annotators named anything but ``a0_safe``.

        Raises:
            UsageError: no record of this source has that id.
        """
        self.record(image_id)
        return self._annotated[image_id][1]

    def found(self) -> Iterator[ImageRecord]:
        """A record per annotated image.

        Raises:
            UsageError: names the folder or file that is missing or damaged.
        """
        for record, _ in self._annotated.values():
            yield record

    @cached_property
    def _annotated(self) -> Mapping[str, tuple[ImageRecord, PrivacyTruth]]:
        root, split = self.root_path, self.split
        images = first_of(
            root, (split, f"images/{split}"), f"the images of dataset.split={split}", _WHENCE
        )
        annotated: dict[str, tuple[ImageRecord, PrivacyTruth]] = {}
        unlabelled = 0
        for path in self._files(root, images):
            annotation = _parse(path)
            labels = tuple(dict.fromkeys(annotation.labels))
            name = PurePosixPath(annotation.image_path or f"{path.stem}.jpg").name
            if inner_path(name) is None:
                raise UsageError(f"{path} names no image ({annotation.image_path!r})")
            if not labels:
                unlabelled += 1
                continue
            image_id = id_of(root, images / name)
            if image_id in annotated:
                _log.warning("%s: %r is annotated twice; the first is used", self.name, image_id)
                continue
            record = ImageRecord(image_id, images / name, credit=annotation.source_url)
            unsafe = any(label != SAFE_LABEL for label in labels)
            annotated[image_id] = record, PrivacyTruth(unsafe, labels)
        if not annotated:
            raise UsageError(f"no annotations of dataset.split={split} name an image; {_WHENCE}")
        if unlabelled:
            _log.warning("%s: %d annotations without labels are left out", self.name, unlabelled)
        _count_unannotated(root, images, annotated)
        return annotated

    def _files(self, root: Path, images: Path) -> list[Path]:
        split = self.split
        places = (f"{split}_anno", f"{split}_annotation", f"annotations/{split}")
        folders = [root / place for place in places] + [images]
        for folder in folders:
            files = sorted(path for path in folder.glob("*.json") if path.name[0] != ".")
            if files:
                return files
        raise UsageError(
            f"dataset.root={root} has no annotations of dataset.split={split}: no *.json in "
            f"{', '.join(folder.relative_to(root).as_posix() for folder in folders)}; {_WHENCE}"
        )


def _parse(path: Path) -> _Annotation:
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise UsageError(
            f"{path} is not a VISPR annotation ({where or 'content'}: {fault['msg']})"
        ) from None


_ADAPTER = TypeAdapter(_Annotation)


def _count_unannotated(root: Path, images: Path, annotated: Mapping[str, object]) -> None:
    with os.scandir(images) as entries:
        left = sum(
            id_of(root, Path(entry.path)) not in annotated
            for entry in entries
            if not entry.name.startswith(".") and not entry.name.endswith(".json")
        )
    if left:
        _log.warning("%s: %d files are not annotated and are left out", images, left)

"""Where images come from: the interface that every data set implements, one file each."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UnreadableImage, UsageError
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.decode import MAX_PIXELS, DecodedImage, decode_bytes, read_file
from unsafe2safe.data.published import AnnotationFile, PublishedImage

_log = logging.getLogger(__name__)


@component
class ImageSource(ABC):
    """Base of the data sets. A subclass says what there is; reading it is done here."""

    name: str = Field(description="Name of the data set; part of the names of its run folders.")
    root: Path | None = Field(default=None, description="Folder that holds the data set.")
    orientation: Literal["apply", "raster"] = Field(
        default="apply",
        description="Turn pictures as their EXIF orientation says, or keep the raster as stored.",
    )
    limit: PositiveInt | None = Field(
        default=None, description="Use the first so many images only, as a trial; null: all."
    )
    max_pixels: PositiveInt = Field(
        default=MAX_PIXELS, description="An image with more pixels is refused undecoded."
    )

    @abstractmethod
    def found(self) -> Iterable[ImageRecord]:
        """All records of the data set, in any order, before ``limit``."""

    @property
    def root_path(self) -> Path:
        """The folder that image ids are relative to.

        Raises:
            UsageError: it does not exist or is no folder.
        """
        if self.root is None:
            raise UsageError("dataset.root is not set (give dataset.root=...)")
        return existing_folder(self.root)

    def records(self) -> tuple[ImageRecord, ...]:
        """The records sorted by ``image_id``, each id once, at most ``limit`` of them.

        What cannot be read (a link that leaves the root, a locked folder, a missing file) has a
        record all the same, so that decoding it fails and is told like any other failure.

        Raises:
            UsageError: the root is missing, is no folder, or holds no images.
        """
        return self._records

    def record(self, image_id: str) -> ImageRecord:
        """The record of one image.

        Raises:
            UsageError: no record of this source has that id.
        """
        try:
            return self._by_id[image_id]
        except KeyError:
            limited = f" (with dataset.limit={self.limit})" if self.limit else ""
            raise UsageError(
                f"{image_id!r} is not in the data set {self.name!r}{limited}"
            ) from None

    def decode(self, record: ImageRecord) -> DecodedImage:
        """Pixels and file facts of a record, oriented to fit its annotated size if it has one.

        Raises:
            UnreadableImage: with a reason that holds no path outside the data set.
        """
        size = None
        if record.width is not None and record.height is not None:
            size = (record.width, record.height)
        return decode_bytes(
            self.read(record),
            record.image_id,
            orientation=self.orientation,
            max_pixels=self.max_pixels,
            annotated_size=size,
        )

    def read(self, record: ImageRecord) -> bytes:
        """The encoded picture; sources whose pictures are no files of their own override this.

        Raises:
            UnreadableImage: with a reason that holds no path outside the data set.
        """
        if not self._inside(record.path):
            raise UnreadableImage(record.image_id, "is a link that leaves the data set's root")
        return read_file(record.path, record.image_id)

    def annotations(
        self, published: Mapping[str, PublishedImage], renumber: bool
    ) -> Iterator[AnnotationFile]:
        """The data set's own annotation files, restricted to the published images.

        ``published`` is by ``image_id``; ``renumber`` asks for ids that tell nothing of the
        originals'. Data sets that have such files override this: no name, caption or address of an
        original may stand in them.
        """
        del published, renumber
        yield from ()

    def _inside(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self._resolved_root)
        except (OSError, RuntimeError):  # links in a circle
            return False

    @cached_property
    def _resolved_root(self) -> Path:
        return self.root_path.resolve()

    @cached_property
    def _records(self) -> tuple[ImageRecord, ...]:
        unique: dict[str, ImageRecord] = {}
        for record in self.found():
            if record.image_id in unique:
                _log.warning("%s: %r appears twice; the first is used", self.name, record.image_id)
            else:
                unique[record.image_id] = record
        return tuple(unique[key] for key in islice(sorted(unique), self.limit))

    @cached_property
    def _by_id(self) -> dict[str, ImageRecord]:
        return {record.image_id: record for record in self._records}


def existing_folder(root: Path) -> Path:
    """``root`` with ``~`` expanded.

    Raises:
        UsageError: it does not exist, is no folder or cannot be entered.
    """
    folder = root.expanduser()
    try:
        if not folder.exists():
            raise UsageError(f"dataset.root={root} does not exist")
        if not folder.is_dir():
            raise UsageError(f"dataset.root={root} is not a folder")
        next(folder.iterdir(), None)
    except OSError as error:
        raise UsageError(f"dataset.root={root} cannot be read: {error.strerror}") from None
    return folder

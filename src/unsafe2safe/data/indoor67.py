"""MIT Indoor67 (indoor scene recognition, CVPR 2009) in its official layout."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.folder import printable_id
from unsafe2safe.data.layout import classes, first_of, id_of, inner_path, rooted
from unsafe2safe.data.published import AnnotationFile, PublishedImage
from unsafe2safe.data.source import ImageSource

_LISTS = {"train": "TrainImages.txt", "test": "TestImages.txt"}
_WHENCE = (
    "Indoor67 is to be had from its page at MIT, web.mit.edu/torralba/www/indoor.html: "
    "indoorCVPR_09.tar and the two lists TrainImages.txt and TestImages.txt"
)


@component
class Indoor67Source(ImageSource):
    """All images, or those of the official training or test list; ``label`` is the scene.

    The lists name 80 and 20 images of each scene, not all there are. A listed image that is not
    on the disk fails when it is decoded.
    """

    name: str = "indoor67"
    root: Path = Field(description="Folder that holds the data set.")  # required
    split: Literal["all", "train", "test"] = Field(
        default="train", description="Every picture there is, or one of the official lists."
    )

    @property
    def root_path(self) -> Path:
        return rooted(self.root, _WHENCE)

    def found(self) -> Iterator[ImageRecord]:
        """A record per picture of the split.

        Raises:
            UsageError: names the folder or list that is missing, empty or damaged.
        """
        root = self.root_path
        images = first_of(root, ("Images",), "a folder per scene", _WHENCE)
        empty = True
        for record in classes(root, images) if self.split == "all" else self._listed(root, images):
            empty = False
            yield record
        if empty:
            where = images if self.split == "all" else root / _LISTS[self.split]
            raise UsageError(f"{where} names no images (dataset.split={self.split}); {_WHENCE}")

    def annotations(
        self, published: Mapping[str, PublishedImage], renumber: bool
    ) -> Iterator[AnnotationFile]:
        """The official lists, as far as they were read and their pictures are published."""
        del renumber
        root = self.root_path
        images = first_of(root, ("Images",), "a folder per scene", _WHENCE)
        for split, listing in _LISTS.items():
            if self.split in ("all", split) and (root / listing).exists():
                ids = (id_of(root, images / name) for name in self._names(root / listing))
                names = (published[image_id].name for image_id in ids if image_id in published)
                yield AnnotationFile(
                    listing, (f"{name.removeprefix(f'{images.name}/')}\n" for name in names)
                )

    def _listed(self, root: Path, images: Path) -> Iterator[ImageRecord]:
        listing = first_of(
            root, (_LISTS[self.split],), f"the list of dataset.split={self.split}", _WHENCE
        )
        for path in self._names(listing):
            scene = printable_id(path.parts[0])
            yield ImageRecord(
                image_id=id_of(root, images / path),
                path=images / path,
                label=scene,
                layout_folder=f"{images.name}/{scene}",
            )

    @staticmethod
    def _names(listing: Path) -> Iterator[PurePosixPath]:
        """``scene/picture.jpg`` of each line that is not empty."""
        try:
            lines = listing.read_bytes().splitlines()
        except OSError as error:
            raise UsageError(f"{listing} cannot be read: {error.strerror}") from None
        for number, line in enumerate(lines, 1):
            name = os.fsdecode(line.strip())  # as file names are decoded: any bytes will do
            if not name:
                continue
            path = inner_path(name)
            if path is None or len(path.parts) != 2:
                told = printable_id(name)
                raise UsageError(f"{listing}, line {number}: {told!r} is no scene/picture.jpg")
            yield path

"""Caltech101 in its official layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.layout import classes, first_of, rooted
from unsafe2safe.data.source import ImageSource

_FOLDER = "101_ObjectCategories"
_PLACES = (_FOLDER, f"caltech101/{_FOLDER}", f"caltech-101/{_FOLDER}")
_BACKGROUND = "BACKGROUND_Google"
_WHENCE = (
    "Caltech101 is to be had from CaltechDATA, data.caltech.edu (record mzrjq-6wc02): unpack "
    f"caltech-101.zip and the {_FOLDER}.tar.gz in it"
)


@component
class Caltech101Source(ImageSource):
    """The images of all object categories; ``label`` is the category's folder.

    The 102nd folder, pictures of no category, is left out unless it is asked for.
    """

    name: str = "caltech101"
    root: Path = Field(description="Folder that holds the data set.")  # required
    include_background: bool = Field(
        default=False, description=f"Take the pictures of no category ({_BACKGROUND}) too."
    )

    @property
    def root_path(self) -> Path:
        return rooted(self.root, _WHENCE)

    def found(self) -> Iterator[ImageRecord]:
        """A record per picture.

        Raises:
            UsageError: names the folder that is missing or empty.
        """
        root = self.root_path
        images = first_of(root, _PLACES, "a folder per category", _WHENCE)
        empty = True
        for record in classes(root, images):
            if record.label == _BACKGROUND and not self.include_background:
                continue
            empty = False
            yield record
        if empty:
            raise UsageError(f"no images under {images}; {_WHENCE}")

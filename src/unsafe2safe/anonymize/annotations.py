"""Annotations that travel with the published images.

Below ``published/``, beside the images: the data set's own files, restricted to what is published
(see each data set), and a ``metadata.csv`` that makes the folder an ``imagefolder``. Nothing else
but published images lies there.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from unsafe2safe.anonymize.lookup import TripletLookup
from unsafe2safe.anonymize.naming import tells_person
from unsafe2safe.core.config.schema import Publish
from unsafe2safe.core.files import atomic_path, inside
from unsafe2safe.core.records import ImageRecord, Outcome
from unsafe2safe.data.decode import stated_size
from unsafe2safe.data.published import AnnotationFile, PublishedImage
from unsafe2safe.data.source import ImageSource

_AT_ONCE = 1024  # triplets in memory
# Folders that `datasets` takes for splits: with one of them in the tree it looks nowhere else.
_SPLIT_FOLDER = re.compile(
    r"(?:.*[-._ 0-9])?"
    r"(?:train|training|validation|valid|dev|val|test|testing|eval|evaluation)"
    r"(?:[-._ 0-9].*)?"
)


def write_annotations(
    run: Path,
    source: ImageSource,
    outcomes: Iterable[Outcome],
    lookup: TripletLookup,
    settings: Publish,
) -> tuple[Path, ...]:
    """Write the annotations of the images that ``outcomes``, under their true names, publish.

    Returns:
        The files that were written; none with ``publish.annotations=none`` and where nothing is
        published.

    Raises:
        UsageError: the data set's own annotations are damaged.
    """
    shown = sorted(_Shown.of(outcome) for outcome in outcomes if outcome.published_as is not None)
    if settings.annotations == "none" or not shown:
        return ()
    images = {image.image_id: image for image in _published(run, shown, lookup)}
    own = source.annotations(images, renumber=settings.names == "hash")
    records = {record.image_id: record for record in source.records()}
    written = []
    for file in chain(own, _tables(shown, images, records)):
        written.append(inside(run / "published", file.name))
        with atomic_path(written[-1]) as temporary, temporary.open("wb") as stream:
            stream.writelines(piece.encode("utf-8") for piece in file.pieces)
    return tuple(written)


class _Shown(NamedTuple):
    """All that is needed of a published image's outcome, of which there may be many."""

    image_id: str
    name: str
    state: str

    @classmethod
    def of(cls, outcome: Outcome) -> _Shown:
        return cls(outcome.image_id, str(outcome.published_as), str(outcome.state))


def _published(
    run: Path, shown: Sequence[_Shown], lookup: TripletLookup
) -> Iterator[PublishedImage]:
    remaining = iter(shown)
    while some := tuple(islice(remaining, _AT_ONCE)):
        described = lookup.find([row.image_id for row in some])
        for row in some:
            width, height = stated_size(inside(run / "published", row.name), row.image_id)
            triplet, _ = described[row.image_id]
            caption = " ".join(triplet.public_caption.split())
            yield PublishedImage(row.image_id, row.name, width, height, caption)


def _tables(
    shown: Sequence[_Shown],
    images: dict[str, PublishedImage],
    records: dict[str, ImageRecord],
) -> Iterator[AnnotationFile]:
    """``metadata.csv`` of the whole tree, or one in each folder that is a split to `datasets`."""
    labels = {row.image_id: _label(records[row.image_id]) for row in shown}
    labelled = any(labels.values())
    heading = ["file_name", *(["label"] if labelled else []), "public_caption", "state"]
    by_folder: dict[PurePosixPath, list[list[str]]] = {}
    for told in shown:
        folder = _split_folder(told.name)
        row = [str(PurePosixPath(told.name).relative_to(folder))]
        row += [labels[told.image_id]] if labelled else []
        row += [images[told.image_id].public_caption, told.state]
        by_folder.setdefault(folder, []).append(row)
    for folder, rows in sorted(by_folder.items()):
        yield AnnotationFile(str(folder / "metadata.csv"), _csv([heading, *sorted(rows)]))


def _split_folder(name: str) -> PurePosixPath:
    folders = PurePosixPath(name).parent
    for folder in reversed((folders, *folders.parents)):
        if _SPLIT_FOLDER.fullmatch(folder.name):
            return folder
    return PurePosixPath()


def _label(record: ImageRecord) -> str:
    """A class of the data set's layout, or any other label that is no person's name."""
    label = record.label or ""
    return "" if not record.layout_folder and tells_person(label) else label


def _csv(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in rows:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow(row)
        yield buffer.getvalue()

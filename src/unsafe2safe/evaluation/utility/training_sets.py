"""The rows of a utility table: the measured ones and the controls, with what each is trained on."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from unsafe2safe.core.config.schema_utility import Control
from unsafe2safe.core.errors import UnreadableImage
from unsafe2safe.core.files import make_private, write_bytes
from unsafe2safe.core.records import ImageRecord, OutcomeState
from unsafe2safe.evaluation.rows import FolderRow, MissingEditError, Row, RunRow
from unsafe2safe.evaluation.subjects import Subjects
from unsafe2safe.evaluation.utility.examples import ORIGINAL, Example, TrainingSet
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.arrays import RgbImage
from unsafe2safe.vision.perception import Perception

log = logging.getLogger("unsafe2safe")

Make = Callable[[], TrainingSet]

_NO_PIXELS, _NO_MASK = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.bool_)


class RowPictures:
    """The edited images of one row, readable again and again in any order.

    What takes long to compute (an editor's edits, masks that are detected) is made once and kept
    as PNG files in ``folder``, which is private.
    """

    def __init__(
        self, row: Row, subjects: Subjects, perception: Perception, folder: Path, unit_size: int
    ) -> None:
        self.row, self._subjects, self._perception = row, subjects, perception
        self._places = {name: place for place, name in enumerate(subjects.image_ids)}
        self._folder, self._unit_size = folder, unit_size
        from_files = isinstance(row, RunRow | FolderRow)
        self._from_files, self._kept = from_files, not from_files and row.name != "blur"

    def made(self, image_ids: Sequence[str]) -> tuple[list[str], dict[str, int]]:
        """The ids that have an image, and why the others have none."""
        found: list[str] = []
        reasons: Counter[str] = Counter()
        for start in range(0, len(image_ids), self._unit_size):
            unit = image_ids[start : start + self._unit_size]
            if self._kept and not all(self._file(name).is_file() for name in unit):
                self.row.prepare(unit)
            for name in unit:
                try:
                    self.read(name)
                except (MissingEditError, UnreadableImage) as error:
                    reasons[error.reason] += 1
                except Exception as error:  # one bad image never ends a run
                    log.warning("%s: %s: %s", self.row.name, name, type(error).__name__)
                    reasons[f"reading it raised {type(error).__name__}"] += 1
                else:
                    found.append(name)
        return found, dict(reasons)

    def read(self, image_id: str) -> RgbImage:
        """The edited image, (H, W, 3) uint8.

        Raises:
            MissingEditError: the row has none.
            UnreadableImage: it, or its original, cannot be decoded.
        """
        if self._from_files:
            return self.row.edited(image_id, _NO_PIXELS, _NO_MASK)
        file = self._file(image_id)
        if self._kept and file.is_file():
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB"))
        original = self._subjects.source.decode(self._subjects.record(image_id)).pixels
        mask = self._mask(image_id, original) if self.row.name == "mask" else _NO_MASK
        pixels = self.row.edited(image_id, original, mask)
        if self._kept:
            make_private(self._folder)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
            write_bytes(file, buffer.getvalue(), 0o600)
        return pixels

    def _mask(self, image_id: str, original: RgbImage) -> np.ndarray:
        features = ImageFeatures(original, self._perception)
        regions = self._subjects.regions([image_id]).get(image_id)
        return self._subjects.mask(features, regions, self._subjects.truth(image_id))

    def _file(self, image_id: str) -> Path:
        return self._folder / f"{self._places[image_id]:08d}.png"


class Shelf:
    """Makes the training sets of one evaluation, all from the same originals."""

    def __init__(
        self,
        subjects: Subjects,
        train_ids: Sequence[str],
        perception: Perception,
        private: Path,
        unit_size: int,
    ) -> None:
        """``train_ids`` are the originals that may be trained on: readable, no test image."""
        self.train_ids = tuple(train_ids)
        self._subjects, self._perception = subjects, perception
        self._private, self._unit_size = private, unit_size

    def of_row(self, row: Row, name: str) -> TrainingSet:
        """What ``row`` made of the originals, as a row called ``name``."""
        folder = self._private / "images" / row.name
        pictures = RowPictures(row, self._subjects, self._perception, folder, self._unit_size)
        found, absent = pictures.made(self.train_ids)
        examples = tuple(
            self._example(image_id, row.name, partial(pictures.read, image_id))
            for image_id in found
        )
        return TrainingSet(name, row.title, examples, absent)

    def of_originals(self, name: str, title: str, image_ids: Sequence[str]) -> TrainingSet:
        """The originals of ``image_ids``, as they are."""
        wanted = set(image_ids)
        examples = tuple(
            self._example(image_id, ORIGINAL, partial(self._original, image_id))
            for image_id in self.train_ids
            if image_id in wanted
        )
        left_out = len(self.train_ids) - len(examples)
        return TrainingSet(name, title, examples, {"left out by this row": left_out})

    def _original(self, image_id: str) -> RgbImage:
        return self._subjects.source.decode(self._subjects.record(image_id)).pixels

    def _example(self, image_id: str, row: str, read: Callable[[], RgbImage]) -> Example:
        record: ImageRecord = self._subjects.record(image_id)
        return Example(record, row, read, lambda: self._subjects.captions(image_id).public)


def rows_to_train(
    shelf: Shelf,
    rows: Sequence[Row],
    controls: Sequence[Control],
    reference: Callable[[str], Row],
) -> dict[str, Make]:
    """What makes each of the table's rows, by name and in order; nothing is read before.

    ``rows`` are the measured ones; ``reference`` makes those called blur and mask. Runs that kept
    the same originals share their control row.
    """
    made: dict[str, Make] = {}
    if "original" in controls:
        made["original"] = lambda: shelf.of_originals("original", "original", shelf.train_ids)
    if "original_kept" in controls:
        kept = {row.name: _kept(row, shelf.train_ids) for row in rows}
        what = "original, only what was published of"
        made |= _on_subsets(shelf, rows, kept, "original_kept", what)
    if "drop_unsafe" in controls:
        safe = {row.name: _untouched(row, shelf.train_ids) for row in rows}
        what = "drop unsafe: originals left as they were by"
        made |= _on_subsets(shelf, rows, safe, "drop_unsafe", what)
    for name in ("blur", "mask"):
        if name in controls:
            made[name] = partial(_of_reference, shelf, reference, name)
    for row in rows:
        name = f"run.{row.name}" if row.name in made else row.name
        made[name] = partial(shelf.of_row, row, name)
    return made


def _of_reference(shelf: Shelf, reference: Callable[[str], Row], name: str) -> TrainingSet:
    return shelf.of_row(reference(name), name)


def _kept(row: Row, image_ids: Sequence[str]) -> tuple[str, ...]:
    """Originals with an edited image by what the row itself tells; every one where it tells not."""
    if isinstance(row, RunRow):
        return tuple(name for name in image_ids if row.outcomes[name].state.publishable)
    if isinstance(row, FolderRow):
        return tuple(name for name in image_ids if row.file(name) is not None)
    return tuple(image_ids)


def _untouched(row: Row, image_ids: Sequence[str]) -> tuple[str, ...] | None:
    """Originals that a run found safe; None where there is no manifest to tell."""
    if not isinstance(row, RunRow):
        return None
    return tuple(name for name in image_ids if row.outcomes[name].state == OutcomeState.SAFE)


def _on_subsets(
    shelf: Shelf,
    rows: Sequence[Row],
    subsets: Mapping[str, tuple[str, ...] | None],
    name: str,
    title: str,
) -> dict[str, Make]:
    distinct: dict[tuple[str, ...] | None, list[Row]] = {}
    for row in rows:
        distinct.setdefault(subsets[row.name], []).append(row)
    made: dict[str, Make] = {}
    for ids, sharing in distinct.items():
        own = name if len(distinct) == 1 else f"{name}.{sharing[0].name}"
        told = f"{title} {', '.join(row.title for row in sharing)}"
        if ids is None:
            why = "only the manifest of a run of anonymize.py tells which images were safe"
            made[own] = partial(TrainingSet, own, told, (), unavailable=why)
        else:
            made[own] = partial(shelf.of_originals, own, told, ids)
    return made

"""The rows of the table: where the edited image of an original comes from.

A row is a run of ``anonymize.py``, a folder made by any tool, or a reference that is computed.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import cv2
from typing_extensions import override

from unsafe2safe.core.errors import ItemError, UnreadableImage, UsageError
from unsafe2safe.core.files import inside
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.pseudonyms import restore
from unsafe2safe.core.records import ImageRecord, Outcome, OutcomeState
from unsafe2safe.core.tables import read_records
from unsafe2safe.data.decode import decode_bytes, decode_file
from unsafe2safe.data.source import ImageSource
from unsafe2safe.evaluation.subjects import BoolMask, Subjects
from unsafe2safe.vision.arrays import RgbImage

Kind = Literal["run", "folder", "editor", "reference"]
_GREY = 127


class MissingEditError(ItemError):
    """The row has no edited image for this original: held back, or never made."""


class Row(ABC):
    """One row: ``name`` is its key in metrics.json, ``title`` what people read."""

    kind: Kind

    def __init__(self, name: str, title: str) -> None:
        self.name, self.title = name, title

    def prepare(self, image_ids: Sequence[str]) -> None:  # noqa: B027 - most have nothing to do
        """Told before the images of a unit are asked for, for rows that make many at once."""

    def file(self, image_id: str) -> Path | None:  # noqa: ARG002 - most have none
        """The file that an edited image is read from; None where it is computed."""
        return None

    @abstractmethod
    def edited(self, image_id: str, original: RgbImage, mask: BoolMask) -> RgbImage:
        """The edited image of ``image_id``, (H, W, 3) uint8 RGB, of any size.

        ``original`` is (H, W, 3), ``mask`` (H, W) true where something of it is sensitive.

        Raises:
            MissingEditError: there is none.
            UnreadableImage: there is one that cannot be used.
        """

    @abstractmethod
    def held_back(self, image_ids: Sequence[str]) -> dict[str, int]:
        """How many of ``image_ids`` have no edited image, by reason."""


class ReferenceRow(Row):
    """A row computed from the originals and their masks."""

    kind = "reference"

    def __init__(
        self, name: str, title: str, change: Callable[[RgbImage, BoolMask], RgbImage]
    ) -> None:
        super().__init__(name, title)
        self._change = change

    @override
    def edited(self, image_id: str, original: RgbImage, mask: BoolMask) -> RgbImage:
        return self._change(original, mask)

    @override
    def held_back(self, image_ids: Sequence[str]) -> dict[str, int]:
        return {}


class UnrelatedRow(ReferenceRow):
    """For each original another one of the set, the next by name, at its own size.

    Nothing private of an original is in it but by chance, so that it is the floor of every figure
    of privacy; and nothing of its content either.
    """

    def __init__(self, subjects: Subjects) -> None:
        super().__init__("unrelated", "unrelated (another original)", lambda pixels, _: pixels)
        self._subjects = subjects
        self._places = {image_id: place for place, image_id in enumerate(subjects.image_ids)}

    @override
    def edited(self, image_id: str, original: RgbImage, mask: BoolMask) -> RgbImage:
        ids, place = self._subjects.image_ids, self._places[image_id]
        for other in (*ids[place + 1 :], *ids[:place]):
            try:
                return self._subjects.source.decode(self._subjects.record(other)).pixels
            except UnreadableImage:
                continue
        raise MissingEditError(image_id, "the set has no other image that can be read")


def reference_row(name: str, blur_sigma: float, subjects: Subjects) -> ReferenceRow:
    """A row of references:

    - ``identity`` returns the original.
    - ``blur`` blurs the whole frame, whatever it shows, with a Gaussian whose sigma is
      ``blur_sigma`` of the long side.
    - ``mask`` fills what is sensitive with grey.
    - ``unrelated`` is another original.
    """
    if name == "identity":
        return ReferenceRow(name, "identity (no edit)", lambda pixels, _: pixels)
    if name == "mask":
        return ReferenceRow(name, "mask (grey)", masked)
    if name == "unrelated":
        return UnrelatedRow(subjects)

    def blur(pixels: RgbImage, _: BoolMask) -> RgbImage:
        blurred: RgbImage = cv2.GaussianBlur(pixels, (0, 0), blur_sigma * max(pixels.shape[:2]))
        return blurred

    return ReferenceRow(name, "blur (whole frame)", blur)


def masked(pixels: RgbImage, mask: BoolMask) -> RgbImage:
    """``pixels`` (H, W, 3) with mid grey where ``mask`` is true."""
    filled = pixels.copy()
    filled[mask] = _GREY
    return filled


class RunRow(Row):
    """The published files of a complete run of ``anonymize.py``, and nothing else of it."""

    kind = "run"

    def __init__(
        self, folder: Path, name: str, title: str, true_names: Mapping[str, str] | None = None
    ) -> None:
        """``true_names``: image ids by what stands for them in the manifest."""
        super().__init__(name, title)
        self.folder = folder
        rows = read_records(folder / "manifest.parquet", Outcome)
        restored = (restore(row, true_names or {}) for row in rows)
        self.outcomes: dict[str, Outcome] = {row.image_id: row for row in restored}

    @override
    def edited(self, image_id: str, original: RgbImage, mask: BoolMask) -> RgbImage:
        return self.published(image_id)

    @override
    def file(self, image_id: str) -> Path | None:
        name = self.outcomes[image_id].published_as
        return None if name is None else inside(self.folder / "published", name)

    def published(self, image_id: str) -> RgbImage:
        """The published picture as whoever opens its file sees it.

        Raises:
            MissingEditError: its outcome does not publish it.
            UnreadableImage: the file is gone, damaged, or not the one that was verified.
        """
        outcome = self.outcomes[image_id]
        if not outcome.state.publishable or outcome.published_as is None:
            raise MissingEditError(image_id, outcome.reason or str(outcome.state))
        try:
            content = inside(self.folder / "published", outcome.published_as).read_bytes()
        except (OSError, UsageError):
            raise UnreadableImage(image_id, "its published file is missing") from None
        if hashlib.sha256(content).hexdigest() != outcome.output_sha256:
            raise UnreadableImage(image_id, "its published file is not the one that was verified")
        return decode_bytes(content, image_id).pixels

    @override
    def held_back(self, image_ids: Sequence[str]) -> dict[str, int]:
        reasons = Counter(
            f"{outcome.state}: {outcome.reason}" if outcome.reason else str(outcome.state)
            for outcome in (self.outcomes[image_id] for image_id in image_ids)
            if not outcome.state.publishable
        )
        return dict(reasons.most_common())

    def pictures(self, image_ids: Sequence[str]) -> list[str]:
        """The publishable ones among ``image_ids``, edited ones first."""
        found = [name for name in image_ids if self.outcomes[name].state.publishable]
        return sorted(found, key=lambda name: self.outcomes[name].state != OutcomeState.ANONYMIZED)


def run_rows(folders: Sequence[Path], true_names: Mapping[str, str] | None = None) -> list[RunRow]:
    """Rows of complete runs, with names and titles that tell them apart."""
    states = [read_run(folder) or {} for folder in folders]
    titles = [_run_title(state) for state in states]
    names = [folder.resolve().name for folder in folders]
    rows = []
    for index, (folder, state) in enumerate(zip(folders, states, strict=True)):
        name, title = names[index], titles[index]
        if titles.count(title) > 1:
            title = f"{title} ({str(state.get('fingerprint', ''))[:6]})"
        if names.count(name) > 1:
            name = f"{name}-{index + 1}"
        rows.append(RunRow(folder, name, title, true_names))
    return rows


def _run_title(state: Mapping[str, object]) -> str:
    config = state.get("config")
    settings = config if isinstance(config, dict) else {}
    editor = settings.get("editor") or {}
    words = [str(editor.get("name", "run")), str(editor.get("method") or "")]
    if settings.get("adapter"):
        words.append("with adapter")
    return " ".join(word for word in words if word)


class FolderRow(Row):
    """Edited images in a folder that any tool has written."""

    kind = "folder"

    def __init__(self, matched: Mapping[str, ImageRecord]) -> None:
        super().__init__("edited", "edited folder")
        self._matched = matched

    @override
    def file(self, image_id: str) -> Path | None:
        return self._matched[image_id].path if image_id in self._matched else None

    @override
    def edited(self, image_id: str, original: RgbImage, mask: BoolMask) -> RgbImage:
        if image_id not in self._matched:
            raise MissingEditError(image_id, "no edited file of this name")
        return decode_file(self._matched[image_id].path, image_id).pixels

    @override
    def held_back(self, image_ids: Sequence[str]) -> dict[str, int]:
        absent = sum(image_id not in self._matched for image_id in image_ids)
        return {"no edited file of this name": absent} if absent else {}


def match_folders(
    originals: ImageSource, edited: ImageSource
) -> tuple[dict[str, ImageRecord], list[str]]:
    """Edited records by ``image_id`` of their originals, and the edited ids left over.

    Files match by relative path; failing that, by relative path without suffix, where exactly one
    original and one edited file bear that name.
    """
    by_id = {record.image_id: record for record in edited.records()}
    ids = [record.image_id for record in originals.records()]
    matched = {image_id: by_id[image_id] for image_id in ids if image_id in by_id}
    free = [name for name in by_id if name not in matched]
    wanting = [name for name in ids if name not in matched]
    edited_stems, stems = Counter(map(_stem, by_id)), Counter(map(_stem, ids))
    by_stem = {_stem(name): name for name in free}
    for image_id in wanting:
        stem = _stem(image_id)
        if stems[stem] == 1 and edited_stems[stem] == 1 and stem in by_stem:
            matched[image_id] = by_id[by_stem[stem]]
    used = {record.image_id for record in matched.values()}
    return matched, sorted(name for name in free if name not in used)


def _stem(image_id: str) -> str:
    return str(PurePosixPath(image_id).with_suffix(""))

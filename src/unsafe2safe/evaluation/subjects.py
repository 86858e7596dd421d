"""The originals that are measured, and what is sensitive in each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.anonymize.lookup import PrivateCaptions, TripletLookup
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.records import Box, Category, ImageRecord, Region
from unsafe2safe.data.source import ImageSource
from unsafe2safe.data.synthetic import Scene, slot_mask
from unsafe2safe.data.synthetic.source import KnownEdit, SyntheticSource
from unsafe2safe.metrics.base import Captions, SceneTruth
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.regions import grow_region, mask_of

log = logging.getLogger("unsafe2safe")

BoolMask = NDArray[np.bool_]


class Subjects:
    """Originals by ``image_id`` and their masks, the same for every row.

    Masks are made of the regions of ``triplets``, the run that described the data set; where there
    is none, of the faces and lines of text that perception finds in the original.
    """

    def __init__(
        self, source: ImageSource, image_ids: Sequence[str], triplets: Path | None, config: Evaluate
    ) -> None:
        self.source = source
        self.image_ids = tuple(sorted(image_ids))
        self._records = {record.image_id: record for record in source.records()}
        self._lookup = TripletLookup(triplets) if triplets else None
        self._triplets, self._private_root = triplets, config.paths.private
        self._margin, self._categories = config.mask_margin, frozenset(config.mask_categories)
        self._seed = config.seed

    @property
    def masks_from(self) -> str:
        """Told in the report."""
        if isinstance(self.source, SyntheticSource):
            return "the places that the scenes' records give to what is private"
        if self._lookup:
            return "the regions that generate_triplets.py found in the originals"
        return "the faces and lines of text that the embedded detectors find in the originals"

    def record(self, image_id: str) -> ImageRecord:
        return self._records[image_id]

    def regions(self, image_ids: Sequence[str]) -> dict[str, tuple[Region, ...]]:
        """Regions of those images that were described; the others are absent."""
        if self._lookup is None:
            return {}
        found = self._lookup.find(sorted(image_ids))
        return {image_id: regions for image_id, (_, regions) in found.items()}

    def captions(self, image_id: str) -> Captions:
        """What is written of an image: by its Stage 1, or, of a drawn scene, by its record."""
        label = self._records[image_id].label
        if (edit := self.edit_of(image_id)) is not None:
            return Captions(edit.texts.public_caption, edit.texts.private_caption, label)
        if self._lookup is None or not (found := self._lookup.find([image_id])):
            return Captions(label=label)
        public = found[image_id][0].public_caption or ""
        return Captions(public, self._private.find(image_id) if self._private else "", label)

    @cached_property
    def _private(self) -> PrivateCaptions | None:
        """Private captions, where their share is under ``paths.private`` and was not purged."""
        if self._triplets is None or self._lookup is None:
            return None
        try:
            return PrivateCaptions(self._triplets, self._private_root, self._lookup, "evaluate")
        except UsageError:
            return None

    def edit_of(self, image_id: str) -> KnownEdit | None:
        """What an image was to become, where the data set knows it: as the triplets behind the
        runs ask for it, or else as this run's seed does."""
        if not isinstance(self.source, SyntheticSource):
            return None
        seed = self._seed
        if self._lookup is not None and (described := self._lookup.find([image_id])):
            seed = described[image_id][0].provenance.seed
        return self.source.edit_of(image_id, seed)

    def truth(self, image_id: str) -> SceneTruth | None:
        """The same for metrics."""
        edit = self.edit_of(image_id)
        return SceneTruth(edit.redrawn, self._scenes) if edit else None

    @cached_property
    def _scenes(self) -> tuple[Scene, ...]:
        assert isinstance(self.source, SyntheticSource)
        return tuple(self.source.scene(image_id) for image_id in self.image_ids)

    def mask(
        self,
        features: ImageFeatures,
        regions: tuple[Region, ...] | None,
        truth: SceneTruth | None = None,
    ) -> NDArray[np.bool_]:
        """(H, W) bool: what is sensitive in the original, grown by the margin where it was
        detected."""
        if truth is not None:
            return slot_mask(truth.redrawn.source, features.size[0])
        boxes = self._detected(features) if regions is None else self._chosen(regions)
        return self._inside(boxes, *features.size)

    def known_mask(self, image_id: str, height: int, width: int) -> NDArray[np.bool_] | None:
        """The same (H, W) without looking at the picture; None where nobody described it."""
        if (edit := self.edit_of(image_id)) is not None:
            return slot_mask(edit.redrawn.source, height)
        regions = self.regions([image_id]).get(image_id)
        return None if regions is None else self._inside(self._chosen(regions), height, width)

    def _chosen(self, regions: Sequence[Region]) -> list[tuple[Category, Box]]:
        return [(r.category, r.box) for r in regions if r.category in self._categories]

    def _inside(
        self, boxes: Sequence[tuple[Category, Box]], height: int, width: int
    ) -> NDArray[np.bool_]:
        grown = [grow_region(category, box, self._margin, width, height) for category, box in boxes]
        inside: NDArray[np.bool_] = mask_of(grown, height, width) > 0.5
        return inside

    def _detected(self, features: ImageFeatures) -> list[tuple[Category, Box]]:
        found = []
        if Category.FACE in self._categories:
            found += [(Category.FACE, face.box) for face in features.faces]
        if Category.TEXT in self._categories:
            found += [(Category.TEXT, line.box) for line in features.lines]
        return found


def triplets_of(runs: Sequence[Path]) -> Path | None:
    """The run of generate_triplets.py behind ``runs``: the first one's, if it is still there.

    Runs made of other triplets are told: their images are measured inside the first one's masks.
    """
    behind = [Path(_input(run)) for run in runs if _input(run)]
    if len(set(behind)) > 1:
        log.warning("the runs were made of different triplets; masks are those of the first run's")
    for triplets in behind[:1]:
        state = read_run(triplets)
        if state and state["status"] == "complete" and (triplets / "triplets").is_dir():
            return triplets
        log.warning("the triplets behind the run are gone; what is sensitive is detected anew")
    return None


def _input(run: Path) -> str:
    state = read_run(run) or {}
    return str((state.get("inputs") or {}).get("triplets") or "")

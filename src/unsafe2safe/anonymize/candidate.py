"""One image on its way through edit and verification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from unsafe2safe.anonymize.given_masks import NOTHING_GIVEN, Given
from unsafe2safe.anonymize.ladder import Step
from unsafe2safe.anonymize.mask_making import is_masked, left_open, make_mask
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.core.records import (
    Attempt,
    Box,
    Category,
    ImageRecord,
    PrivacyFlag,
    Region,
    Triplet,
    TripletState,
)
from unsafe2safe.data.decode import DecodedImage
from unsafe2safe.editors.base import EditRequest, Mask, Pixels
from unsafe2safe.vision.detectors import Detection
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.masks import Shape, person_outline
from unsafe2safe.vision.perception import Perception
from unsafe2safe.vision.text import TextLine

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(eq=False)
class Candidate:
    """An image with what is known of it; regions are added when a second look finds more."""

    record: ImageRecord
    image: DecodedImage
    triplet: Triplet
    regions: list[Region]
    perception: Perception
    private_caption: str = field(default="", repr=False)  # only for editors that read it
    given: Given = NOTHING_GIVEN  # what the user says of it; its regions are among ``regions``
    attempts: list[Attempt] = field(default_factory=list)
    edited: Pixels | None = None  # the last edit, for the quarantine
    step: int = 0  # of the ladder, on which the next attempt is made
    region_retries: int = 0  # attempts made again for regions that had been missed
    _plates: dict[Box, list[str]] = field(default_factory=dict, init=False, repr=False)
    _outlines: dict[Box, Shape | None] = field(default_factory=dict, init=False, repr=False)

    @property
    def image_id(self) -> str:
        return self.record.image_id

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.image.pixels.shape[:2]
        return height, width

    @property
    def claimed_safe(self) -> bool:
        """The first witness: a complete triplet that says safe, and no region."""
        return (
            self.triplet.state == TripletState.COMPLETE
            and self.triplet.privacy_flag == PrivacyFlag.SAFE
            and not self.regions
            and not self.image.has_location
        )

    @property
    def only_metadata(self) -> bool:
        """Nothing but the file's metadata, and what may be kept, was found sensitive; stripping
        the former is the edit."""
        reasons = {part.strip() for part in self.triplet.reason.split(",")} - {""}
        known = {str(region.category) for region in self.regions} | {str(Category.LOCATION)}
        nothing_open = not left_open(self.regions, (), self.given)
        return nothing_open and reasons <= known and bool(self.regions or reasons)

    @property
    def sensitive_regions(self) -> list[Region]:
        """The regions but for those that may be kept."""
        return [r for r in self.regions if not self.given.keeps(r.category, r.box)]

    @cached_property
    def source_faces(self) -> list[Face]:
        """Faces of the source by the strict detector, but for those that may be kept; searched
        once."""
        return self.counted_faces(self.perception.verify_faces(self.image.pixels))

    @cached_property
    def source_embeddings(self) -> NDArray[np.float32]:
        """(N, 128) embeddings of ``source_faces``."""
        embeddings: NDArray[np.float32] = self.perception.identity.embed(
            self.image.pixels, self.source_faces
        )
        return embeddings

    @cached_property
    def reduced_embeddings(self) -> NDArray[np.float32]:
        """(M, 128) embeddings of ``source_faces`` with less and less detail."""
        embeddings: NDArray[np.float32] = self.perception.identity.embed_reduced(
            self.image.pixels, self.source_faces
        )
        return embeddings

    @cached_property
    def source_texts(self) -> tuple[str, ...]:
        """Strings readable in the source; private, kept in memory only."""
        lines = self.counted_lines(self.perception.verify_text(self.image.pixels))
        return tuple(line.text for line in lines)

    def counted_faces(self, faces: Sequence[Face]) -> list[Face]:
        """Those that may not be kept."""
        return [face for face in faces if not self.given.keeps(Category.FACE, face.box)]

    def counted_lines(self, lines: Sequence[TextLine]) -> list[TextLine]:
        """Those that may not be kept."""
        return [line for line in lines if not self.given.keeps(Category.TEXT, line.box)]

    def counted_others(self, found: Sequence[Detection]) -> list[Detection]:
        """Those that may not be kept."""
        return [each for each in found if not self.given.keeps(each.category, each.box)]

    def source_plate(self, box: Box) -> list[str]:
        """Strings readable in the source at a plate, read once; private, kept in memory only."""
        if box not in self._plates:
            self._plates[box] = self.perception.verify_plate(self.image.pixels, box)
        return self._plates[box]

    def masked_regions(self, config: Anonymize) -> list[Region]:
        return [r for r in self.regions if is_masked(r, self.given, config.mask_categories)]

    def unmaskable(self, config: Anonymize) -> str:
        """Why the masks do not cover what is sensitive, or an empty string."""
        if self.given.missing:
            return "it has no mask in masks.folder (masks.missing=review)"
        left = left_open(self.regions, self.masked_regions(config), self.given)
        if not left:
            return ""
        names = ", ".join(sorted({str(region.category) for region in left}))
        return f"no mask covers its regions of category {names} (mask_categories, masks.folder)"

    def mask(self, config: Anonymize, margin: float) -> Mask:
        """(H, W) float32 union of the masked regions, grown by the attempt's margin; unless whole
        frames are edited, with a feathered rim around it."""
        return make_mask(
            self.masked_regions(config), self.given, self._outline, self.size, margin, config
        )

    def _outline(self, box: Box) -> Shape | None:
        """The silhouette of the person in a box, sought once."""
        if box not in self._outlines:
            segmenter = self.perception.persons
            self._outlines[box] = person_outline(self.image.pixels, box, segmenter)
        return self._outlines[box]

    def request(self, config: Anonymize, step: Step) -> EditRequest:
        return EditRequest(
            image=self.image.pixels,
            mask=self.mask(config, step.margin),
            regions=tuple(self.masked_regions(config)),
            public_caption=self.triplet.public_caption,
            edit_instruction=self.triplet.edit_instruction,
            seed=torch_seed(config.seed, self.image_id, step.draw, "edit"),
            strength=step.strength,
            combined_caption=self.triplet.combined_caption or "",
            private_caption=self.private_caption if step.editor.reads_private_caption else "",
            text_guidance=step.text_guidance,
        )

    def add_regions(self, regions: list[Region]) -> None:
        """Add what a second look found, unless it is there already."""
        known = {(region.category, region.box) for region in self.regions}
        self.regions.extend(r for r in regions if (r.category, r.box) not in known)

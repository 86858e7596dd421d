"""One image on its way through edit and verification."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from unsafe2safe.anonymize.ladder import Step
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
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.perception import Perception
from unsafe2safe.vision.regions import grow_region, mask_of

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
    attempts: list[Attempt] = field(default_factory=list)
    edited: Pixels | None = None  # the last edit, for the quarantine
    step: int = 0  # of the ladder, on which the next attempt is made
    region_retries: int = 0  # attempts made again for regions that had been missed
    _plates: dict[Box, list[str]] = field(default_factory=dict, init=False, repr=False)

    @property
    def image_id(self) -> str:
        return self.record.image_id

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
        """Nothing but the file's metadata was found sensitive; stripping it is the edit."""
        reasons = {part.strip() for part in self.triplet.reason.split(",")}
        return not self.regions and reasons == {str(Category.LOCATION)}

    @cached_property
    def source_faces(self) -> list[Face]:
        """Faces of the source by the strict detector, searched once."""
        return list(self.perception.verify_faces(self.image.pixels))

    @cached_property
    def source_embeddings(self) -> NDArray[np.float32]:
        """(N, 128) embeddings of ``source_faces``."""
        embeddings: NDArray[np.float32] = self.perception.identity.embed(
            self.image.pixels, self.source_faces
        )
        return embeddings

    @cached_property
    def source_texts(self) -> tuple[str, ...]:
        """Strings readable in the source; private, kept in memory only."""
        return tuple(line.text for line in self.perception.verify_text(self.image.pixels))

    def source_plate(self, box: Box) -> list[str]:
        """Strings readable in the source at a plate, read once; private, kept in memory only."""
        if box not in self._plates:
            self._plates[box] = self.perception.verify_plate(self.image.pixels, box)
        return self._plates[box]

    def masked_regions(self, config: Anonymize) -> list[Region]:
        return [region for region in self.regions if region.category in config.mask_categories]

    def mask(self, config: Anonymize, margin: float) -> Mask:
        """(H, W) float32 union of the masked regions, grown by the attempt's margin."""
        height, width = self.image.pixels.shape[:2]
        boxes = [
            grow_region(region.category, region.box, margin, width, height)
            for region in self.masked_regions(config)
        ]
        mask: Mask = mask_of(boxes, height, width)
        return mask

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

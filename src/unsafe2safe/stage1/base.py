"""What Stage 1 is: it takes decoded images and gives their public and private records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.records import (
    ImageRecord,
    PrivacyFlag,
    PrivateRecord,
    Provenance,
    Region,
    Triplet,
    TripletState,
)
from unsafe2safe.data.decode import DecodedImage
from unsafe2safe.vision.perception import Perception


@dataclass(frozen=True, eq=False)
class Described:
    """All that Stage 1 says of one image.

    ``leaks`` counts by kind what the leak guard kept out of the public texts; numbers only.
    """

    triplet: Triplet
    private: PrivateRecord
    regions: tuple[Region, ...]
    leaks: Mapping[str, int] = field(default_factory=dict)


@component
class Stage1(ABC):
    """Base of all Stage 1 backends."""

    name: str = Field(description="Name of the backend; part of the names of its run folders.")

    @property
    def images_together(self) -> int:
        """How many images :meth:`describe` is best given at once; part of a unit at most."""
        return 8

    def content(self) -> Mapping[str, str]:
        """Hashes of files that change the result, for the run's fingerprint; by name."""
        return {}

    @abstractmethod
    def describe(
        self,
        images: Sequence[tuple[ImageRecord, DecodedImage]],
        perception: Perception,
        seed: int,
    ) -> list[Described]:
        """Describe a batch, one result per image, in order.

        An error for one image raises; the caller then describes the batch one by one and records
        the failing image.
        """


def failed(image_id: str, reason: str, model: str, seed: int) -> Described:
    """The record of an image that could not be described: never safe, never captioned."""
    triplet = Triplet(
        image_id=image_id,
        privacy_flag=PrivacyFlag.UNSAFE,
        state=TripletState.FAILED,
        public_caption="",
        edit_instruction="",
        combined_caption=None,
        reason=reason,
        provenance=Provenance(model=model, seed=seed),
    )
    return Described(triplet, PrivateRecord(image_id, "", ()), ())

"""A data set without files and a Stage 1 without models: what is left is the pipeline itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from unsafe2safe.core.config.components import component
from unsafe2safe.core.randomness import generator
from unsafe2safe.core.records import (
    Box,
    Category,
    Finding,
    ImageRecord,
    PrivacyFlag,
    PrivateRecord,
    Provenance,
    Triplet,
    TripletState,
)
from unsafe2safe.data.decode import DecodedImage
from unsafe2safe.data.source import ImageSource
from unsafe2safe.stage1.base import Described, Stage1
from unsafe2safe.stage1.detectors import regions_of
from unsafe2safe.vision.perception import Perception

NULL = (
    "dataset._target_=null_components.NullSource",
    "dataset.name=numbers",
    "stage1._target_=null_components.NullStage1",
    "stage1.name=nothing",
    "~stage1.attributes",
)
NULL_ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parent)}

_NOWHERE = Path("nowhere")
_IMAGE = DecodedImage(
    pixels=np.zeros((8, 8, 3), np.uint8),
    format="PNG",
    has_location=False,
    notes=(),
    copyright=None,
    icc_profile=None,
    content=b"",
)


@component
class NullSource(ImageSource):
    """``count`` equal images."""

    count: int = 12

    def found(self) -> Iterator[ImageRecord]:
        for number in range(self.count):
            yield ImageRecord(f"{number:07d}.png", _NOWHERE)

    def decode(self, record: ImageRecord) -> DecodedImage:
        return _IMAGE


@component
class NullStage1(Stage1):
    """Findings drawn from the image's name; every seventh image needs a review.

    ``NULL_WAIT`` in the environment is how many seconds a batch takes, ``NULL_CRASH_AT`` an image
    that ends the process as a fault in native code does. Neither is part of the configuration.
    """

    def describe(
        self,
        images: Sequence[tuple[ImageRecord, DecodedImage]],
        perception: Perception,
        seed: int,
    ) -> list[Described]:
        time.sleep(float(os.environ.get("NULL_WAIT", "0")))
        return [self._described(record.image_id, seed) for record, _ in images]

    def _described(self, image_id: str, seed: int) -> Described:
        if image_id == os.environ.get("NULL_CRASH_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        draw = generator(seed, image_id, 0, "null")
        x, y = draw.uniform(0, 4, 2)
        findings = (
            Finding(Category.TEXT, 0.9, "null", Box(x, y, 2, 2), f"private {draw.random()}"),
        )
        review = int(Path(image_id).stem) % 7 == 3
        triplet = Triplet(
            image_id=image_id,
            privacy_flag=PrivacyFlag.UNSAFE,
            state=TripletState.NEEDS_REVIEW if review else TripletState.COMPLETE,
            public_caption=f"A photo with the number {draw.integers(1000)}.",
            edit_instruction="Change the text.",
            combined_caption=None,
            reason="not parsed" if review else "text",
            provenance=Provenance(model=self.name, seed=seed),
        )
        private = PrivateRecord(image_id, f"A private text at {x:.3f}.", findings)
        return Described(triplet, private, regions_of(image_id, findings))

"""All detectors and embedders behind one set of settings, each loaded on first use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

from unsafe2safe.core.config.schema_common import Vision
from unsafe2safe.core.records import Box, Category
from unsafe2safe.vision.arrays import RgbImage, resized
from unsafe2safe.vision.faces import Face, FaceDetector
from unsafe2safe.vision.features import ImageFeatures
from unsafe2safe.vision.gender import GenderClassifier
from unsafe2safe.vision.identity import FaceIdentity
from unsafe2safe.vision.masks import Window
from unsafe2safe.vision.models import digest
from unsafe2safe.vision.objects import ObjectDetector
from unsafe2safe.vision.perceptual import ShiftTolerantLpips
from unsafe2safe.vision.persons import PersonSegmenter
from unsafe2safe.vision.regions import grow_region
from unsafe2safe.vision.text import TextLine, TextReader, text_version

_AROUND_PLATE = 0.5  # of its height: the reader wants some surroundings
_PLATE_HEIGHT, _MOST_ENLARGED = 96, 8.0  # pixels of a plate with its surroundings when it is read


class Perception:
    """What the system sees with. ``threads`` per model; 0 leaves it to its library."""

    def __init__(self, settings: Vision, threads: int) -> None:
        self.settings = settings
        self.threads = threads

    @cached_property
    def faces(self) -> FaceDetector:
        """Stage 1: at ``face_long_side``, and at half of it, where a face fills the frame."""
        settings = self.settings
        return FaceDetector(
            settings.face_threshold, settings.face_long_side, self.threads, scales=(1.0, 0.5)
        )

    @cached_property
    def strict_faces(self) -> FaceDetector:
        """Verification: the lower threshold, mirrored too, at half, own and double size."""
        return FaceDetector.strict(self.settings.strict_face_threshold, self.threads)

    @cached_property
    def identity(self) -> FaceIdentity:
        return FaceIdentity(self.threads)

    @cached_property
    def text(self) -> TextReader:
        return TextReader(self.settings.text_threshold, self.threads)

    @cached_property
    def objects(self) -> ObjectDetector:
        return ObjectDetector(self.settings.object_threshold, self.threads)

    @cached_property
    def persons(self) -> PersonSegmenter:
        return PersonSegmenter(self.threads)

    @cached_property
    def features(self) -> ImageFeatures:
        return ImageFeatures(self.threads)

    @cached_property
    def perceptual(self) -> ShiftTolerantLpips:
        return ShiftTolerantLpips(self.threads)

    def version(self, what: str) -> str:
        """Tells what these models see with these settings from what others would see.

        ``what`` is ``faces``, ``identities`` (of these faces), ``text`` or ``efficientnet_lite0``.
        """
        settings = self.settings
        faces = (digest("centerface"), settings.face_threshold, settings.face_long_side)
        seen_by: dict[str, tuple[object, ...]] = {
            "faces": faces,
            "identities": (digest("face_identity"), *faces),
            "text": (text_version(), settings.text_threshold),
            "efficientnet_lite0": (digest("efficientnet_lite0"),),
        }
        # the last bits of a result depend on how many threads computed it
        return " ".join(map(str, (what, *seen_by[what], self.threads)))

    @cached_property
    def gender(self) -> GenderClassifier:
        """Raises ValueError unless ``vision.gender=true``."""
        if not self.settings.gender:
            raise ValueError("gender is inferred only with vision.gender=true")
        return GenderClassifier(self.threads)

    def verify_faces(self, image: RgbImage) -> list[Face]:
        """Faces that the strict detector still finds in an edited image."""
        return self.strict_faces.detect([image])[0]

    def verify_text(self, image: RgbImage) -> list[TextLine]:
        """Text that can still be read in an edited image, at its own and at double size."""
        return self.text.read_scales(image)

    def look_again(
        self, image: RgbImage, windows: Sequence[Window], sides: Sequence[float] = ()
    ) -> list[Face]:
        """Faces that Stage 1's detector still finds in parts of an edited image."""
        return self.faces.detect_in(image, windows, sides)

    def read_again(self, image: RgbImage, windows: Sequence[Window]) -> list[TextLine]:
        """Text that can still be read in parts of an edited image."""
        return self.text.read_in(image, windows)

    def verify_plate(self, image: RgbImage, box: Box) -> list[str]:
        """Strings that can be read in and around ``box`` once it fills the reader's view."""
        height, width = image.shape[:2]
        around = grow_region(Category.PLATE, box, _AROUND_PLATE, width, height)
        crop = image[
            int(around.y) : math.ceil(around.bottom), int(around.x) : math.ceil(around.right)
        ]
        if crop.size == 0:
            return []
        times = min(max(1.0, _PLATE_HEIGHT / crop.shape[0]), _MOST_ENLARGED)
        sides = round(crop.shape[0] * times), round(crop.shape[1] * times)
        return [line.text for line in self.verify_text(resized(crop, *sides))]

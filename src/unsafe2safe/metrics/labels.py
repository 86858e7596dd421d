"""Labels of people before and after the edit: what figures about groups of people rest on.

A labeller looks at the places of the original's people, in the original and in the edited image,
and at the faces that a detector finds in the edited image. What it says is a guess of a model, or
in drawn scenes what their records know; nobody's own words.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.pretrained import public_name, without_place
from unsafe2safe.core.records import Box, Category
from unsafe2safe.metrics.base import PairSample
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.arrays import RgbImage
from unsafe2safe.vision.image_classes import ImageClasses, image_classes
from unsafe2safe.vision.regions import grow_region

Labels = NDArray[np.int64]  # indices into a labeller's groups


@component
class Labeller(ABC):
    """Base of what gives people labels."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Attribute and model: names the arrays that hold the labels."""

    @property
    @abstractmethod
    def groups(self) -> tuple[str, ...]:
        """What the labels stand for."""

    def unavailable(self) -> str:
        """Why there are no labels at all; "" where there are."""
        return ""

    @abstractmethod
    def people(self, sample: PairSample) -> int:
        """How many people of the original have a label."""

    @abstractmethod
    def before(self, sample: PairSample) -> Labels:
        """(N,) labels of the original's people."""

    @abstractmethod
    def in_place(self, sample: PairSample) -> Labels:
        """(N,) labels of what stands in their places in the edited image, whatever that is."""

    @abstractmethod
    def found(self, sample: PairSample) -> Labels:
        """(M,) labels of the people that are found in the edited image."""


@component
class ReaderLabels(Labeller):
    """An attribute of the people of drawn scenes: known before, read back after."""

    attribute: str = Field(default="skin", description="An attribute of persons.")

    @property
    def name(self) -> str:
        return f"{self.attribute}.reader"

    @cached_property
    def _values(self) -> tuple[str | bool, ...]:
        from unsafe2safe.vision.attribute_reader import PERSON_VALUES  # imports torch

        return PERSON_VALUES.get(self.attribute, ())

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(str(value) for value in self._values)

    def unavailable(self) -> str:
        return "" if self._values else f"no one reads {self.attribute!r}"

    def people(self, sample: PairSample) -> int:
        return len(sample.truth.redrawn.source.private.persons) if sample.truth else 0

    def before(self, sample: PairSample) -> Labels:
        assert sample.truth is not None  # told by ``people``
        persons = sample.truth.redrawn.source.private.persons
        return np.array(
            [self._values.index(getattr(person, self.attribute)) for person in persons], np.int64
        )

    def in_place(self, sample: PairSample) -> Labels:
        return np.array(
            [int(person[self.attribute].argmax()) for person in sample.reading.persons], np.int64
        )

    def found(self, sample: PairSample) -> Labels:
        return self.in_place(sample)


@component
class FaceLabels(Labeller):
    """Base of labels of faces."""

    margin: float = Field(
        default=0.25, ge=0, description="A face is cut out grown by this share of its size."
    )

    @abstractmethod
    def classify(self, crops: Sequence[RgbImage], image: ImageFeatures) -> Labels:
        """(N,) labels of crops of faces of ``image``."""

    def people(self, sample: PairSample) -> int:
        return len(sample.original.faces)

    def before(self, sample: PairSample) -> Labels:
        return self._at(sample.original, [face.box for face in sample.original.faces])

    def in_place(self, sample: PairSample) -> Labels:
        return self._at(sample.after, [face.box for face in sample.original.faces])

    def found(self, sample: PairSample) -> Labels:
        return self._at(sample.after, [face.box for face in sample.after.faces])

    def _at(self, image: ImageFeatures, boxes: Sequence[Box]) -> Labels:
        if not boxes:
            return np.zeros(0, np.int64)
        return self.classify([self._crop(image, box) for box in boxes], image)

    def _crop(self, image: ImageFeatures, box: Box) -> RgbImage:
        height, width = image.size
        around = grow_region(Category.FACE, box, self.margin, width, height)
        top, left = int(around.y), int(around.x)
        bottom, right = math.ceil(around.bottom), math.ceil(around.right)
        return image.pixels[top : max(bottom, top + 1), left : max(right, left + 1)]


@component
class ClassifierLabels(FaceLabels):
    """Groups as a classifier of the transformers library guesses them from faces."""

    attribute: str = Field(default="race", description="What the classifier tells, for names.")
    model: str = Field(
        default="",
        description="Classifier of faces, as a hub id that is in the local cache or a folder that "
        "`save_pretrained` wrote; empty: none.",
    )
    revision: str = Field(default="", description="Commit or tag of the hub; empty: the newest.")
    device: str = Field(default="cpu", description="Torch device: cpu, cuda, cuda:1.")
    into: tuple[str, ...] = Field(
        default=("White", "Black", "Asian", "Hispanic", "Other"), description="The groups."
    )
    synonyms: dict[str, str] = Field(
        default_factory=dict,
        description="Group of each class of the model that is no group's own name; case, `_` and "
        "`-` do not count.",
    )

    @property
    def name(self) -> str:
        return f"{self.attribute}.{public_name(self.model)}"

    @property
    def groups(self) -> tuple[str, ...]:
        return self.into

    @property
    def _classes(self) -> ImageClasses:
        return image_classes(self.model, self.revision, self.device)

    def unavailable(self) -> str:
        if not self.model:
            return f"no classifier of {self.attribute} is set (labels.model)"
        try:
            self._classes.load()
            _ = self._group_of_class
        except UsageError as error:
            return without_place(str(error), self.model)
        return ""

    @cached_property
    def _group_of_class(self) -> Labels:
        """Index of the group of each class.

        Raises:
            UsageError: a class belongs to none.
        """
        groups = {_plain(name): name for name in self.into}
        groups |= {_plain(name): group for name, group in self.synonyms.items()}
        found = []
        for name in self._classes.names:
            group = groups.get(_plain(name))
            if group not in self.into:
                raise UsageError(f"class {name!r} of the model is in no group (labels.synonyms)")
            found.append(self.into.index(group))
        return np.array(found, np.int64)

    def classify(self, crops: Sequence[RgbImage], image: ImageFeatures) -> Labels:  # noqa: ARG002
        labels: Labels = self._group_of_class[self._classes.classify(crops)]
        return labels


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


@component
class GenderLabels(FaceLabels):
    """Two classes that the embedded model guesses from faces, where that is allowed."""

    allowed: bool = Field(description="Whether gender may be inferred: `vision.gender`.")

    @property
    def name(self) -> str:
        return "gender.embedded"

    @property
    def groups(self) -> tuple[str, ...]:
        return ("female", "male")

    def unavailable(self) -> str:
        return "" if self.allowed else "gender is inferred only with vision.gender=true"

    def classify(self, crops: Sequence[RgbImage], image: ImageFeatures) -> Labels:
        classifier = image.perception.gender
        found = [
            classifier.probabilities(crop, [Box(0, 0, crop.shape[1], crop.shape[0])])[0].argmax()
            for crop in crops
        ]
        return np.array(found, np.int64)

"""What a protocol of utility is: it trains a model on one set of images and tests it on another.

Of each test image it keeps figures alone (right or wrong, counts of words, matched boxes), from
which the table's figures and their intervals are made. Texts and names are not kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.pretrained import load
from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.data.source import ImageSource
from unsafe2safe.evaluation.utility.examples import Example
from unsafe2safe.metrics.base import Direction
from unsafe2safe.vision.perception import Perception

Item = list[Any]  # the figures of one test image, as JSON


class TooLittleError(Exception):
    """A row's images are too few, or too much alike, to be trained on; says why."""


@dataclass(frozen=True, eq=False)
class Bench:
    """What a protocol works with. ``memo`` holds what was computed of an image, by
    (what, row, image id), for as long as the evaluation runs."""

    seed: int
    perception: Perception
    source: ImageSource  # of the originals
    test_source: ImageSource  # of the test images; often the same
    memo: dict[tuple[str, str, str], Any] = field(default_factory=dict)

    @property
    def same_source(self) -> bool:
        """Whether training and test images have their ids from the same data set."""
        return self.source is self.test_source

    def draw(self, training_seed: int, what: str, image_id: str = "", visit: int = 0) -> int:
        """A 63-bit seed; the same for an image in every row."""
        return torch_seed(self.seed, image_id, visit, f"utility {training_seed} {what}")


@component
class UtilityTask(ABC):
    """Base of the protocols."""

    title: ClassVar[str]
    directions: ClassVar[Mapping[str, Direction]]
    most_draws: ClassVar[int] = 10**6  # of the bootstrap, where a figure takes long

    @property
    @abstractmethod
    def definition(self) -> str:
        """What is trained and how it is tested; told in the report."""

    @property
    @abstractmethod
    def model_name(self) -> str:
        """The model, without any path of this machine."""

    @property
    def trains(self) -> bool:
        """False: a given model looks at the row's own images, all of them, and learns nothing."""
        return True

    def unavailable(self, bench: Bench) -> str:  # noqa: ARG002 - some need nothing
        """Why nothing can be measured at all (weights, annotations); "" where it can."""
        return ""

    @abstractmethod
    def usable(self, example: Example, bench: Bench) -> bool:
        """Whether there is anything to learn from an image, or to be tested on."""

    @abstractmethod
    def measure(
        self, train: Sequence[Example], test: Sequence[Example], seed: int, bench: Bench
    ) -> list[Item]:
        """Train with ``seed``, then test: one item for each test image, in order.

        Raises:
            TooLittleError: ``train`` cannot be trained on.
            UsageError: weights or libraries are missing.
        """

    @abstractmethod
    def pack(self, items: Sequence[Item]) -> Any:
        """``items`` in the form that :meth:`figures` is quick with."""

    @abstractmethod
    def figures(self, packed: Any, chosen: Any) -> dict[str, float]:
        """The figures over the images at the indices ``chosen``, which may repeat. NaN: none."""

    def floors(self, packed: Any) -> dict[str, float]:  # noqa: ARG002 - most have none
        """What knowing nothing comes to, by figure."""
        return {}


def shown(model: str) -> str:
    """A model's hub id, or the last part of its path."""
    path = Path(model).expanduser()
    return path.name if path.exists() or model.startswith(("/", ".", "~")) else model


def without_paths(error: UsageError, *places: object) -> str:
    """What an error says, with the last parts of ``places`` only."""
    told = str(error)
    for place in sorted((str(place) for place in places if place), key=len, reverse=True):
        told = told.replace(place, shown(place))
    return told


def missing_weights(model: str, revision: str) -> str:
    """Why a model of transformers cannot be had, told by its description; "" where it can."""
    from transformers import AutoConfig

    try:
        load(AutoConfig.from_pretrained, model, revision=revision, trust_remote_code=False)
    except UsageError as error:
        return without_paths(error, model)
    return ""

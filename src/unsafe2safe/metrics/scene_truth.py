"""The truth-based figures of ``metrics/truth.py`` as metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator
from typing_extensions import override

from unsafe2safe.core.config.components import component, nearest
from unsafe2safe.data.synthetic import Scene
from unsafe2safe.metrics.base import Metric, PairSample, SceneTruth
from unsafe2safe.metrics.truth import (
    Scores,
    all_scores,
    bystander_scores,
    outside_private,
    reidentified,
)
from unsafe2safe.vision.attribute_reader import GLYPHS, PERSON_VALUES, Reading, board_cells

_READ = (*PERSON_VALUES, "letters")
_MODEL = "the packaged attribute reader of the synthetic world"


def _truth(sample: PairSample) -> SceneTruth:
    assert sample.truth is not None  # told by ``expected``
    return sample.truth


@component
class _ReadBack(Metric):
    """Base of the shares of attributes and letters that are read in a certain way."""

    attributes: tuple[str, ...] = Field(
        min_length=1, description="Attributes of persons, or `letters` of boards and tags."
    )

    unit = "value"
    model = _MODEL
    score: ClassVar[str]  # of metrics.truth

    @field_validator("attributes")
    @classmethod
    def _are_read(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in _READ:
                raise ValueError(f"{name!r} is not read from scenes{nearest(name, _READ)}")
        return names

    @override
    @property
    def heading(self) -> str:
        return f"{self.title}: {', '.join(name.replace('_', ' ') for name in self.attributes)}"

    def expected(self, sample: PairSample) -> int:
        if sample.truth is None:
            return 0
        redrawn = sample.truth.redrawn
        return len(self._chosen(all_scores(redrawn, _nothing_read(redrawn.source))))

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [self._chosen(all_scores(_truth(s).redrawn, s.reading)) for s in samples]

    def _chosen(self, scores: Scores) -> tuple[float, ...]:
        found = (scores.get(f"{self.score}/{name}", []) for name in self.attributes)
        return tuple(value for values in found for value in values)


def _nothing_read(scene: Scene) -> Reading:
    """A reading of the right shape: what is scored depends on the scene alone."""
    persons = tuple(
        {name: np.zeros(len(values), np.float32) for name, values in PERSON_VALUES.items()}
        for _ in scene.private.persons
    )
    boards = {
        name: np.zeros((len(cells), len(GLYPHS)), np.float32)
        for name, cells in board_cells(scene).items()
    }
    return Reading(persons, boards)


@component
class Followed(_ReadBack):
    """Instruction following."""

    score = "followed"
    group = "utility"
    title = "Asked changes found"
    direction = "up"
    binary = True
    definition = (
        "Share of the values that were to change and are read from the edited picture, at their "
        "place, as what they were to become. A hair style counts where it shows."
    )


@component
class Leaked(_ReadBack):
    """Private leakage."""

    score = "leaked"
    group = "privacy"
    title = "Original values still found"
    direction = "down"
    binary = True
    definition = (
        "Share of the values that were to change and are still read as they were in the original."
    )


@component
class KeptEqual(_ReadBack):
    """What was drawn equal to the source's value."""

    score = "kept"
    group = "quality"
    title = "Equal draws kept"
    direction = "up"
    binary = True
    definition = (
        "Of the values that are the same in the original and in its counterpart, the share that is "
        "read unchanged. They count in no other figure."
    )


@component
class Reidentified(Metric):
    """Re-identification by attribute record."""

    group = "privacy"
    model = _MODEL
    title = "Re-identified at rank 1"
    direction = "down"
    binary = True
    definition = (
        "How often the record of the original is the likeliest of all originals' records, given "
        "what is read of the edited picture; equal likelihoods share the rank."
    )

    def expected(self, sample: PairSample) -> int:
        return int(sample.truth is not None)

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            (reidentified(_truth(s).redrawn.source, _truth(s).gallery, s.reading),) for s in samples
        ]


@component
class _Bystander(Metric):
    group = "quality"
    direction = "up"
    score: ClassVar[str]

    def expected(self, sample: PairSample) -> int:
        if sample.truth is None:
            return 0
        return int(outside_private(sample.truth.redrawn, sample.original.size[0]).any())

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            tuple(bystander_scores(_truth(s).redrawn, s.after.pixels)[self.score]) for s in samples
        ]


@component
class OutsideSsim(_Bystander):
    """Fidelity of bystanders by structural similarity."""

    score = "outside/ssim"
    title = "SSIM outside the private layers"
    of_identity = 1.0
    definition = (
        "Structural similarity (7 x 7 windows on RGB) over the pixels outside every private layer "
        "of original and counterpart; inside them both pictures are made equal first, since "
        "windows reach across the edge."
    )


@component
class OutsidePsnr(_Bystander):
    """Fidelity of bystanders in decibels."""

    score = "outside/psnr"
    bounded = False
    title = "PSNR outside the private layers (dB)"
    definition = "Peak signal-to-noise ratio over the same pixels, in decibels, per image."

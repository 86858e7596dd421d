"""Filters of training pairs: does the edited picture still show what the text says?

The paper keeps a pair when its image-text similarity has not fallen below 0.7 of the original's.
That needs a CLIP. Without its weights there is a stand-in of another name, or no filter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.records import Check, Triplet
from unsafe2safe.editors.base import Pixels
from unsafe2safe.vision.clip import ClipEmbedder
from unsafe2safe.vision.perception import Perception


@dataclass(eq=False)
class EditedPair:
    """An original (H, W, 3) and, read when it is asked for, its edit as published; with texts."""

    original: Pixels = field(repr=False)
    read_edited: Callable[[], Pixels] = field(repr=False)
    triplet: Triplet = field(repr=False)

    @cached_property
    def edited(self) -> Pixels:
        return self.read_edited()


@component
class PairFilter(ABC):
    """Base of the filters."""

    # What the closing message calls the pairs that it left out.
    complaint: ClassVar[str] = ""

    def weights_content(self) -> Mapping[str, str]:
        """A hash of the filter's weights for the run's fingerprint, by key; empty: it has none."""
        return {}

    def load(self) -> None:  # noqa: B027 - not all have something to load
        """Load what it needs, so that what is missing is told before any work.

        Raises:
            UsageError: something is missing.
        """

    @abstractmethod
    def check(self, pairs: Sequence[EditedPair], perception: Perception) -> list[Check | None]:
        """The measure of each pair against the least that is asked; None: nothing is asked."""


@component
class NoFilter(PairFilter):
    """Every pair that is verified and faithful is kept."""

    def check(self, pairs: Sequence[EditedPair], perception: Perception) -> list[Check | None]:  # noqa: ARG002
        return [None] * len(pairs)


@component
class ClipRatioFilter(PairFilter):
    """The paper's: similarity of the edited image with a text, over that of the original with it.

    0 stands for the ratio where the original itself has no similarity above 0 with the text: such
    a ratio would say nothing, and the pair is left out.
    """

    complaint: ClassVar[str] = "below the similarity ratio"

    model: str = Field(
        default="openai/clip-vit-large-patch14",
        description="CLIP, as a hub id or a local folder that `save_pretrained` wrote.",
    )
    revision: str = Field(default="", description="Commit or tag of the hub; empty: the newest.")
    least_ratio: float = Field(default=0.7, ge=0, description="Least ratio of a pair.")
    text: Literal["public", "target"] = Field(
        default="public",
        description="`public`: the public caption. `target`: the combined caption, else public "
        "caption and instruction.",
    )
    device: str = Field(default="cpu", description="Torch device: cpu, cuda, cuda:1.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Type of the weights."
    )

    @cached_property
    def _clip(self) -> ClipEmbedder:
        return ClipEmbedder(
            self.model, self.revision, self.device, self.dtype, section="pairs.filter"
        )

    def weights_content(self) -> Mapping[str, str]:
        from unsafe2safe.editors.base_weights import BaseWeights  # imports torch

        weights = BaseWeights.of(self.model, self.revision or None, key="pairs.filter.model")
        return {"pairs.filter.model": weights.content(), "pairs.filter.revision": ""}

    def load(self) -> None:
        self._clip.load()

    def check(self, pairs: Sequence[EditedPair], perception: Perception) -> list[Check | None]:  # noqa: ARG002
        images = [pair.original for pair in pairs] + [pair.edited for pair in pairs]
        found = self._clip.similarities(images, [self._text(pair.triplet) for pair in pairs])
        count = len(pairs)
        before, after = np.diag(found[:, :count]), np.diag(found[:, count:])
        return [
            self._checked(float(edited / original) if original > 0 else 0.0)
            for original, edited in zip(before, after, strict=True)
        ]

    def _text(self, triplet: Triplet) -> str:
        if self.text == "public":
            return triplet.public_caption
        joined = f"{triplet.public_caption.strip()} {triplet.edit_instruction.strip()}"
        return (triplet.combined_caption or "").strip() or joined.strip()

    def _checked(self, ratio: float) -> Check:
        return Check("clip_ratio", ratio, self.least_ratio, passed=ratio > self.least_ratio)


@component
class FeatureSimilarityFilter(PairFilter):
    """Not the paper's: cosine of image features of original and edit, by the embedded classifier.

    It needs no weights and reads no text. It tells an edit that lost what the picture shows from
    one that kept it; it cannot tell whether the edit still fits its caption.
    """

    complaint: ClassVar[str] = "below the feature similarity (not the paper's filter)"

    least_similarity: float = Field(
        default=0.5, ge=-1, le=1, description="Least cosine of the features of a pair."
    )

    def check(self, pairs: Sequence[EditedPair], perception: Perception) -> list[Check | None]:
        before = perception.features.features([pair.original for pair in pairs])
        after = perception.features.features([pair.edited for pair in pairs])
        lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        cosines = (before * after).sum(axis=1) / np.maximum(lengths, 1e-9)
        least = self.least_similarity
        return [
            Check("feature_similarity", float(value), least, passed=bool(value >= least))
            for value in cosines
        ]

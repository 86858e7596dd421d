"""Attribute inference: what of the originals' people a probe predicts from the edited image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from typing_extensions import override

from unsafe2safe.core.config.components import component, nearest
from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.attackers.attack import (
    Attacker,
    Floats,
    Integers,
    Sides,
    attacked,
    too_few,
)
from unsafe2safe.evaluation.attackers.crops import (
    MODEL,
    Crops,
    crop_arrays,
    identities,
    images_of,
    joined,
)
from unsafe2safe.evaluation.attackers.spaces import Space
from unsafe2safe.metrics.base import Arrays, PairSample
from unsafe2safe.vision.arrays import FloatArray
from unsafe2safe.vision.attribute_reader import PERSON_VALUES, person_targets

GENDER = "gender"
_ATTRIBUTES = (*PERSON_VALUES, GENDER)
_PLACES = {name: place for place, name in enumerate(_ATTRIBUTES)}
_FEWEST = 20  # persons with a value


@component
class AttributeInference(Attacker):
    """Demographic predictability: probes trained on edited images."""

    attributes: tuple[str, ...] = Field(
        default=_ATTRIBUTES,
        min_length=1,
        description="What is inferred: attributes of drawn persons; of photographs `gender` as a "
        "classifier guesses it from the original, only with `vision.gender=true`.",
    )
    crop: int = Field(default=32, ge=16, le=256, description="Side of crops in pixels.")
    folds: int = Field(default=5, ge=2, description="Parts of the images in cross-validation.")
    components: int = Field(
        default=24, ge=2, description="Principal components of features and of pixels."
    )

    unit = "value"
    model = f"{MODEL} and their pixels, logistic regression (scikit-learn)"
    title = "Attack: attributes inferred"
    definition = (
        "Accuracy of logistic regressions that predict the original's attributes from the edited "
        "crop, each image's by probes trained on the edits of other images, over all persons and "
        "attributes. The floor of chance comes from permuting the true values. An anonymizer that "
        "always changes a value can be above it too: it tells what the value was not, and of two "
        "values which it was. The details hold `before`, the accuracy on the originals "
        "themselves, and for each attribute its accuracy, floor and accuracy before."
    )

    @field_validator("attributes")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in _ATTRIBUTES:
                raise ValueError(f"{name!r} cannot be inferred{nearest(name, _ATTRIBUTES)}")
        return names

    @override
    @property
    def heading(self) -> str:
        if self.attributes == _ATTRIBUTES:
            return self.title
        return f"{self.title}: {', '.join(name.replace('_', ' ') for name in self.attributes)}"

    def expected(self, sample: PairSample) -> int:
        if sample.truth is not None:
            return identities(sample) if set(self.attributes) & set(PERSON_VALUES) else 0
        guessed = GENDER in self.attributes and sample.original.perception.settings.gender
        return identities(sample) if guessed else 0

    def arrays(self, samples: Sequence[PairSample]) -> list[Arrays]:
        return [
            {
                **crop_arrays(sample, self.crop, embedded=True),
                "original.attributes": _targets(sample),
            }
            for sample in samples
        ]

    @override
    def conclude(
        self, found: Sequence[Arrays], samples: int, rng: np.random.Generator
    ) -> MetricResult:
        name = f"original.crops_{self.crop}"
        found = self.chosen(found, [len(arrays[name]) for arrays in found], rng)
        images, values = images_of(found, name), joined(found, "original.attributes")
        sides = Sides.of(found, self.crop)
        hits: list[Floats] = []
        owners: list[Integers] = []
        chances: list[Floats] = []
        before: list[Floats] = []
        details: dict[str, float] = {}
        for attribute in self.attributes:
            truth = values[:, _PLACES[attribute]].astype(np.int64)
            known = truth >= 0
            if known.sum() < _FEWEST or len(np.unique(images[known])) < self.folds:
                continue
            told = self._told(sides.edited, sides.edited_features, truth, images)
            old = self._told(sides.original, sides.original_features, truth, images)
            right, chance = self._scored(told[known], truth[known], rng)
            hits.append(right)
            owners.append(images[known])
            chances.append(chance)
            before.append((old == truth)[known].astype(np.float64))
            details |= {
                attribute: float(right.mean()),
                f"{attribute}.before": float(before[-1].mean()),
                f"{attribute}.chance": float(chance.mean()),
                f"{attribute}.chance_high": float(np.quantile(chance, 0.95)),
            }
        if not hits:
            return too_few(len(images))
        sizes = np.array([len(right) for right in hits], np.float64)
        by_chance = sizes @ np.stack(chances) / sizes.sum()
        details["before"] = float(np.concatenate(before).mean())
        joint = np.concatenate(hits), np.concatenate(owners)
        result = attacked(*joint, by_chance, samples, rng, details)
        result.details["identities"] = float(len(images))
        return result

    def _told(
        self, crops: Crops, features: FloatArray, truth: Integers, images: Integers
    ) -> Integers:
        """(N,) the value that probes trained on other images give each person; -1 where none is
        told."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        told = np.full(len(truth), -1, np.int64)
        part = images % self.folds
        for fold in range(self.folds):
            train, test = (part != fold) & (truth >= 0), part == fold
            if not test.any() or train.sum() < 2:
                continue
            values, counts = np.unique(truth[train], return_counts=True)
            told[test] = values[counts.argmax()]
            space = Space(crops, features, train, self.components)
            seen = space.of(crops, features)
            if len(values) < 2 or not seen.shape[1]:
                continue  # nothing to tell apart: the commonest value
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                probe = LogisticRegression(max_iter=200).fit(seen[train], truth[train])
            told[test] = probe.predict(seen[test])
        return told

    def _scored(
        self, told: Integers, truth: Integers, rng: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """(N,) which are right, and (permutations,) shares that are under permuted truths."""
        chances = [np.mean(told == rng.permutation(truth)) for _ in range(self.permutations)]
        return (told == truth).astype(np.float64), np.array(chances)


def _targets(sample: PairSample) -> NDArray[np.int16]:
    """(K, 7) places of each person's values among those an attribute may have; -1: not shown."""
    targets = np.full((identities(sample), len(_ATTRIBUTES)), -1, np.int16)
    if sample.truth is not None:
        persons = sample.truth.redrawn.source.private.persons
        targets[:, : len(PERSON_VALUES)] = [person_targets(person) for person in persons]
    elif sample.original.perception.settings.gender:
        boxes = [face.box for face in sample.original.faces]
        guesses = sample.original.perception.gender.probabilities(sample.original.pixels, boxes)
        targets[:, _PLACES[GENDER]] = guesses.argmax(axis=1)
    return targets

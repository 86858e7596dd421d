"""Re-identification of persons: by an embedding as it is, and by one that learns from edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from unsafe2safe.core.config.components import component
from unsafe2safe.evaluation.attackers.attack import (
    Floats,
    Integers,
    Recognition,
    Sides,
    cosine,
    folds,
    rank_one,
)
from unsafe2safe.evaluation.attackers.crops import MODEL
from unsafe2safe.evaluation.attackers.spaces import Space, likelihood, ridge

_FEWEST = 8  # identities to learn from

_CROPS = (
    "Crops hold only pixels that belong to a person whatever the person looks like (of drawn "
    "scenes the inner head and half the chest at the place that the public part of the record "
    "gives; of photographs the ellipse in a detected face's box), for an anonymizer keeps "
    "background and layout on purpose and anyone would be recognised by them."
)


@component
class NaiveReidentification(Recognition):
    """The attacker who knows nothing of the anonymizer."""

    embedding: Literal["efficientnet_lite0", "pixels"] = Field(
        default="efficientnet_lite0",
        description="What crops are compared by: a network's features, or their pixels.",
    )

    model = MODEL
    title = "Attack: re-identified by crops"
    definition = (
        "How often the original crop most like an edited crop, among all persons of all originals "
        f"(cosine of embeddings), is that person's own; ties share the rank. {_CROPS}"
    )

    @override
    @property
    def heading(self) -> str:
        return f"{self.title}{' as pixels' if self.embedding == 'pixels' else ''}"

    @override
    def compared(self, sides: Sides, images: Integers) -> tuple[Floats | None, dict[str, float]]:
        return naive_similarities(sides)[int(self.embedding == "pixels")], {}


@component
class AdaptiveReidentification(Recognition):
    """The attacker who has edits of other people by the same anonymizer."""

    folds: int = Field(
        default=2, ge=2, description="Parts of the images: each is attacked after the others."
    )
    components: int = Field(
        default=24, ge=2, description="Principal components of features and of pixels."
    )

    model = f"{MODEL} and their pixels, whitened PCA and ridge regression (scikit-learn)"
    title = "Attack: re-identified after learning from edits"
    definition = (
        "As the naive attack, but the attacker has originals and edits of other people (by "
        "default of half of the images; each half is attacked after learning from the other), "
        "learns by ridge regression what an edited crop says of its original, and weighs what "
        "can be told by how well it can; where the naive attacks find more of the attacker's own "
        "people, it takes the better of these. The gallery holds all originals."
    )

    @override
    def compared(self, sides: Sides, images: Integers) -> tuple[Floats | None, dict[str, float]]:
        similarity = np.zeros((len(images), len(images)))
        naive = naive_similarities(sides)
        learned = 0
        for train, test in folds(images, self.folds):
            if not test.any():
                continue
            if train.sum() < _FEWEST:
                return None, {}
            ways = [self._learned(sides, train), *naive]
            best = self._best(sides, naive, train, images)
            learned += best == 0
            similarity[test] = ways[best][test]
        return similarity, {"folds_that_learned": float(learned)}

    def _best(
        self, sides: Sides, naive: Sequence[Floats], train: NDArray[np.bool_], images: Integers
    ) -> int:
        """Which way finds most of the attacker's own people: 0 what it learned of half of them and
        tried on the other half, else one of ``naive``."""
        # whole images on one side
        half = train & (np.searchsorted(np.unique(images[train]), images) % 2 == 0)
        tried = train & ~half
        if half.sum() < _FEWEST or not tried.any():
            return 0
        ways = [self._learned(sides, half), *naive]
        return int(np.argmax([rank_one(way)[1][tried].mean() for way in ways]))

    def _learned(self, sides: Sides, train: NDArray[np.bool_]) -> Floats:
        """(N, N) likelihoods of originals given edits, as far as ``train`` tells."""
        before = Space(sides.original, sides.original_features, train, self.components)
        after = Space(sides.edited, sides.edited_features, train, self.components)
        gallery = before.of(sides.original, sides.original_features)
        seen = after.of(sides.edited, sides.edited_features)
        if not seen.shape[1]:  # all edits are one: nothing tells them apart
            return np.zeros((len(seen), len(seen)))
        model, errors = ridge(seen[train], gallery[train])
        return likelihood(model.predict(seen), gallery, errors)


def naive_similarities(sides: Sides) -> list[Floats]:
    """(N, N) cosines of edited crops (rows) to original ones, by their features and pixels."""
    flat = [crops.reshape(len(crops), -1) / 127.5 for crops in (sides.edited, sides.original)]
    return [cosine(sides.edited_features, sides.original_features), cosine(flat[0], flat[1])]

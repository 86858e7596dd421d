"""Scenes with several private parts each, and edits from any of them to any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unsafe2safe.core.randomness import generator
from unsafe2safe.data.synthetic import Scene, World, draw_private, draw_scene, redraw, render
from unsafe2safe.data.synthetic.captions import instruction, public_caption
from unsafe2safe.editors.base import Pixels
from unsafe2safe.training.draws import SampleKey
from unsafe2safe.training.task import TrainingData

_VISIBLE = 8  # of 255: pixels that differ by less count as unchanged


@dataclass(frozen=True)
class VariantPair:
    """One visit: the edit from one variant of a scene to another, and its texts."""

    key: SampleKey
    scene: int
    source: int
    target: int
    public_caption: str
    edit_instruction: str


@dataclass(frozen=True, eq=False)
class VariantBatch:
    """A batch of edits; ``scenes``, ``sources`` and ``targets`` are (B,) int64."""

    keys: tuple[SampleKey, ...]
    scenes: Tensor
    sources: Tensor
    targets: Tensor
    public_captions: tuple[str, ...]
    edit_instructions: tuple[str, ...]

    @property
    def edits(self) -> list[tuple[int, int, int]]:
        """Scene, source and target of each."""
        columns = (self.scenes.tolist(), self.sources.tolist(), self.targets.tolist())
        return list(zip(*columns, strict=True))


@dataclass(frozen=True)
class VariantChoices:
    """How variants are drawn.

    Beside the scene itself there is one variant for each of ``shares``, with such a share of its
    private values redrawn. ``identity`` of the visits change nothing.
    """

    shares: tuple[float, ...]
    identity: float

    @property
    def count(self) -> int:
        """Variants of a scene, itself among them."""
        return 1 + len(self.shares)

    @property
    def unordered(self) -> list[tuple[int, int]]:
        """Every two variants (i, j), i < j."""
        return list(combinations(range(self.count), 2))


class VariantPairs(TrainingData[VariantPair, VariantBatch]):
    """Edits between variants of scenes; each visit to a scene draws another."""

    noun: ClassVar[str] = "scenes"

    def __init__(self, world: World, seed: int, size: int, side: int, choices: VariantChoices):
        """``size`` scenes, ``side`` pixels wide."""
        self.world, self._seed, self._size, self.side = world, seed, size, side
        self.choices = choices
        self._variants: dict[int, tuple[Scene, ...]] = {}

    def __len__(self) -> int:
        return self._size

    def variants(self, index: int) -> tuple[Scene, ...]:
        """The variants of a scene, the drawn scene first; kept once they are made."""
        if index not in self._variants:
            scene = draw_scene(self.world, self._seed, index)
            made = [scene]
            for number, share in enumerate(self.choices.shares, start=1):
                rng = generator(self._seed, f"scene-{index}", number, "variant")
                private = draw_private(scene, self.world, rng, share)
                made.append(redraw(scene, private).scene)
            self._variants[index] = tuple(made)
        return self._variants[index]

    def pictures(self, index: int) -> list[Pixels]:
        """The variants of a scene as (R, R, 3) uint8 RGB."""
        return [render(scene, self.side) for scene in self.variants(index)]

    def __getitem__(self, index_and_visit: tuple[int, int]) -> VariantPair:
        """The edit of a visit."""
        index, visit = index_and_visit
        key = SampleKey(f"scene-{index}", visit)
        rng = generator(self._seed, key.image_id, visit, "pair")
        choices = self.choices
        source = int(rng.integers(choices.count))
        target = (source + int(rng.integers(1, choices.count))) % choices.count
        if rng.random() < choices.identity:
            target = source
        scenes = self.variants(index)
        redrawn = redraw(scenes[source], scenes[target].private)
        return VariantPair(
            key,
            index,
            source,
            target,
            public_caption(scenes[source], self.world, rng),
            instruction(redrawn, self.world, rng),
        )

    def collate(self, items: Sequence[VariantPair]) -> VariantBatch:
        """Edits to one batch."""
        return VariantBatch(
            keys=tuple(item.key for item in items),
            scenes=torch.tensor([item.scene for item in items]),
            sources=torch.tensor([item.source for item in items]),
            targets=torch.tensor([item.target for item in items]),
            public_captions=tuple(item.public_caption for item in items),
            edit_instructions=tuple(item.edit_instruction for item in items),
        )


def changed_pixels(source: Pixels, target: Pixels) -> NDArray[np.bool_]:
    """(H, W) bool: where two pictures (H, W, 3) uint8 differ visibly."""
    changed: NDArray[np.bool_] = np.abs(source.astype(np.int16) - target).max(axis=2) > _VISIBLE
    return changed


def changed_cells(source: Pixels, target: Pixels, cells: int) -> Tensor:
    """(cells, cells) bool: the parts of the square in which any pixel differs visibly."""
    changed, size = changed_pixels(source, target), source.shape[0] // cells
    pooled = changed.reshape(cells, size, cells, size).any(axis=(1, 3))
    return torch.from_numpy(pooled)

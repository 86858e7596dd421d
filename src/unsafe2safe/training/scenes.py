"""Fresh scenes of the synthetic world, as many as a run asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.data.synthetic import World, draw_scene, private_mask, render
from unsafe2safe.editors.base import Pixels
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.training.draws import SampleKey
from unsafe2safe.training.task import TrainingData


@dataclass(frozen=True, eq=False)
class DrawnScene:
    """One scene: ``pixels`` (R, R, 3) uint8 RGB and ``private`` (R, R) bool."""

    key: SampleKey
    pixels: Pixels
    private: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """A batch of scenes: ``images`` (B, 3, R, R) float32 in [-1, 1], ``private`` (B, 1, R, R)
    float32, 1 where something private is drawn."""

    keys: tuple[SampleKey, ...]
    images: Tensor
    private: Tensor


def scene_seed(seed: int, split: str) -> int:
    """The seed of the scenes of a split, so that none is in two of them."""
    return torch_seed(seed, "", 0, f"{split} scenes")


class FreshScenes(TrainingData[DrawnScene, SceneBatch]):
    """``size`` scenes an epoch, others in each: scene ``visit * size + index``."""

    noun: ClassVar[str] = "scenes"

    def __init__(self, worlds: Sequence[World], seed: int, size: int, side: int) -> None:
        """Scenes ``side`` pixels wide, of each of ``worlds`` in turn."""
        self._worlds, self._seed, self._size, self._side = tuple(worlds), seed, size, side

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index_and_visit: tuple[int, int]) -> DrawnScene:
        """The scene of a visit, drawn and rendered."""
        index, visit = index_and_visit
        number = visit * self._size + index
        scene = draw_scene(self._worlds[number % len(self._worlds)], self._seed, number)
        key = SampleKey(f"scene-{index}", visit)
        return DrawnScene(key, render(scene, self._side), private_mask(scene, self._side))

    def collate(self, items: Sequence[DrawnScene]) -> SceneBatch:
        """Scenes to one batch."""
        private = torch.from_numpy(np.stack([item.private for item in items]))
        return SceneBatch(
            keys=tuple(item.key for item in items),
            images=to_model([item.pixels for item in items]),
            private=private.float().unsqueeze(1),
        )

    def first(self, count: int) -> SceneBatch:
        """The first ``count`` scenes as one batch."""
        return self.collate([self[index, 0] for index in range(count)])

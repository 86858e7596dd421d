"""What a validation edits: the same requests every time, and what is known of each picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.core.records import Box, Pair, Region
from unsafe2safe.data.synthetic import Scene, redraw, render, slot_mask
from unsafe2safe.editors.base import EditRequest, Mask
from unsafe2safe.metrics.base import SceneTruth
from unsafe2safe.stage1.detectors import regions_of
from unsafe2safe.stage1.oracle import findings_of
from unsafe2safe.training.pairs import PairDataset
from unsafe2safe.training.variants import VariantPairs
from unsafe2safe.vision.arrays import bounded, resized
from unsafe2safe.vision.regions import grow_region, mask_of

LONG_SIDE = 1024  # pixels; larger pictures are brought to it, or many of them would fill the memory


@dataclass(frozen=True, eq=False)
class ValidationSample:
    """A request with all that its edit is measured by; ``mask`` is (H, W) bool."""

    request: EditRequest
    mask: NDArray[np.bool_]
    truth: SceneTruth | None = None


class ValidationSamples(ABC):
    """A fixed list of samples, each made when it is asked for."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> ValidationSample: ...


class PairSamples(ValidationSamples):
    """Originals of pairs, in their own shape, with what was found sensitive in them."""

    def __init__(self, pairs: Sequence[Pair], data: PairDataset, seed: int) -> None:
        """``data`` reads the pairs; ``seed`` is the run's."""
        self._pairs, self._data, self._seed = tuple(pairs), data, seed

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> ValidationSample:
        pair = self._pairs[index]
        original = self._data.original(pair)
        image = bounded(original, LONG_SIDE)
        height, width = image.shape[:2]
        down, across = height / original.shape[0], width / original.shape[1]
        regions = tuple(
            replace(region, box=_scaled(region.box, across, down)) for region in pair.regions
        )
        mask = self._mask(pair, regions, height, width)
        request = EditRequest(
            image=image,
            mask=mask,
            regions=regions,
            public_caption=pair.public_caption,
            edit_instruction=pair.edit_instruction,
            seed=torch_seed(self._seed, pair.image_id, 0, "edit"),
            combined_caption=pair.combined_caption or "",
        )
        return ValidationSample(request, mask > 0)

    def _mask(self, pair: Pair, regions: Sequence[Region], height: int, width: int) -> Mask:
        drawn = self._data.drawn_mask(pair)
        if drawn is not None:
            return (resized(drawn, height, width) > 0).astype(np.float32)
        margin = self._data.margin
        return mask_of(
            (grow_region(r.category, r.box, margin, width, height) for r in regions), height, width
        )


def _scaled(box: Box, across: float, down: float) -> Box:
    return Box(box.x * across, box.y * down, box.width * across, box.height * down)


class SceneSamples(ValidationSamples):
    """Edits of scenes to a variant with every private value redrawn; all is known of them."""

    def __init__(self, scenes: VariantPairs, seed: int) -> None:
        self._scenes, self._seed = scenes, seed
        self._gallery: tuple[Scene, ...] | None = None

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> ValidationSample:
        item, side = self._scenes[index, 0], self._scenes.side
        source = self._source(index)
        redrawn = redraw(source, self._scenes.variants(index)[item.target].private)
        hidden = slot_mask(source, side)
        image_id = item.key.image_id
        request = EditRequest(
            image=render(source, side),
            mask=hidden.astype(np.float32),
            regions=regions_of(image_id, tuple(findings_of(source, side))),
            public_caption=item.public_caption,
            edit_instruction=item.edit_instruction,
            seed=torch_seed(self._seed, image_id, 0, "edit"),
        )
        if self._gallery is None:
            self._gallery = tuple(self._source(number) for number in range(len(self)))
        return ValidationSample(request, hidden, SceneTruth(redrawn, self._gallery))

    def _source(self, index: int) -> Scene:
        return self._scenes.variants(index)[self._scenes[index, 0].source]

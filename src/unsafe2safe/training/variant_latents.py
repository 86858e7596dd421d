"""Latents of all variants of all scenes, encoded once: what edits between them are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unsafe2safe.core.progress import Progress
from unsafe2safe.data.synthetic import slot_mask
from unsafe2safe.editors.base import Pixels
from unsafe2safe.editors.concealment import SourceView, concealed
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.training.variants import VariantBatch, VariantPairs, changed_cells

_ENCODED_AT_ONCE = 64  # pictures
_GREATEST_WEIGHT = 24.0  # of a single cell, or a changed dot would be all that a pair is about


class VariantLatents:
    """Unscaled modes of the latents of ``pairs``, in fp16, and the cells that each edit changes.

    With another ``view`` than ``full`` the sources are encoded apart, with the slots of what is
    private hidden as the editor will find them hidden.
    """

    def __init__(self, vae: Any, pairs: VariantPairs, view: SourceView = "full") -> None:
        """Encode all of them with ``vae``."""
        self._pairs = pairs
        count, twos = pairs.choices.count, pairs.choices.unordered
        self._place = {two: place for place, two in enumerate(twos)}
        shown, self._targets, self._changed = _encode(vae, pairs, count, twos, view)
        self._sources = self._targets if view == "full" else shown
        self._cells = self._targets.shape[-1]

    def sources(self, batch: VariantBatch) -> Tensor:
        """(B, C, h, w) float32: what the editor is shown."""
        return self._sources[batch.scenes, batch.sources].float()

    def targets(self, batch: VariantBatch) -> Tensor:
        """(B, C, h, w) float32: what it is to paint."""
        return self._targets[batch.scenes, batch.targets].float()

    def weights(
        self, batch: VariantBatch, changed_weight: float, small_region_weight: float
    ) -> Tensor:
        """(B, 1, h, w) float32; see :func:`place_weights`."""
        changed = torch.stack([self._cells_of(*edit) for edit in batch.edits])
        return place_weights(changed, changed_weight, small_region_weight).unsqueeze(1)

    def _cells_of(self, scene: int, source: int, target: int) -> Tensor:
        if source == target:
            return torch.zeros(self._cells, self._cells, dtype=torch.bool)
        return self._changed[scene, self._place[min(source, target), max(source, target)]]


def place_weights(changed: Tensor, changed_weight: float, small_region_weight: float) -> Tensor:
    """(B, h, w) float32 weights from (B, h, w) bool: 1 where nothing changes.

    A changed cell counts 1 + ``changed_weight``, or more where it takes more for all changed
    cells together to count ``small_region_weight`` times as much as the rest.
    """
    count = changed.flatten(1).sum(1).float()
    rest = changed[0].numel() - count
    needed = small_region_weight * rest / count.clamp(min=1)
    weight = needed.clamp(max=_GREATEST_WEIGHT).clamp(min=1 + changed_weight)
    return torch.where(changed, weight[:, None, None], torch.ones(()))


@torch.no_grad()
def _encode(
    vae: Any, pairs: VariantPairs, count: int, twos: list[tuple[int, int]], view: SourceView
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of what is shown and of what is to be painted, (N, V, C, h, w) fp16, and for every
    two variants of a scene the latent cells that differ, (N, V (V - 1) / 2, h, w) bool."""
    kept: Mapping[str, list[Tensor]] = {"shown": [], "painted": [], "changed": []}
    at_once = max(1, _ENCODED_AT_ONCE // count)
    with Progress("encoding scenes", len(pairs)) as progress:
        for begin in range(0, len(pairs), at_once):
            indices = range(begin, min(begin + at_once, len(pairs)))
            pictures = [pairs.pictures(index) for index in indices]
            painted = _modes(vae, pictures)
            kept["painted"].append(painted)
            if view != "full":
                hidden = [slot_mask(pairs.variants(i)[0], pairs.side) for i in indices]
                seen = [
                    [concealed(picture, mask, view) for picture in variants]
                    for variants, mask in zip(pictures, hidden, strict=True)
                ]
                kept["shown"].append(_modes(vae, seen))
            cells = painted.shape[-1]
            for variants in pictures:
                differ = [changed_cells(variants[i], variants[j], cells) for i, j in twos]
                kept["changed"].append(torch.stack(differ))
                progress.advance()
    shown = torch.cat(kept["shown"]) if kept["shown"] else torch.empty(0)
    return shown, torch.cat(kept["painted"]), torch.stack(kept["changed"])


def _modes(vae: Any, scenes: list[list[Pixels]]) -> Tensor:
    """(N, V, C, h, w) fp16 latents of N scenes with V pictures each."""
    flat = to_model([picture for variants in scenes for picture in variants])
    modes: Tensor = vae.encode(flat.to(vae.device, vae.dtype)).latent_dist.mode()
    return modes.half().cpu().view(len(scenes), -1, *modes.shape[1:])

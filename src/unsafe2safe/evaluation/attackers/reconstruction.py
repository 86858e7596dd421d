"""Reconstruction: a small network learns to undo the edit, and what it gives is recognised."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
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
from unsafe2safe.evaluation.attackers.crops import MODEL, Crops
from unsafe2safe.metrics.structure import psnr
from unsafe2safe.vision.features import ImageFeatures

_FEWEST = 8  # identities to learn from
_FOLDED = 4  # pixels a side that become channels: the network sees a whole crop in few layers
_RATE = 2e-3


class Restorer(nn.Module):
    """Edited crops to original ones, (N, 3, S, S) in [-1, 1]; S is a multiple of 4.

    It predicts what to add to the edited crop, so that an edit that changed nothing is already
    undone.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        folded = 3 * _FOLDED**2
        last = nn.Conv2d(width, folded, 3, padding=1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(_FOLDED),
            nn.Conv2d(folded, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            last,
            nn.PixelShuffle(_FOLDED),
        )

    def forward(self, edited: Tensor) -> Tensor:
        restored: Tensor = edited + self.layers(edited)
        return restored


@component
class Reconstruction(Recognition):
    """The attacker who learns to restore."""

    folds: int = Field(
        default=2, ge=2, description="Parts of the images: each is attacked after the others."
    )
    epochs: PositiveInt = Field(default=40, description="Passes of training over the crops.")
    width: PositiveInt = Field(default=64, description="Channels of the network.")
    batch_size: PositiveInt = Field(default=32, description="Crops of a step.")

    model = f"a network of four convolutions, trained here; {MODEL}"
    title = "Attack: re-identified after restoring"
    definition = (
        "A small convolutional network is trained on edits and originals of other people (as the "
        "adaptive attack has) to restore the original crop; the naive attack then looks for the "
        "restored crops. The details hold the naive attack's rate on the edits as they are, and "
        "by how many decibels restoring brings crops nearer to their originals."
    )

    @override
    def compared(self, sides: Sides, images: Integers) -> tuple[Floats | None, dict[str, float]]:
        restored = sides.edited.copy()
        for number, (train, test) in enumerate(folds(images, self.folds)):
            if not test.any():
                continue
            if train.sum() < _FEWEST:
                return None, {}
            network = self._trained(sides.edited[train], sides.original[train], number)
            restored[test] = restore(network, sides.edited[test])
        naive = rank_one(cosine(sides.edited_features, sides.original_features))[1]
        found = ImageFeatures().features(list(restored))
        gain = _psnr(restored, sides.original) - _psnr(sides.edited, sides.original)
        details = {"naive": float(naive.mean()), "psnr_gain": gain}
        return cosine(found, sides.original_features), details

    def _trained(self, edited: Crops, original: Crops, seed: int) -> Restorer:
        inputs, targets = to_tensor(edited), to_tensor(original)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Restorer(self.width)
            draws = torch.Generator().manual_seed(seed)
            optimizer = torch.optim.AdamW(network.parameters(), _RATE)
            steps = self.epochs * -(-len(inputs) // self.batch_size)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
            for _ in range(self.epochs):
                order = torch.randperm(len(inputs), generator=draws)
                for some in torch.split(order, self.batch_size):
                    loss = functional.l1_loss(network(inputs[some]), targets[some])
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    schedule.step()
        return network.eval()


def to_tensor(crops: Crops) -> Tensor:
    """(N, 3, S, S) in [-1, 1] of crops (N, S, S, 3) uint8; S is cut to a multiple of 4."""
    side = crops.shape[1] // _FOLDED * _FOLDED
    return torch.from_numpy(crops[:, :side, :side]).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def restore(network: Restorer, crops: Crops) -> Crops:
    """Crops (N, S, S, 3) as the network restores them."""
    side = crops.shape[1] // _FOLDED * _FOLDED
    images = (network(to_tensor(crops)) + 1) * 127.5
    pixels = images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    restored = crops.copy()
    restored[:, :side, :side] = pixels
    return restored


def _psnr(crops: Crops, originals: Crops) -> float:
    found = [psnr(one, other) for one, other in zip(crops, originals, strict=True)]
    return float(np.mean(found))

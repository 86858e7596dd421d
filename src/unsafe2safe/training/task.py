"""``Task``: all that training knows of what it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor, nn

from unsafe2safe.training.draws import SampleKey

Prepared = TypeVar("Prepared")
Draws = TypeVar("Draws")


@dataclass(frozen=True, eq=False)
class PairBatch:
    """A batch of pairs: ``source`` and ``target`` are (B, 3, R, R) float32 in [-1, 1]."""

    keys: tuple[SampleKey, ...]
    source: Tensor
    target: Tensor
    public_captions: tuple[str, ...]
    edit_instructions: tuple[str, ...]


class Task(Protocol[Prepared, Draws]):
    """A model with its loss. ``prepare`` does what is frozen, ``loss`` what is trained.

    ``loss`` depends on its arguments and the trainable weights only, so a batch gives the same
    losses whenever and wherever it is computed.
    """

    @property
    def network(self) -> nn.Module:
        """Holds every weight, trained and frozen; moved to the device as a whole."""

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """The trained weights by their name in ``network``, in a fixed order."""

    def prepare(self, batch: PairBatch) -> Prepared:
        """The frozen part: the same tensors for the same pair, so they can be cached."""

    def draw(self, keys: Sequence[SampleKey], prepared: Prepared) -> Draws:
        """All randomness of one step, from the samples' keys."""

    def loss(self, prepared: Prepared, draws: Draws) -> Tensor:
        """(B,) losses, differentiable in the trainable weights."""

    def export(self, folder: Path) -> None:
        """Write the trained weights into ``folder`` (which exists) and prove that they load.

        Raises:
            ExportError: what was written does not give back what was trained.
        """

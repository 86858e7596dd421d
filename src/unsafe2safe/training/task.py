"""``Task``: all that training knows of what it trains, and ``TrainingData``: what it trains on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import Tensor, nn
from torch.utils.data import Dataset

from unsafe2safe.training.draws import SampleKey


class KeyedBatch(Protocol):
    """Any batch: it knows whose visits it holds."""

    @property
    def keys(self) -> tuple[SampleKey, ...]:
        """One key per sample, in the batch's order."""


Item = TypeVar("Item")
Batch = TypeVar("Batch", bound=KeyedBatch)
Batch_contra = TypeVar("Batch_contra", bound=KeyedBatch, contravariant=True)
Prepared = TypeVar("Prepared")
Draws = TypeVar("Draws")


@dataclass(frozen=True, eq=False)
class PairBatch:
    """A batch of pairs: ``source`` and ``target`` are (B, 3, R, R) float32 in [-1, 1].

    ``mask`` is (B, 1, R, R) float32, 1 where something sensitive is and 0 elsewhere; None where
    nobody knows. ``combined_captions`` are None where a pair has none.
    """

    keys: tuple[SampleKey, ...]
    source: Tensor
    target: Tensor
    public_captions: tuple[str, ...]
    edit_instructions: tuple[str, ...]
    mask: Tensor | None = None
    combined_captions: tuple[str | None, ...] | None = None


@dataclass(frozen=True, eq=False)
class PreparedBatch:
    """A batch that is prepared already: ``prepared`` is what the task's ``prepare`` would give."""

    keys: tuple[SampleKey, ...]
    prepared: Any


class TrainingData(Dataset[Item], ABC, Generic[Item, Batch]):
    """Samples addressed by (index, visit), as :class:`ResumableBatchSampler` deals them.

    A sample depends on its index and visit only. ``noun`` names the samples in counts.
    """

    noun: ClassVar[str] = "samples"

    @property
    def buckets(self) -> Sequence[int] | None:
        """The bucket of each sample, where only those of one make a batch; None: any do."""
        return None

    @abstractmethod
    def __len__(self) -> int:
        """Samples of one epoch."""

    @abstractmethod
    def __getitem__(self, index_and_visit: tuple[int, int]) -> Item:
        """One visit to one sample."""

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> Batch:
        """Samples to one batch."""

    def drop_unusable(self, kept_at: Path) -> Mapping[str, str]:  # noqa: ARG002
        """Leave out what cannot be read; the reasons by id. ``kept_at`` keeps the verdict."""
        return {}


class Task(Protocol[Batch_contra, Prepared, Draws]):
    """A model with its loss. ``prepare`` does what is frozen, ``loss`` what is trained.

    ``loss`` depends on its arguments and the trainable weights only, so a batch gives the same
    losses whenever and wherever it is computed.
    """

    @property
    def network(self) -> nn.Module:
        """Holds every weight, trained and frozen; moved to the device as a whole."""

    @property
    def denoiser(self) -> nn.Module | None:
        """The diffusers model in ``network`` whose blocks can be shared out, recomputed and
        compiled; None where there is none."""

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """The trained weights by their name in ``network``, in a fixed order."""

    def prepare(self, batch: Batch_contra) -> Prepared:
        """The frozen part: the same tensors for the same sample, so they can be cached."""

    def draw(self, keys: Sequence[SampleKey], prepared: Prepared) -> Draws:
        """All randomness of one step, from the samples' keys."""

    def loss(self, prepared: Prepared, draws: Draws) -> Tensor:
        """(B,) losses, differentiable in the trainable weights."""

    def export(self, folder: Path) -> None:
        """Write the trained weights as ``folder``, whole or not at all, and prove that they load.

        Raises:
            ExportError: what was written does not give back what was trained.
        """

    def validate(self, folder: Path) -> Mapping[str, float]:
        """What the export in ``folder`` is worth on held-out samples, by name; may be empty."""

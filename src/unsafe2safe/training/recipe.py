"""A recipe: how one choice of ``task=...`` is opened from the configuration.

A recipe is a component: one file here and one YAML in ``configs/task``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.training.ranks import Ranks
from unsafe2safe.training.task import Task, TrainingData
from unsafe2safe.training.validation.choice import ValidationChoice
from unsafe2safe.training.validation.samples import ValidationSamples


class InputFinder(Protocol):
    """Finds the run folder that a key names, or the newest complete one, and says which."""

    def __call__(
        self,
        key: str,
        given: Path | None,
        script: str,
        how_to_make: str,
        also: tuple[str, ...] = (),
    ) -> Path:
        """The folder.

        Raises:
            UsageError: there is none, or it is not what ``script`` writes.
        """


@dataclass(frozen=True)
class Opened:
    """A task with the data it is trained on, and by id why some of it was left out."""

    task: Task[Any, Any, Any]
    data: TrainingData[Any, Any]
    failures: Mapping[str, str] = field(default_factory=dict)


@component
class Recipe(ABC):
    """Base of the tasks of train.py."""

    name: str = Field(description="Name of the task.")

    # The folder that the trained weights are exported to, in the run folder.
    exported_as: ClassVar[str]
    # Whether it trains an editor's denoiser, which can be shared out, recomputed and compiled.
    trains_editors: ClassVar[bool] = False
    # Sections of the configuration that have no part in the result.
    unused: ClassVar[tuple[str, ...]] = ()
    # What the run is of where no data set is read; None: of ``config.dataset``.
    stands_for: ClassVar[Mapping[str, str] | None] = None

    @abstractmethod
    def choice(self, config: Train) -> str:
        """What names the run folder beside the data set.

        Raises:
            UsageError: the choices do not fit each other.
        """

    def unused_in(self, config: Train) -> tuple[str, ...]:  # noqa: ARG002
        """As :attr:`unused`, with this configuration."""
        return self.unused

    def stands_for_in(self, config: Train) -> Mapping[str, str] | None:  # noqa: ARG002
        """As :attr:`stands_for`, with this configuration."""
        return self.stands_for

    def inputs(self, config: Train, find: InputFinder) -> Mapping[str, Path]:  # noqa: ARG002
        """Earlier results that this run reads, by the key that names them."""
        return {}

    def content(self, config: Train, inputs: Mapping[str, Path]) -> Mapping[str, str]:  # noqa: ARG002
        """Hashes of inputs that are no run folders, and of shipped weights: what they hold counts,
        not where they lie."""
        return {}

    @abstractmethod
    def data(self, config: Train, inputs: Mapping[str, Path]) -> TrainingData[Any, Any]:
        """What is trained on; quick to make, so that faults are told before anything is written.

        Raises:
            UsageError: there is nothing to train on.
        """

    def open(
        self,
        config: Train,
        inputs: Mapping[str, Path],
        data: TrainingData[Any, Any],
        ranks: Ranks,  # noqa: ARG002 - for recipes that share work between them
    ) -> Opened:
        """The model, and the data as it is trained on. Every one of ``ranks`` comes here.

        Raises:
            UsageError: a cache is asked for, and the task prepares nothing that can be kept.
        """
        if config.cache.mode == "on":
            raise UsageError(f"cache.mode=on: task={self.name} caches nothing")
        return Opened(self.task(config, inputs), data)

    def purge(self, config: Train) -> tuple[Path, int]:  # noqa: ARG002
        """Delete what is cached for such a training: the folder, and how many files it held.

        Raises:
            UsageError: the task caches nothing.
        """
        raise UsageError(f"mode=purge: task={self.name} caches nothing")

    @abstractmethod
    def task(self, config: Train, inputs: Mapping[str, Path]) -> Task[Any, Any, Any]:
        """The model to train, loaded or drawn.

        Raises:
            UsageError: it cannot be trained as configured.
        """

    def validation_choice(self, config: Train) -> ValidationChoice:  # noqa: ARG002
        """What validations measure, checked before anything is written or loaded.

        Raises:
            UsageError: the task edits no pictures, or the section names what is not there.
        """
        raise UsageError(f"validation.every: task={self.name} edits no pictures")

    def validation_samples(
        self,
        config: Train,  # noqa: ARG002
        inputs: Mapping[str, Path],  # noqa: ARG002
        data: TrainingData[Any, Any],  # noqa: ARG002
        verdicts: Path,  # noqa: ARG002
    ) -> ValidationSamples:
        """What is edited at each validation, held out of ``data``. Verdicts that must not change
        while the run goes on are kept in the folder ``verdicts``.

        Raises:
            UsageError: nothing would be left to train on.
        """
        raise UsageError(f"validation.every: task={self.name} edits no pictures")

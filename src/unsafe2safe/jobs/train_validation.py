"""From the ``validation`` section to what a training calls between its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.jobs.publishable import Publishable
from unsafe2safe.tracking.guard import Tracker
from unsafe2safe.training.ranks import Ranks
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.task import TrainingData
from unsafe2safe.training.validation.callback import ValidateAndKeep
from unsafe2safe.training.validation.choice import ValidationChoice
from unsafe2safe.training.validation.measure import Showing, Validator
from unsafe2safe.training.validation.samples import ValidationSamples

_SHOW_PICTURES = ("wandb", "tensorboard")
# What has no part in the result; all of it where nothing is validated.
NEVER_CHANGES_RESULT = ("validation.pictures",)


@dataclass(frozen=True)
class Validation:
    """What is validated on, held out of the training, and what is measured."""

    every: int
    choice: ValidationChoice
    samples: ValidationSamples

    def callback(
        self, config: Train, run: Path, checkpoints: Path, tracker: Tracker, ranks: Ranks
    ) -> ValidateAndKeep:
        """What :func:`fit` calls, on each of ``ranks``."""
        settings, threads = config.validation, config.engine.threads
        showing = None
        if config.logger.name in _SHOW_PICTURES and settings.pictures:
            judge = Publishable(config.vision, threads)
            showing = Showing(settings.pictures, judge, config.logger.log_private)
        validator = Validator(
            self.samples, self.choice, settings.batch_size, config.vision, threads, showing, ranks
        )
        return ValidateAndKeep(validator, self.every, run, checkpoints, tracker)


def validation_of(
    config: Train,
    recipe: Recipe,
    inputs: Mapping[str, Path],
    data: TrainingData[Any, Any],
    verdicts: Path,
) -> Validation | None:
    """What ``config.validation`` asks for, held out of ``data``; None where that is nothing."""
    every = config.validation.every
    if every is None:
        return None
    choice = recipe.validation_choice(config)
    samples = recipe.validation_samples(config, inputs, data, verdicts)
    return Validation(every, choice, samples)


def without_result(config: Train) -> tuple[str, ...]:
    """Keys of the section that do not change the result."""
    return NEVER_CHANGES_RESULT if config.validation.every is not None else ("validation",)

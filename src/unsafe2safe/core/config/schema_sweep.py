"""Typed configuration of ``train.py mode=sweep``. Imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from unsafe2safe.core.config.components import Strict


class Parameter(Strict):
    """One axis of a study: ``choices``, or a range from ``low`` to ``high``."""

    keys: tuple[str, ...] = Field(
        min_length=1, description="Keys of the configuration that are all set to its value."
    )
    choices: tuple[int | float | bool | str, ...] | None = Field(
        default=None, min_length=1, description="Its values; null: a range."
    )
    low: int | float | None = Field(default=None, description="Least value of a range.")
    high: int | float | None = Field(
        default=None, description="Greatest one; with two whole numbers, the range is of such."
    )
    log: bool = Field(default=False, description="Draw from the range by its logarithm.")
    step: int | float | None = Field(
        default=None, gt=0, description="Distance of a range's values; null: any."
    )

    @model_validator(mode="after")
    def _is_an_axis(self) -> Self:
        ranged = (self.low, self.high)
        if self.choices is not None:
            if ranged != (None, None) or self.log or self.step is not None:
                raise ValueError("give choices, or a range by low and high, not both")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("give choices, or low and a greater high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log=true wants low above 0 and no step")
        return self


class Sweep(Strict):
    """A study of two objectives, privacy and fidelity, both the higher the better."""

    name: str = Field(description="Name of the study, in its folder's name.")
    n_trials: PositiveInt = Field(
        description="Trials in all, beside the run of the defaults; the same command with more of "
        "them goes on."
    )
    sampler: Literal["tpe", "gp", "nsga2", "random"] = Field(
        description="Optuna's sampler: tree-structured Parzen estimator, Gaussian process, "
        "NSGA-II, or chance."
    )
    startup_trials: NonNegativeInt = Field(
        description="Trials drawn by chance before `tpe` or `gp` models anything."
    )
    parameters: dict[str, Parameter] = Field(
        min_length=1, description="The axes, by name: `keys`, and `choices` or `low`, `high`."
    )

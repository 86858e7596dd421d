"""Sections of the configuration that every script takes. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from unsafe2safe.core.config.components import Strict
from unsafe2safe.core.units import Shard

Component = dict[str, Any]


class Paths(Strict):
    data: Path = Field(description="Where data sets lie; `U2S_DATA` in the environment sets it.")
    runs: Path = Field(description="Where run folders are made.")
    private: Path = Field(
        description="Private captions, findings, quarantine; mode 0700, never inside a run folder."
    )


class Engine(Strict):
    unit_size: PositiveInt = Field(
        description="Images per work unit. Equal results are promised for equal unit sizes."
    )
    threads: NonNegativeInt = Field(
        description="Threads of each embedded model; 0 leaves the choice to its library."
    )


class ShardedEngine(Engine):
    shard: str | None = Field(
        description=(
            "`0/8`: work off the first of eight shares only, as one of eight array jobs on one "
            "`output_dir`; `mode=merge` completes the run. null: all of it."
        )
    )
    devices: PositiveInt = Field(
        description=(
            "Processes on this machine, each with its share; with CUDA, each with a GPU of its own."
        )
    )

    @field_validator("shard")
    @classmethod
    def _is_a_shard(cls, text: str | None) -> str | None:
        if text is not None:
            Shard.parse(text)
        return text


class Vision(Strict):
    face_threshold: float = Field(gt=0, lt=1, description="Least score of a face, Stage 1.")
    strict_face_threshold: float = Field(
        gt=0, lt=1, description="Least score of a face when an edited image is verified."
    )
    face_long_side: PositiveInt = Field(
        description="Images are brought to this long side before faces are searched, pixels."
    )
    text_threshold: float = Field(gt=0, lt=1, description="Least score of a line of text.")
    object_threshold: float = Field(gt=0, lt=1, description="Least score of an object.")
    gender: bool = Field(description="Infer gender of faces. Off unless you have a lawful reason.")


class Logger(Strict):
    name: Literal["none", "csv", "wandb", "tensorboard"] = Field(
        description=(
            "Where metrics of a run are logged: nowhere, `metrics.csv` in the run folder, or that "
            "and W&B or TensorBoard."
        )
    )
    project: str = Field(description="Project name, for trackers that have projects.")
    online: bool = Field(description="Send to the tracker's server; false keeps all on this disk.")
    log_private: bool = Field(
        description="Let originals and private captions through the privacy guard."
    )


class Common(Strict):
    """What every script takes."""

    seed: NonNegativeInt = Field(description="Seed of everything random.")
    output_dir: Path | None = Field(
        description="Run folder; null derives it from the configuration, under `paths.runs`."
    )
    existing: Literal["resume", "refuse", "overwrite"] = Field(
        description="What to do with a run folder that exists."
    )
    mode: Literal["run"] = Field(description="What the script does.")
    paths: Paths
    dataset: Component
    engine: Engine
    vision: Vision
    logger: Logger

"""``task=editor``: an editor learns from pairs of an original and its anonymized picture."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from unsafe2safe.core.config.components import build, component
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.data.source import ImageSource
from unsafe2safe.editors.base import Editor
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.instruct_pix2pix import InstructPix2PixEditor
from unsafe2safe.editors.token_editor import TokenEditor
from unsafe2safe.objectives.base import ObjectiveSettings
from unsafe2safe.training.cache.opening import PairCache, is_wanted, purge
from unsafe2safe.training.editor_task import FineTuningTask, InstructPix2PixTask, TaskOptions
from unsafe2safe.training.pairs import PairDataset, check_captions, read_pairs
from unsafe2safe.training.ranks import Ranks
from unsafe2safe.training.recipe import InputFinder, Opened, Recipe
from unsafe2safe.training.scale import training_device
from unsafe2safe.training.task import PairBatch, TrainingData
from unsafe2safe.training.token_task import TokenEditTask

# The task of each conditioning family; an editor finds it by its class.
_TASKS: Mapping[type[Any], type[FineTuningTask[PairBatch, Any]]] = {
    InstructPix2PixEditor: InstructPix2PixTask,
    TokenEditor: TokenEditTask,
}


@component
class EditorRecipe(Recipe):
    """Fine-tunes ``editor`` on ``pairs``."""

    mask_margin: float = Field(
        default=0.3,
        ge=0,
        le=2,
        description="Masks of the pairs are grown by this share of each region's size; as "
        "`margin` of anonymize.py.",
    )

    exported_as: ClassVar[str] = "adapter"
    trains_editors: ClassVar[bool] = True

    def choice(self, config: Train) -> str:
        editor = trainable_editor(config)
        return f"{editor.name}-{editor.trainable}"

    def inputs(self, config: Train, find: InputFinder) -> Mapping[str, Path]:
        how = "python anonymize.py write_pairs=true"
        imported = ("generate_triplets",)
        return {"pairs": find("pairs", config.pairs, "anonymize", how, imported)}

    def content(self, config: Train, inputs: Mapping[str, Path]) -> Mapping[str, str]:  # noqa: ARG002
        return trainable_editor(config).weights_content()

    def data(self, config: Train, inputs: Mapping[str, Path]) -> PairDataset:
        folder = inputs["pairs"]
        pairs = read_pairs(folder)
        check_captions(pairs, trainable_editor(config))
        if config.mode == "run" and (cache := _cache(config)) is not None:
            cache.check()
        source = build(config.dataset, "dataset", ImageSource)  # type: ignore[type-abstract]
        source.records()  # a missing or empty data set is told before anything is written
        resolution = trainable_editor(config).resolution
        return PairDataset(pairs, folder, source, resolution, self.mask_margin)

    def task(self, config: Train, inputs: Mapping[str, Path]) -> FineTuningTask[PairBatch, Any]:  # noqa: ARG002
        return _task(config, TaskOptions())

    def open(
        self,
        config: Train,
        inputs: Mapping[str, Path],
        data: TrainingData[Any, Any],
        ranks: Ranks,
    ) -> Opened:
        editor, cache = trainable_editor(config), _cache(config)
        if cache is None or not isinstance(data, PairDataset):
            return Opened(self.task(config, inputs), data)
        if not is_wanted(config, editor, len(data)):
            return Opened(self.task(config, inputs), data)
        task, cached, failures = cache.open(
            editor,
            data,
            partial(_task, config),
            TaskOptions(),
            config.engine.unit_size,
            training_device(config.trainer, ranks),
            ranks,
        )
        return Opened(task, cached, failures)

    def purge(self, config: Train) -> tuple[Path, int]:
        folder = config.cache.folder or _cache_of(config).folder
        return folder, purge(folder)


def _task(config: Train, options: TaskOptions) -> FineTuningTask[PairBatch, Any]:
    objective = build(config.objective, "objective", ObjectiveSettings)  # type: ignore[type-abstract]
    editor = trainable_editor(config)
    return task_of(editor)(editor, objective, config.seed, options)


def _cache(config: Train) -> PairCache | None:
    """The cache of a training; None where there certainly is none.

    Raises:
        UsageError: its folder would be public, or encoders are needed at every step.
    """
    mode, editor = config.cache.mode, trainable_editor(config)
    anew = editor.encoded_anew()
    if mode == "on" and anew is not None:
        raise UsageError(f"cache.mode=on: {anew}; use cache.mode=off")
    if mode == "off" or (mode == "auto" and (anew is not None or not editor.slow_encoders)):
        return None
    return _cache_of(config)


def _cache_of(config: Train) -> PairCache:
    editor = trainable_editor(config)
    return PairCache.of(config, editor, task_of(editor), str(config.dataset["name"]))


def task_of(editor: TrainableEditor) -> type[FineTuningTask[PairBatch, Any]]:
    """How editors of that family are trained on pairs.

    Raises:
        UsageError: we cannot train it.
    """
    for family in type(editor).__mro__:
        if family in _TASKS:
            return _TASKS[family]
    raise UsageError(f"editor={editor.name} is of no family that train.py can train")


def trainable_editor(config: Train) -> TrainableEditor:
    """The editor that ``config`` names.

    Raises:
        UsageError: we cannot train it, or it carries an adapter already.
    """
    editor = build(config.editor, "editor", Editor)  # type: ignore[type-abstract]
    if not isinstance(editor, TrainableEditor):
        raise UsageError(f"editor={editor.name} has no weights that train.py can train")
    if editor.adapter is not None:
        raise UsageError("editor.adapter: train.py begins from the base, without an adapter")
    return editor

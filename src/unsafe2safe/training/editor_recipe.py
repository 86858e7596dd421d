"""``task=editor``: an editor learns from pairs of an original and its anonymized picture."""

from __future__ import annotations

from collections.abc import Mapping
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
from unsafe2safe.training.editor_task import FineTuningTask, InstructPix2PixTask
from unsafe2safe.training.pairs import PairDataset, check_captions, read_pairs
from unsafe2safe.training.recipe import InputFinder, Recipe
from unsafe2safe.training.task import PairBatch
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
        source = build(config.dataset, "dataset", ImageSource)  # type: ignore[type-abstract]
        source.records()  # a missing or empty data set is told before anything is written
        resolution = trainable_editor(config).resolution
        return PairDataset(pairs, folder, source, resolution, self.mask_margin)

    def task(self, config: Train, inputs: Mapping[str, Path]) -> FineTuningTask[PairBatch, Any]:  # noqa: ARG002
        objective = build(config.objective, "objective", ObjectiveSettings)  # type: ignore[type-abstract]
        editor = trainable_editor(config)
        return task_of(editor)(editor, objective, config.seed)


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

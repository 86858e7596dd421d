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
from unsafe2safe.core.pseudonyms import true_names
from unsafe2safe.data.source import ImageSource
from unsafe2safe.editors.base import Editor
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.instruct_pix2pix import InstructPix2PixEditor
from unsafe2safe.editors.token_editor import TokenEditor
from unsafe2safe.objectives.base import ObjectiveSettings
from unsafe2safe.training.buckets import bucket_sizes
from unsafe2safe.training.cache.opening import PairCache, is_wanted, purge
from unsafe2safe.training.editor_task import FineTuningTask, InstructPix2PixTask, TaskOptions
from unsafe2safe.training.pair_folder import FolderPairs, folder_digest, is_pair_folder
from unsafe2safe.training.pairs import PairDataset, check_captions, read_pairs
from unsafe2safe.training.ranks import Ranks
from unsafe2safe.training.recipe import InputFinder, Opened, Recipe
from unsafe2safe.training.scale import training_device
from unsafe2safe.training.task import PairBatch, TrainingData
from unsafe2safe.training.token_task import TokenEditTask
from unsafe2safe.training.validation.choice import PICTURES, ValidationChoice, choose
from unsafe2safe.training.validation.samples import PairSamples
from unsafe2safe.training.validation.split import hold_out, hold_out_equals
from unsafe2safe.training.views import Views

_VALIDATED_ON = "validation.pairs"
_HELD_OUT = "held_out.json"

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
    mask_weight: float = Field(
        default=0.0,
        ge=0,
        description="A place's error counts so many times more under the mask than elsewhere.",
    )
    flip: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of visits that show a pair mirrored; pairs whose texts name a side, or "
        "in which writing was found, never are.",
    )
    crop: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Visits show a random crop that keeps this share of both sides at least, and "
        "all that is masked; 1: the whole picture.",
    )
    crops: int | None = Field(
        default=None,
        ge=1,
        description="Different crops of each pair, as a cache needs it; null: another at each "
        "visit.",
    )
    buckets: bool = Field(
        default=False,
        description="Train at about the picture's aspect ratio, with the square's area; editors "
        "edit squares all the same.",
    )

    exported_as: ClassVar[str] = "adapter"
    trains_editors: ClassVar[bool] = True

    def choice(self, config: Train) -> str:
        editor = trainable_editor(config)
        if config.cache.mode == "on" and not self._views(config).countable:
            raise UsageError(
                f"task.crop={self.crop} shows another crop at each visit, and cache.mode=on can "
                "keep a fixed number of them: give task.crops=4, or cache.mode=off"
            )
        return f"{editor.name}-{editor.trainable}"

    def unused_in(self, config: Train) -> tuple[str, ...]:
        return ("dataset", "pairs") if is_pair_folder(config.pairs) else ()

    def stands_for_in(self, config: Train) -> Mapping[str, str] | None:
        return {"name": _data_set(config)} if is_pair_folder(config.pairs) else None

    def inputs(self, config: Train, find: InputFinder) -> Mapping[str, Path]:
        how = "python anonymize.py write_pairs=true"
        imported = ("generate_triplets",)
        found = {}
        if not is_pair_folder(config.pairs):
            found["pairs"] = find("pairs", config.pairs, "anonymize", how, imported)
        given = config.validation.pairs
        if config.validation.every is not None and given is not None:
            found[_VALIDATED_ON] = find(_VALIDATED_ON, given, "anonymize", how, imported)
        return found

    def content(self, config: Train, inputs: Mapping[str, Path]) -> Mapping[str, str]:
        content = dict(trainable_editor(config).weights_content())
        if "pairs" not in inputs and config.pairs is not None:
            content["pairs"] = folder_digest(config.pairs)
        return content

    def data(self, config: Train, inputs: Mapping[str, Path]) -> PairDataset:
        editor = trainable_editor(config)
        own = config.pairs if "pairs" not in inputs else None
        data = self._read(config, inputs.get("pairs"), own)
        needs = "editor.source" if editor.hides_source else "task.mask_weight"
        if not data.has_masks and (editor.hides_source or self.mask_weight):
            raise UsageError(f"{needs} needs masks: pairs={config.pairs} has no column of them")
        if config.mode == "run":
            if (cache := _cache(config)) is not None:
                cache.check()
            editor.check_targets()
        return data

    def _read(self, config: Train, folder: Path | None, own: Path | None = None) -> PairDataset:
        """The pairs of a run folder, or those of a user's ``own``."""
        editor = trainable_editor(config)
        side_step = editor.side_step if self.buckets else None
        views, resolution = self._views(config), editor.resolution
        if folder is None:
            assert own is not None
            library = config.paths.private / "datasets"
            data: PairDataset = FolderPairs(
                own, library, resolution, self.mask_margin, views, side_step
            )
            check_captions(data.pairs, editor)
            return data
        source = build(config.dataset, "dataset", ImageSource)  # type: ignore[type-abstract]
        names = [record.image_id for record in source.records()]  # a missing data set is told now
        pairs = read_pairs(folder, true_names(config.paths.private, names))
        check_captions(pairs, editor)
        sizes = bucket_sizes(resolution, side_step) if side_step else None
        return PairDataset(pairs, folder, source, resolution, self.mask_margin, views, sizes)

    def _views(self, config: Train) -> Views:
        return Views(config.seed, self.flip, self.crop, self.crops)

    def task(self, config: Train, inputs: Mapping[str, Path]) -> FineTuningTask[PairBatch, Any]:  # noqa: ARG002
        return _task(config, TaskOptions(mask_weight=self.mask_weight))

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
        countable = data.how_shown.countable  # else refused, unless a cache was up to us
        if not (countable and is_wanted(config, editor, len(data))):
            return Opened(self.task(config, inputs), data)
        task, cached, failures = cache.open(
            editor,
            data,
            partial(_task, config),
            TaskOptions(mask_weight=self.mask_weight),
            config.engine.unit_size,
            training_device(config.trainer, ranks),
            ranks,
        )
        return Opened(task, cached, failures)

    def purge(self, config: Train) -> tuple[Path, int]:
        folder = config.cache.folder or _cache_of(config).folder
        return folder, purge(folder)

    def validation_choice(self, config: Train) -> ValidationChoice:
        return choose(config.validation, PICTURES, trainable_editor(config))

    def validation_samples(
        self,
        config: Train,
        inputs: Mapping[str, Path],
        data: TrainingData[Any, Any],
        verdicts: Path,
    ) -> PairSamples:
        assert isinstance(data, PairDataset)
        reader, settings = data, config.validation
        if _VALIDATED_ON in inputs:
            reader = self._read(config, inputs[_VALIDATED_ON])
            reader.drop_unusable(verdicts / "validation_unusable.json")
            pairs = hold_out_equals(data, reader, verdicts / _HELD_OUT)
        else:
            pairs = hold_out(data, settings.share, verdicts / _HELD_OUT)
        return PairSamples(pairs[: settings.samples], reader, config.seed)


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
    return PairCache.of(config, editor, task_of(editor), _data_set(config))


def _data_set(config: Train) -> str:
    """What names the data in folders."""
    own = config.pairs if is_pair_folder(config.pairs) else None
    return str(config.dataset["name"]) if own is None else own.resolve().name


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

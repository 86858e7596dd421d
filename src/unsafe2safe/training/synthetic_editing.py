"""``task=synthetic_editing``: an editor is fine-tuned on edits of synthetic scenes; no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from unsafe2safe.core.config.components import build, component
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.data.synthetic.attributes import UNITS
from unsafe2safe.data.synthetic.canvas import check_side
from unsafe2safe.editors.instruct_pix2pix import InstructPix2PixEditor
from unsafe2safe.objectives.base import ObjectiveSettings
from unsafe2safe.training.editor_recipe import trainable_editor
from unsafe2safe.training.editor_task import EditorTask, PreparedEdits
from unsafe2safe.training.task import TrainingData
from unsafe2safe.training.truth_check import truth_figures
from unsafe2safe.training.validation.choice import SCENES, ValidationChoice, choose
from unsafe2safe.training.validation.samples import SceneSamples
from unsafe2safe.training.variant_latents import VariantLatents
from unsafe2safe.training.variant_recipe import VariantRecipe
from unsafe2safe.training.variants import VariantBatch, VariantPairs


@component
class SyntheticEditing(VariantRecipe):
    """Fine-tunes ``editor`` on edits between variants of the scenes of a synthetic world."""

    exported_as: ClassVar[str] = "adapter"
    trains_editors: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = ("dataset", "vision", "pairs")
    stands_for: ClassVar[Mapping[str, str] | None] = {
        "name": "synthetic",
        "task": "synthetic_editing",
    }

    def choice(self, config: Train) -> str:
        editor = _editor(config)
        if editor.captions == "combined":
            raise UsageError("editor.captions=combined: edits of scenes have no combined caption")
        editor.check_targets()
        return f"{editor.name}-{editor.trainable}-{self.world}"

    def content(self, config: Train, inputs: Mapping[str, Path]) -> Mapping[str, str]:  # noqa: ARG002
        return trainable_editor(config).weights_content()

    def data(self, config: Train, inputs: Mapping[str, Path]) -> VariantPairs:  # noqa: ARG002
        return self._pairs(config, "fine-tuning", self.scenes)

    def _pairs(self, config: Train, split: str, size: int) -> VariantPairs:
        side = trainable_editor(config).resolution
        try:
            check_side(side)
        except UsageError:
            raise UsageError(
                f"editor.resolution={side}: scenes are drawn at multiples of {UNITS} pixels"
            ) from None
        return self.pairs_of(config.seed, split, size, side)

    def task(self, config: Train, inputs: Mapping[str, Path]) -> EditorTask[VariantBatch]:
        objective = build(config.objective, "objective", ObjectiveSettings)  # type: ignore[type-abstract]
        return SyntheticEditTask(
            _editor(config),
            objective,
            config.seed,
            self,
            training=self.data(config, inputs),
            held_out=self._pairs(config, "held-out", self.held_out),
        )

    def validation_choice(self, config: Train) -> ValidationChoice:
        return choose(config.validation, SCENES, _editor(config))

    def validation_samples(
        self,
        config: Train,
        inputs: Mapping[str, Path],  # noqa: ARG002
        data: TrainingData[Any, Any],  # noqa: ARG002
        verdicts: Path,  # noqa: ARG002
    ) -> SceneSamples:
        return self.validation_scenes(config, trainable_editor(config).resolution)


def _editor(config: Train) -> InstructPix2PixEditor:
    editor = trainable_editor(config)
    if not isinstance(editor, InstructPix2PixEditor):
        raise UsageError(
            f"task=synthetic_editing trains editors of the InstructPix2Pix family, and "
            f"editor={editor.name} is of another; task=editor trains it on pairs"
        )
    return editor


class SyntheticEditTask(EditorTask[VariantBatch]):
    """Fine-tuning on variants of scenes whose latents are encoded once, before the first step."""

    def __init__(
        self,
        editor: InstructPix2PixEditor,
        objective: ObjectiveSettings,
        seed: int,
        recipe: SyntheticEditing,
        *,
        training: VariantPairs,
        held_out: VariantPairs,
    ) -> None:
        """Load the base and encode every variant of ``training``."""
        super().__init__(editor, objective, seed)
        self._recipe, self.data, self.held_out = recipe, training, held_out
        self._latents = VariantLatents(self.pipeline.vae, training, editor.source)

    def prepare(self, batch: VariantBatch) -> PreparedEdits:
        """Look up latents and changed cells; embed the texts."""
        device, recipe = self.pipeline.unet.device, self._recipe
        target = self._latents.targets(batch).to(device)
        weight = self._latents.weights(batch, recipe.changed_weight, recipe.small_region_weight)
        return PreparedEdits(
            target_mean=target,
            target_deviation=torch.zeros_like(target),  # modes, as the base was trained on
            source=self._latents.sources(batch).to(device),
            text=self.embedded(batch.public_captions, batch.edit_instructions),
            weight=weight.to(device),
        )

    def validate(self, folder: Path) -> Mapping[str, float]:
        """Edit held-out scenes with the exported adapter; see :func:`truth_figures`."""
        return truth_figures(replace(self.editor, adapter=folder), self.held_out, self.seed)

"""``task=tiny_base``: the tiny editor's UNet and text encoder, from nothing, on synthetic edits."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from unsafe2safe.core.config.components import build, component
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import dataset_key, newest_complete
from unsafe2safe.editors.tiny import TinyEditor, packaged_weights, weights_digest
from unsafe2safe.editors.tiny_model import SIDE
from unsafe2safe.objectives.base import ObjectiveSettings
from unsafe2safe.training.recipe import InputFinder
from unsafe2safe.training.task import TrainingData
from unsafe2safe.training.tiny_autoencoder import TinyAutoencoder
from unsafe2safe.training.tiny_base_task import TinyBaseTask
from unsafe2safe.training.validation.choice import SCENES, ValidationChoice, choose
from unsafe2safe.training.validation.samples import SceneSamples
from unsafe2safe.training.variant_recipe import VariantRecipe
from unsafe2safe.training.variants import VariantPairs

_KEY = "task.autoencoder"
_HASHED = ("config.json", "diffusion_pytorch_model.safetensors")


@component
class TinyBase(VariantRecipe):
    """UNet and text encoder learn, together, to redraw the private part of scenes by a text."""

    autoencoder: Path | None = Field(
        default=None,
        description="Run folder of `task=tiny_autoencoder`, or a folder with an AutoencoderKL; "
        "null takes that of `begin_from`, else the newest complete run's, else the packaged one.",
    )
    begin_from: Path | None = Field(
        default=None,
        description="Run folder of `task=tiny_base`, or a folder with a tiny pipeline, whose UNet "
        "and text encoder go on learning; null: they begin from random weights.",
    )
    scenes: int = Field(default=8000, ge=1, description="Scenes; each visit draws another edit.")
    captioned: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Share of visits with the public caption before the instruction.",
    )
    padded: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Share of batches whose texts are padded in full, as the pipeline pads them; "
        "the others' only to their longest, with which words are learned sooner.",
    )
    head_weight: float = Field(
        default=1.0,
        ge=1,
        description="What changes in a head counts so many times as much as other changes: heads "
        "are small, and without it skin, glasses and hair styles are learned last.",
    )

    exported_as: ClassVar[str] = "pipeline"
    unused: ClassVar[tuple[str, ...]] = ("dataset", "vision", "editor", "pairs")
    stands_for: ClassVar[Mapping[str, str] | None] = {"name": "synthetic", "task": "tiny_base"}

    def choice(self, config: Train) -> str:  # noqa: ARG002
        return self.name

    def inputs(self, config: Train, find: InputFinder) -> Mapping[str, Path]:  # noqa: ARG002
        return {_KEY: self._find_autoencoder(config.paths.runs)}

    def content(self, config: Train, inputs: Mapping[str, Path]) -> Mapping[str, str]:  # noqa: ARG002
        digest = blake2b(digest_size=8)
        for name in _HASHED:
            digest.update((inputs[_KEY] / name).read_bytes())
        found = {_KEY: digest.hexdigest()}
        if (begin := self._begin_folder()) is not None:
            found["task.begin_from"] = weights_digest(begin)
        return found

    def data(self, config: Train, inputs: Mapping[str, Path]) -> VariantPairs:  # noqa: ARG002
        return self.pairs_of(config.seed, "training", self.scenes, SIDE)

    def task(self, config: Train, inputs: Mapping[str, Path]) -> TinyBaseTask:
        settings = build(config.objective, "objective", ObjectiveSettings)  # type: ignore[type-abstract]
        objective = settings.for_base("v_prediction", "the tiny base")
        return TinyBaseTask(
            objective,
            config.seed,
            inputs[_KEY],
            self._begin_folder(),
            training=self.pairs_of(config.seed, "training", self.scenes, SIDE),
            held_out=self.pairs_of(config.seed, "held-out", self.held_out, SIDE),
            captioned=self.captioned,
            padded=self.padded,
            head_weight=self.head_weight,
            changed_weight=self.changed_weight,
            small_region_weight=self.small_region_weight,
        )

    def validation_choice(self, config: Train) -> ValidationChoice:
        return choose(config.validation, SCENES, TinyEditor(name="tiny"))

    def validation_samples(
        self,
        config: Train,
        inputs: Mapping[str, Path],  # noqa: ARG002
        data: TrainingData[Any, Any],  # noqa: ARG002
        verdicts: Path,  # noqa: ARG002
    ) -> SceneSamples:
        return self.validation_scenes(config, SIDE)

    def _begin_folder(self) -> Path | None:
        if self.begin_from is None:
            return None
        for folder in (self.begin_from / self.exported_as, self.begin_from):
            if (folder / "model_index.json").is_file():
                return folder
        raise UsageError(f"task.begin_from={self.begin_from} holds no pipeline of the tiny editor")

    def _find_autoencoder(self, runs: Path) -> Path:
        found = self.autoencoder or self._begin_folder()
        if found is None:
            key = dataset_key(TinyAutoencoder.stands_for or {})
            found = newest_complete(runs, "train", key) or packaged_weights()
        for folder in (found / "vae", found):
            if all((folder / name).is_file() for name in _HASHED):
                return folder
        if self.autoencoder is None:
            raise UsageError(
                f"{_KEY} is not given and no complete run of task=tiny_autoencoder lies in {runs}; "
                "run `python train.py experiment=tiny_autoencoder` first"
            )
        raise UsageError(f"{_KEY}={found} holds no autoencoder ({' and '.join(_HASHED)})")

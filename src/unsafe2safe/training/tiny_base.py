"""``task=tiny_base``: the tiny editor's UNet and text encoder, from nothing, on synthetic edits."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from unsafe2safe.core.config.components import build, component
from unsafe2safe.core.config.schema import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import dataset_key, newest_complete
from unsafe2safe.data.synthetic.source import world_named
from unsafe2safe.editors.tiny import packaged_weights
from unsafe2safe.editors.tiny_model import SIDE
from unsafe2safe.objectives.base import ObjectiveSettings
from unsafe2safe.training.recipe import InputFinder, Recipe
from unsafe2safe.training.scenes import scene_seed
from unsafe2safe.training.tiny_autoencoder import TinyAutoencoder
from unsafe2safe.training.tiny_base_task import TinyBaseTask
from unsafe2safe.training.variants import VariantChoices, VariantPairs

_KEY = "task.autoencoder"
_HASHED = ("config.json", "diffusion_pytorch_model.safetensors")


@component
class TinyBase(Recipe):
    """UNet and text encoder learn, together, to redraw the private part of scenes by a text."""

    autoencoder: Path | None = Field(
        default=None,
        description="Run folder of `task=tiny_autoencoder`, or a folder with an AutoencoderKL; "
        "null takes the newest complete run, else the packaged weights.",
    )
    world: str = Field(default="base", description="Synthetic world of the scenes.")
    scenes: int = Field(default=8000, ge=1, description="Scenes; each visit draws another edit.")
    shares: tuple[float, ...] = Field(
        default=(1.0, 0.5, 0.3),
        min_length=1,
        description="One more variant of each scene per value, with such a share of its private "
        "values redrawn.",
    )
    identity: float = Field(
        default=0.03, ge=0, le=1, description="Share of visits that change nothing, and say so."
    )
    captioned: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Share of visits with the public caption before the instruction.",
    )
    changed_weight: float = Field(
        default=2.0,
        ge=0,
        description="A changed place's error counts so many times more than another's.",
    )
    small_region_weight: float = Field(
        default=1.0,
        ge=0,
        description="What changes in a pair counts together at least so many times what stays; "
        "0: no such bound.",
    )
    held_out: int = Field(
        default=64,
        ge=1,
        description="Edits, of scenes not trained on, that the result is tried on.",
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
        return {_KEY: digest.hexdigest()}

    def data(self, config: Train, inputs: Mapping[str, Path]) -> VariantPairs:  # noqa: ARG002
        return self._pairs(config, "training", self.scenes)

    def task(self, config: Train, inputs: Mapping[str, Path]) -> TinyBaseTask:
        settings = build(config.objective, "objective", ObjectiveSettings)  # type: ignore[type-abstract]
        objective = settings.for_base("v_prediction", "the tiny base")
        return TinyBaseTask(
            objective,
            config.seed,
            inputs[_KEY],
            training=self._pairs(config, "training", self.scenes),
            held_out=self._pairs(config, "held-out", self.held_out),
            captioned=self.captioned,
            changed_weight=self.changed_weight,
            small_region_weight=self.small_region_weight,
        )

    def _pairs(self, config: Train, split: str, size: int) -> VariantPairs:
        choices = VariantChoices(self.shares, self.identity)
        seed = scene_seed(config.seed, split)
        return VariantPairs(world_named(self.world), seed, size, SIDE, choices)

    def _find_autoencoder(self, runs: Path) -> Path:
        found = self.autoencoder
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

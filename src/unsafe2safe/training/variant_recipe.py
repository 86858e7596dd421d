"""What the trainings on edits between variants of synthetic scenes have in common."""

from __future__ import annotations

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.data.synthetic.source import world_named
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.scenes import scene_seed
from unsafe2safe.training.validation.samples import SceneSamples
from unsafe2safe.training.variants import VariantChoices, VariantPairs


@component
class VariantRecipe(Recipe):
    """Base of the tasks that learn from :class:`VariantPairs`."""

    world: str = Field(default="base", description="Synthetic world of the scenes.")
    scenes: int = Field(default=2000, ge=1, description="Scenes; each visit draws another edit.")
    shares: tuple[float, ...] = Field(
        default=(1.0, 0.5, 0.3),
        min_length=1,
        description="One more variant of each scene per value, with such a share of its private "
        "values redrawn.",
    )
    identity: float = Field(
        default=0.03, ge=0, le=1, description="Share of visits that change nothing, and say so."
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

    def validation_scenes(self, config: Train, side: int) -> SceneSamples:
        """Scenes of a split of their own, all of whose private values are redrawn: neither trained
        on nor among those that the result is tried on, so that these tell of a choice made here."""
        seed = scene_seed(config.seed, "validation")
        size, choices = config.validation.samples, VariantChoices((1.0,), 0.0)
        scenes = VariantPairs(world_named(self.world), seed, size, side, choices)
        return SceneSamples(scenes, config.seed)

    def pairs_of(self, seed: int, split: str, size: int, side: int) -> VariantPairs:
        """``size`` scenes of ``split``, which shares none with another split of the same seed."""
        choices = VariantChoices(self.shares, self.identity)
        return VariantPairs(world_named(self.world), scene_seed(seed, split), size, side, choices)

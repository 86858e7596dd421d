"""The recipes of configs/experiment: they compose, and say what they are before anything else."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import config_dir, load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.jobs.sweep_trials import check_parameters

EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))


def composed(name: str) -> Train:
    config = load("train", [f"experiment={name}"])
    assert isinstance(config, Train)
    return config


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_begins_with_its_command(name: str) -> None:
    check_parameters(composed(name))  # whatever is trained, the default study could sweep it
    first = (config_dir() / "experiment" / f"{name}.yaml").read_text().splitlines()[1]
    assert first.startswith(f"# python train.py experiment={name}")


def test_the_paper_s_recipe_has_the_paper_s_settings() -> None:
    config = composed("paper_ip2p_safe")
    editor = build(config.editor, "editor", TrainableEditor)  # type: ignore[type-abstract]
    assert (editor.resolution, editor.trainable) == (256, "full")
    assert editor.settings_on_card()["caption_branch"] == "safe"
    trainer = config.trainer
    assert (trainer.batch_size, trainer.accumulate, trainer.learning_rate) == (64, 4, 1e-5)
    assert trainer.ema is not None
    dropout = [config.objective[f"{kind}_dropout"] for kind in ("text", "image", "both")]
    assert dropout == [0.05, 0.05, 0.05]


@pytest.mark.parametrize("name", ["quick", "paper_ip2p_safe"])
def test_a_recipe_for_machines_that_are_not_here_tells_cost_curve_and_what_was_not_run(
    name: str,
) -> None:
    text = (config_dir() / "experiment" / f"{name}.yaml").read_text()
    for part in ("# Costs: ", "# Loss to expect: ", "# Not run here: "):
        assert part in text
    assert OmegaConf.load(config_dir() / "experiment" / f"{name}.yaml").trainer.max_steps

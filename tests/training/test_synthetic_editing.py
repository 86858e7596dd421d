"""task=synthetic_editing: an editor learns from scenes, shown no more of them than at editing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ExitStatus
from unsafe2safe.data.synthetic import private_mask, render, slot_mask
from unsafe2safe.editors.concealment import concealed
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.jobs.train import run
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.synthetic_editing import SyntheticEditTask

SHORT = [
    "experiment=tiny_finetune",
    "editor.init_seed=0",
    "editor.prediction_type=v_prediction",
    "task.scenes=4",
    "task.held_out=2",
    "trainer.max_steps=3",
    "trainer.batch_size=2",
    "trainer.warmup_steps=1",
    "engine.threads=1",
]


def make_task(*overrides: str) -> SyntheticEditTask:
    config = load("train", [*SHORT, *overrides])
    assert isinstance(config, Train)
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    task = recipe.task(config, {})
    assert isinstance(task, SyntheticEditTask)
    return task


@pytest.mark.parametrize("view", ["full", "blur", "blank"])
def test_the_editor_is_shown_what_it_will_see_at_editing(view: str) -> None:
    task = make_task(f"editor.source={view}")
    data = task.data
    item = data[2, 5]
    prepared = task.prepare(data.collate([item]))
    scenes = data.variants(2)
    source, target = render(scenes[item.source]), render(scenes[item.target])
    seen = concealed(source, slot_mask(scenes[0]), view)  # type: ignore[arg-type]
    vae = task.pipeline.vae
    with torch.no_grad():
        shown, painted = (vae.encode(to_model([p])).latent_dist.mode() for p in (seen, target))
    torch.testing.assert_close(prepared.source, shown, atol=1e-2, rtol=1e-2)  # kept in fp16
    torch.testing.assert_close(prepared.target_mean, painted, atol=1e-2, rtol=1e-2)


def test_with_blank_sources_two_variants_look_the_same_to_the_editor() -> None:
    task = make_task("editor.source=blank")
    data = task.data
    items = [next(data[0, v] for v in range(99) if data[0, v].source == s) for s in (0, 1, 2)]
    shown = task.prepare(data.collate(items)).source
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(shown[0], shown[2])


def test_slots_hold_all_that_is_private() -> None:
    data = make_task().data
    for index in range(4):
        for scene in data.variants(index):
            assert not (private_mask(scene) & ~slot_mask(scene)).any()
            large = slot_mask(scene, 128)
            assert np.array_equal(large[::2, ::2] | large[1::2, 1::2], slot_mask(scene)) or (
                large.sum() <= 4 * slot_mask(scene).sum()
            )


def test_a_short_run_writes_an_adapter_of_the_world_it_names(tmp_path: Path) -> None:
    paths = [f"paths.runs={tmp_path / 'runs'}", f"paths.private={tmp_path / 'private'}"]
    result = run(load("train", [*SHORT, *paths, "task.world=values"]))  # type: ignore[arg-type]
    assert result.status is ExitStatus.DONE
    assert result.output_dir is not None
    assert "tiny-lora-values" in result.output_dir.name
    assert (result.output_dir / "adapter/adapter.json").is_file()


def test_a_side_that_scenes_are_not_drawn_at_is_told(tmp_path: Path) -> None:
    config = load("train", [*SHORT, "editor.resolution=96", f"paths.runs={tmp_path}"])
    with pytest.raises(UsageError, match=r"editor\.resolution=96"):
        run(config)  # type: ignore[arg-type]

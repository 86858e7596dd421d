"""LoRA on the text encoder: the words learn too, and what they learnt is saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.test_editor_options import batch, build_task, losses, tiny, trained
from unsafe2safe.core.errors import UsageError
from unsafe2safe.training.editor_task import InstructPix2PixTask
from unsafe2safe.training.export import fixed_picture
from unsafe2safe.training.export_merged import check_mergeable, export_merged
from unsafe2safe.training.gradient_check import check_gradients

LAYERS = ("q_proj", "v_proj", "fc1")


@pytest.fixture(scope="module")
def task() -> InstructPix2PixTask:
    return trained(build_task(text_encoder_targets=LAYERS, dropout=0.1))


def test_only_the_updates_of_both_networks_learn() -> None:
    fresh = build_task(text_encoder_targets=LAYERS, caption_branch="gated")
    updated = {name.split(".")[0] for name in fresh.trainable_parameters() if ".lora_" in name}
    assert updated == {"unet", "text_encoder"}
    check_gradients(
        fresh.network, fresh.trainable_parameters(), lambda _: losses(fresh, batch()).mean(), 1e-3
    )


@pytest.mark.parametrize(("branch", "text_dropout"), [("none", 0.0), ("gated", 1.0)])
def test_before_the_first_step_the_losses_are_those_of_a_frozen_text_encoder(
    branch: str, text_dropout: float
) -> None:
    values: dict[str, Any] = {"caption_branch": branch, "text_dropout": text_dropout}
    frozen, learning = build_task(**values), build_task(text_encoder_targets=LAYERS, **values)
    with torch.no_grad():
        torch.testing.assert_close(
            losses(learning, batch()), losses(frozen, batch()), atol=1e-6, rtol=1e-6
        )


def test_what_the_words_learnt_is_saved_and_loaded(
    task: InstructPix2PixTask, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    task.export(folder)  # proves to 1e-4 that the whole loads
    assert tuple(json.loads((folder / "adapter.json").read_text())["text_encoder_targets"]) == (
        LAYERS
    )
    assert ", ".join(LAYERS) in (folder / "README.md").read_text("utf-8")
    editor = tiny(text_encoder_targets=LAYERS)
    inputs = ([fixed_picture(64)], ["red hair"], [3])
    plain = editor.load_base()
    untouched = editor.run(plain, *inputs)
    plain.load_lora_weights(str(folder))  # by diffusers' own call
    both = editor.run(plain, *inputs)
    task.pipeline.unet.eval()
    assert np.abs(both - editor.run(task.pipeline, *inputs)).max() <= 1e-4
    plain.text_encoder.disable_adapters()
    assert np.abs(editor.run(plain, *inputs) - both).max() > 1e-4  # the words' part is heard
    assert np.abs(untouched - both).max() > 1e-4


def test_the_base_of_the_text_encoder_stays(task: InstructPix2PixTask) -> None:
    def base(encoder: torch.nn.Module) -> dict[str, torch.nn.Module]:
        return {name.replace(".base_layer", ""): p for name, p in encoder.named_parameters()
                if ".lora_" not in name}  # fmt: skip

    before, after = base(tiny().load_base().text_encoder), base(task.pipeline.text_encoder)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_layer_that_is_not_there_is_told_by_its_key() -> None:
    with pytest.raises(UsageError, match=r"editor.text_encoder_targets: 'mlp.fc9' matches no"):
        build_task(text_encoder_targets=("mlp.fc9",))


def test_what_the_words_learnt_is_fused_with_the_rest_and_never_left_out(
    task: InstructPix2PixTask, tmp_path: Path
) -> None:
    task.export(tmp_path / "adapter")
    editor = tiny(text_encoder_targets=LAYERS, adapter=tmp_path / "adapter")
    export_merged(editor, tmp_path / "merged", True, None)  # proves that it edits alike
    merged = type(task.pipeline).from_pretrained(tmp_path / "merged", local_files_only=True)
    inputs = ([fixed_picture(64)], ["red hair"], [3])
    difference = np.abs(tiny().run(merged, *inputs) - editor.run(editor.load_pipeline(), *inputs))
    assert difference.max() <= 1e-4
    with pytest.raises(UsageError, match="leaves out what the text encoder has learnt"):
        check_mergeable(editor, "denoiser")

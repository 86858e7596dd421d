"""What editor=tiny ships: it loads anywhere, it follows, and it does not leak."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from safetensors.torch import load_file

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.data.synthetic import WORLDS, draw_scene, render, slot_mask
from unsafe2safe.data.synthetic.source import known_edit
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.caption_branch import BRANCH_FILE, caption_branch
from unsafe2safe.editors.tiny import TinyEditor, packaged_weights
from unsafe2safe.metrics.truth import score
from unsafe2safe.vision.attribute_reader import the_reader

FOLDER = packaged_weights()
COUNT = 32


def test_the_folder_is_small_and_holds_data_only() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".txt"}
    for path in FOLDER.rglob("*.safetensors"):
        kind = torch.float32 if path.name == BRANCH_FILE else torch.float16
        assert {value.dtype for value in load_file(path).values()} == {kind}, path
    for path in FOLDER.rglob("*.json"):
        assert not re.search(r'"_name_or_path": "[^"]', path.read_text()), path
    card = (FOLDER / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "## What still fails" in card


def test_plain_diffusers_loads_it_without_being_told_a_dtype_and_edits() -> None:
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(FOLDER)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert part.dtype == torch.float32
    scene = draw_scene(WORLDS["base"], 5, 0)
    image = torch.from_numpy(np.array(render(scene))).permute(2, 0, 1)[None] / 255
    edited = pipeline("give the person red hair .", image, num_inference_steps=3, output_type="np")
    assert edited.images.shape == (1, 64, 64, 3)
    assert np.isfinite(edited.images).all()
    assert not (FOLDER / "unet" / BRANCH_FILE).exists()


@pytest.fixture(scope="module")
def editor() -> TinyEditor:
    return build(dict(load("train").editor), "editor", TinyEditor)  # type: ignore[attr-defined]


def test_it_is_what_the_editor_uses_by_default(editor: TinyEditor) -> None:
    assert editor.init_seed is None
    assert editor.weights is None
    assert editor.pipeline.scheduler.config.prediction_type == "v_prediction"


def test_it_follows_keeps_and_does_not_leak_on_scenes_it_has_not_seen(editor: TinyEditor) -> None:
    """The short form of the claim `base`: wide bounds, few scenes."""
    world = WORLDS["base"]
    edits = [known_edit(draw_scene(world, 77, i), world, 77, f"{i:08d}.png") for i in range(COUNT)]
    requests = [
        EditRequest(
            image=render(edit.redrawn.source),
            mask=slot_mask(edit.redrawn.source).astype(np.float32),
            regions=(),
            public_caption=edit.texts.public_caption,
            edit_instruction=edit.texts.edit_instruction,
            seed=number,
            strength=0,
        )
        for number, edit in enumerate(edits)
    ]
    pictures = np.stack(editor.edit(requests))
    found = score([edit.redrawn for edit in edits], pictures, the_reader())
    assert found["followed/mean"].value >= 0.8
    assert found["leaked/mean"].value <= 0.12
    assert found["leaked/letters"].value <= 0.2
    assert found["outside/ssim"].value >= 0.85


def test_the_branch_beside_it_is_of_this_base_and_is_heard(editor: TinyEditor) -> None:
    gated = build(
        dict(load("train").editor) | {"caption_branch": "gated"},  # type: ignore[attr-defined]
        "editor",
        TinyEditor,
    )
    branch = caption_branch(gated.pipeline.unet)
    assert any(abs(float(v)) > 1e-3 for name, v in branch.items() if name.endswith(".gate"))

"""Training with a caption branch and with hidden sources: what learns, what is saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.adapter_card import BESIDE_BRANCH_FOLDER
from unsafe2safe.editors.caption_branch import BRANCH_FILE, caption_branch
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.editors.tiny import TinyEditor
from unsafe2safe.objectives.base import Objective
from unsafe2safe.training import export
from unsafe2safe.training.draws import SampleKey
from unsafe2safe.training.editor_task import InstructPix2PixTask
from unsafe2safe.training.export import ExportError, fixed_picture
from unsafe2safe.training.gradient_check import check_gradients
from unsafe2safe.training.task import PairBatch

KEYS = tuple(SampleKey(f"i{index}", 0) for index in range(2))


def tiny(**values: Any) -> TinyEditor:
    config = dict(load("train").editor)  # type: ignore[attr-defined]
    settings = {"steps": 2, "init_seed": 0, "targets": ("to_q", "to_k", "conv_in")}
    return build(config | settings | values, "editor", TinyEditor)


def build_task(text_dropout: float = 0.0, **values: Any) -> InstructPix2PixTask:
    settings = dict(load("train", ["objective=epsilon"]).objective) | {  # type: ignore[attr-defined]
        "text_dropout": text_dropout,
        "image_dropout": 0.0,
        "both_dropout": 0.0,
    }
    objective = build(settings, "objective", Objective)  # type: ignore[type-abstract]
    return InstructPix2PixTask(tiny(**values), objective, seed=4)


def batch(captions: str = "a beach", *, fill: int | None = None, masked: bool = True) -> PairBatch:
    """Two pairs; ``fill`` replaces the source under the mask."""
    random = np.random.default_rng(0)
    source, target = random.integers(0, 256, (2, len(KEYS), 64, 64, 3), dtype=np.uint8)
    mask = torch.zeros(len(KEYS), 1, 64, 64)
    mask[:, :, 10:40, 20:50] = 1
    if fill is not None:
        source[:, 10:40, 20:50] = fill
    return PairBatch(
        KEYS,
        to_model(list(source)),
        to_model(list(target)),
        (captions,) * len(KEYS),
        ("red hair",) * len(KEYS),
        mask if masked else None,
    )


def losses(task: InstructPix2PixTask, pairs: PairBatch) -> torch.Tensor:
    prepared = task.prepare(pairs)
    return task.loss(prepared, task.draw(pairs.keys, prepared))


def trained(task: InstructPix2PixTask, steps: int = 2) -> InstructPix2PixTask:
    optimizer = torch.optim.AdamW(list(task.trainable_parameters().values()), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        losses(task, batch()).mean().backward()
        optimizer.step()
    for name, gate in caption_branch(task.pipeline.unet).items():
        if name.endswith(".gate"):
            gate.data.fill_(1.0)  # as after long training: what the branch says counts
    return task


KINDS = ["lora", "full", "branch"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_branch_learns_from_its_closed_gate_on_and_what_is_frozen_does_not(kind: str) -> None:
    task = build_task(caption_branch="gated", trainable=kind)
    names = set(task.trainable_parameters())
    added = {name for name in names if ".processor." in name}
    assert {name.replace(".processor.", ".") for name in added} == {
        f"unet.{name}" for name in caption_branch(task.pipeline.unet)
    }
    everything = {f"unet.{name}" for name, _ in task.pipeline.unet.named_parameters()}
    lora = {name for name in everything if ".lora_" in name}
    assert names - added == {"lora": lora, "full": everything - added, "branch": set()}[kind]
    assert bool(lora) is (kind == "lora")
    check_gradients(
        task.network,
        task.trainable_parameters(),
        lambda _: losses(task, batch()).mean(),
        1e-3,
    )


def test_a_dropped_text_drops_the_caption_with_it() -> None:
    heard = trained(build_task(caption_branch="gated"))
    deaf = trained(build_task(text_dropout=1.0, caption_branch="gated"))
    with torch.no_grad():
        assert not torch.equal(losses(heard, batch("a beach")), losses(heard, batch("a street")))
        assert torch.equal(losses(deaf, batch("a beach")), losses(deaf, batch("a street")))


def edited(editor: TinyEditor, caption: str = "a beach") -> np.ndarray:
    return editor.run(editor.load_pipeline(), [fixed_picture(64)], ["red hair"], [3], 0, [caption])


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])],
)
def test_what_was_trained_is_saved_and_loaded_with_its_branch(kind: str, tmp_path: Path) -> None:
    task = trained(build_task(caption_branch="gated", trainable=kind))
    folder = tmp_path / "adapter"
    task.export(folder)  # proves to 1e-4 that the whole loads
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    weights = {
        "lora": {f"{BESIDE_BRANCH_FOLDER}/pytorch_lora_weights.safetensors"},
        "full": {
            f"{BESIDE_BRANCH_FOLDER}/unet/{name}"
            for name in ("config.json", "diffusion_pytorch_model.safetensors")
        },
        "branch": set(),
    }[kind]
    assert files == {"adapter.json", "README.md", BRANCH_FILE} | weights
    editor = tiny(caption_branch="gated", trainable=kind, adapter=folder)
    inputs = ([fixed_picture(64)], ["red hair"], [3], 0, ["a beach"])
    task.pipeline.unet.eval()
    difference = np.abs(edited(editor) - editor.run(task.pipeline, *inputs)).max()
    assert difference <= 1e-4
    # It is heard: behind a closed gate both would be equal to the last bit.
    assert np.abs(edited(editor) - edited(editor, "a street")).max() > 0

    # plain diffusers takes no part of it for the whole
    plain = tiny(caption_branch="none").load_base()
    with pytest.raises((ValueError, OSError)):
        plain.load_lora_weights(str(folder))
    with pytest.raises(OSError):
        type(plain.unet).from_pretrained(folder / "unet")
    assert "Plain diffusers cannot load it" in (folder / "README.md").read_text()

    with pytest.raises(UsageError, match=r"with editor\.caption_branch 'gated', this is 'none'"):
        tiny(adapter=folder).load_pipeline()
    (folder / BRANCH_FILE).unlink()
    with pytest.raises(UsageError, match=BRANCH_FILE):
        editor.load_pipeline()


def test_an_export_whose_branch_is_lost_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = trained(build_task(caption_branch="gated", trainable="branch"))
    honest = export.save_caption_branch

    def closed(unet: Any, path: Path) -> None:
        for name, value in caption_branch(unet).items():
            if name.endswith(".gate"):
                value.data.zero_()
        honest(unet, path)

    def lossy(unet: Any, path: Path) -> None:
        kept = {name: value.detach().clone() for name, value in caption_branch(unet).items()}
        closed(unet, path)
        for name, value in caption_branch(unet).items():
            value.data.copy_(kept[name])

    monkeypatch.setattr(export, "save_caption_branch", lossy)
    with pytest.raises(ExportError, match="does not load as trained"):
        task.export(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_branch_alone_needs_a_branch() -> None:
    with pytest.raises(UsageError, match=r"trainable=branch needs editor\.caption_branch=gated"):
        build_task(trainable="branch")


def test_with_blank_training_sees_nothing_of_what_is_masked() -> None:
    blind, seeing = build_task(source="blank"), build_task()
    first, second = batch(), batch(fill=200)
    assert torch.equal(blind.prepare(first).source, blind.prepare(second).source)
    assert not torch.equal(seeing.prepare(first).source, seeing.prepare(second).source)
    assert torch.equal(blind.prepare(first).target_mean, seeing.prepare(first).target_mean)
    with pytest.raises(UsageError, match=r"editor\.source=blank needs pairs"):
        blind.prepare(batch(masked=False))


@pytest.mark.slow
def test_an_adapter_is_bound_to_the_source_it_was_trained_on(tmp_path: Path) -> None:
    task = trained(build_task(source="blank"), 1)
    task.export(tmp_path / "adapter")
    tiny(source="blank", adapter=tmp_path / "adapter").load_pipeline()
    for other in ("full", "blur"):
        told = rf"with editor\.source 'blank', this is '{other}'"
        with pytest.raises(UsageError, match=told):
            tiny(source=other, adapter=tmp_path / "adapter").load_pipeline()
    assert "editor.source=blank adapter=" in (tmp_path / "adapter/README.md").read_text()

    # a card from before there were these choices is of an editor without them
    card = tmp_path / "adapter/adapter.json"
    content = json.loads(card.read_text())
    old = {key: v for key, v in content.items() if key not in ("source", "caption_branch")}
    card.write_text(json.dumps(old))
    tiny(adapter=tmp_path / "adapter").load_pipeline()
    with pytest.raises(UsageError, match=r"editor\.source 'full', this is 'blank'"):
        tiny(source="blank", adapter=tmp_path / "adapter").load_pipeline()

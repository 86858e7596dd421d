"""editor.quantize: packed bases load, train a LoRA, export and load again, on the CPU too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from diffusers.quantizers import auto
from editors.tiny_kontext import SIDE, kontext, save_tiny_kontext
from tiny_bases import write_base
from torch import nn
from training.make_pairs import make_world
from training.test_ip2p_training import ip2p
from training.test_klein_training import images

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ExitStatus
from unsafe2safe.editors import quantization
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.quantization import check_quantize
from unsafe2safe.editors.tiny import TinyEditor
from unsafe2safe.jobs.plan_training import settings_of
from unsafe2safe.jobs.train import run
from unsafe2safe.objectives.base import ObjectiveSettings
from unsafe2safe.training.draws import SampleKey
from unsafe2safe.training.export import fixed_picture
from unsafe2safe.training.gradient_check import check_gradients
from unsafe2safe.training.task import PairBatch
from unsafe2safe.training.token_task import TokenEditTask

KEYS = (SampleKey("a", 0), SampleKey("b", 1))
KINDS = ("nf4", "int8", "torchao_int8")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_kontext(tmp_path_factory.mktemp("kontext"))


def objective() -> ObjectiveSettings:
    settings = load("train").objective  # type: ignore[attr-defined]
    return build(settings, "objective", ObjectiveSettings)  # type: ignore[type-abstract]


def packed(layer: nn.Module, kind: str) -> bool:
    if kind == "torchao_int8":
        return type(layer.weight).__name__ == "Int8Tensor"
    kinds = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}
    return isinstance(layer, kinds[kind])


def three_steps(task: Any) -> list[float]:
    batch = PairBatch(KEYS, images(0)[..., :SIDE, :SIDE], images(1)[..., :SIDE, :SIDE],
                      ("a", "b"), ("a", "b"))  # fmt: skip

    def loss(_: int) -> torch.Tensor:
        prepared = task.prepare(batch)
        return task.loss(prepared, task.draw(KEYS, prepared)).mean()

    trained = task.trainable_parameters()
    check_gradients(task.network, trained, loss, 1e-2)
    optimizer, losses = torch.optim.AdamW(trained.values(), lr=2e-2), []
    for step in range(3):
        optimizer.zero_grad()
        value = loss(step)
        value.backward()
        optimizer.step()
        losses.append(float(value))
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_base_trains_a_lora_that_exports_and_loads(
    kind: str, base: Path, tmp_path: Path
) -> None:
    editor = kontext(weights=str(base), quantize=kind)
    task = TokenEditTask(editor, objective(), 4)
    pipeline = task.pipeline
    # the linear layers of the denoiser and of T5, and neither CLIP's nor the autoencoder's
    assert packed(pipeline.transformer.transformer_blocks[0].attn.to_q.base_layer, kind)
    assert packed(pipeline.text_encoder_2.encoder.block[0].layer[0].SelfAttention.q, kind)
    for part in (pipeline.vae, pipeline.text_encoder):
        assert all(type(value) is nn.Parameter for value in part.parameters())
        assert all(value.is_floating_point() for value in part.parameters())
    trained = task.trainable_parameters()
    assert trained
    assert all(".lora_" in name and w.dtype == torch.float32 for name, w in trained.items())

    losses = three_steps(task)
    assert losses[-1] < losses[0]

    folder = tmp_path / "adapter"
    task.export(folder)  # proves to 1e-4 that a fresh packed base with it edits alike
    assert json.loads((folder / "adapter.json").read_text())["quantize"] == kind
    assert f"quantized as {kind}" in (folder / "README.md").read_text()
    with pytest.raises(UsageError, match=rf"editor\.quantize '{kind}', this is 'none'"):
        kontext(weights=str(base), adapter=folder).load_pipeline()

    again, plain = editor.load_base(), kontext(weights=str(base)).load_base()
    assert task.base == editor.base_fingerprint(again) != editor.base_fingerprint(plain)
    # packed numbers are near the plain ones
    inputs = ([fixed_picture(SIDE)], ["red hair"], [3])
    difference = abs(editor.run(again, *inputs) - editor.run(plain, *inputs)).max()
    assert 0 < difference < 0.1


def test_train_py_trains_beside_a_packed_unet(tmp_path: Path) -> None:
    weights = write_base(tmp_path / "base", 8)
    arguments = [
        *make_world(tmp_path / "world", 3).overrides,
        "editor=ip2p",
        f"editor.weights={weights}",
        "editor.quantize=nf4",
        "editor.dtype=bfloat16",
        "editor.resolution=64",
        "editor.steps=2",
        "engine.threads=1",
        "trainer.max_steps=3",
        "trainer.batch_size=2",
        "trainer.gradient_checkpointing=true",
        f"output_dir={tmp_path / 'run'}",
    ]
    assert run(load("train", arguments)).status is ExitStatus.DONE  # type: ignore[arg-type]
    editor = ip2p(weights, quantize="nf4", dtype="bfloat16", rank=16, adapter=tmp_path / "run")
    pipeline = editor.pipeline
    layers = [m for m in pipeline.unet.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert layers
    assert all(layer.compute_dtype is torch.bfloat16 for layer in layers)
    assert all(type(weight) is nn.Parameter for weight in pipeline.text_encoder.parameters())
    assert all(weight.is_floating_point() for weight in pipeline.text_encoder.parameters())


def test_what_cannot_be_packed_is_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = "/no/such/folder"
    with pytest.raises(UsageError, match="quantized weights cannot be trained as a whole"):
        ip2p(Path(absent), quantize="nf4", trainable="full").load_base()
    with pytest.raises(UsageError, match=r"nf4 and editor\.caption_branch=safe do not go together"):
        ip2p(Path(absent), "ip2p_safe", quantize="nf4").load_base()
    with pytest.raises(UsageError, match=r"quantize=int8 takes no DoRA"):
        ip2p(Path(absent), quantize="int8", use_dora=True).load_base()
    values = dict(load("train").editor)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"the base of editor=tiny cannot be quantized"):
        build(values | {"quantize": "int8"}, "editor", TinyEditor).load_base()
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs torchao, which is not there: pip install"):
        check_quantize("torchao_int8", "lora")


def test_diffusers_own_quantizers_are_back_after_a_load(base: Path) -> None:
    before = dict(auto.AUTO_QUANTIZER_MAPPING)
    kontext(weights=str(base), quantize="nf4").load_base()
    assert before == auto.AUTO_QUANTIZER_MAPPING


def test_a_plan_holds_weights_as_the_editor_loads_them() -> None:
    for kind, held in (("nf4", "nf4"), ("int8", "int8"), ("torchao_int8", "int8")):
        config = load("train", ["editor=kontext", f"editor.quantize={kind}"])
        assert isinstance(config, Train)
        editor = build(config.editor, "editor", TrainableEditor)  # type: ignore[type-abstract]
        assert settings_of(config, 64, editor).weights == held

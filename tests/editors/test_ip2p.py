"""``ip2p`` and ``ip2p_safe``: where a base may come from, what is told of it, and its edits."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from tiny_bases import SIDE, small_unet, write_base

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import ConfigError, ItemError, UsageError
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.base_weights import BaseWeights
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.editors.ip2p import Ip2pEditor
from unsafe2safe.editors.lora_targets import lora_config, target_modules
from unsafe2safe.editors.stable_diffusion import widen_conv_in


def ip2p(choice: str = "ip2p", **values: Any) -> Ip2pEditor:
    config = dict(load("train", [f"editor={choice}"]).editor)  # type: ignore[attr-defined]
    return build(config | {"steps": 2, "resolution": SIDE} | values, "editor", Ip2pEditor)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("ip2p"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("sd15"), in_channels=4)


def request(**values: Any) -> EditRequest:
    image = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    told = {"public_caption": "a beach", "edit_instruction": "give the person red hair", "seed": 5}
    return EditRequest(image, np.zeros((SIDE, SIDE), np.float32), (), **(told | values))


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any weight that is loaded fails the test."""

    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(BaseWeights, "load", loaded)


def test_edits_are_those_of_the_plain_diffusers_pipeline(base: Path) -> None:
    editor = ip2p(weights=str(base))
    asked = request()
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt=[asked.edit_instruction],
        image=to_model([asked.image]) / 2 + 0.5,
        num_inference_steps=2,
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        generator=[torch.Generator().manual_seed(5)],
        output_type="np",
    ).images[0]
    edited = editor.edit([asked])[0]
    assert np.abs(edited / 255 - expected).max() <= 0.5 / 255 + 1e-4
    safe = ip2p("ip2p_safe", weights=str(base))
    assert np.array_equal(safe.edit([asked])[0], edited)  # its gates are closed


def test_the_base_may_be_in_half_precision_but_not_its_autoencoder(base: Path) -> None:
    exact = ip2p(weights=str(base)).edit([request()])[0].astype(float)
    for dtype, of_vae in (("bfloat16", torch.bfloat16), ("float16", torch.float32)):
        editor = ip2p(weights=str(base), dtype=dtype)
        half = getattr(torch, dtype)
        pipeline = editor.pipeline
        found = [getattr(pipeline, part).dtype for part in ("unet", "text_encoder", "vae")]
        assert found == [half, half, of_vae]
        assert np.abs(editor.edit([request()])[0] - exact).mean() < 8


def test_a_folder_saved_in_fp16_loads_whole(tmp_path: Path) -> None:
    # diffusers would load its text encoder in fp16, the rest in fp32
    editor = ip2p(weights=str(write_base(tmp_path, dtype=torch.float16)))
    assert {p.dtype for p in editor.load_base().text_encoder.parameters()} == {torch.float32}
    assert editor.edit([request()])[0].std() > 0


def test_what_the_weights_are_counts_not_where_they_lie(base: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(base, copied)
    here = ip2p(weights=str(base)).weights_content()
    assert ip2p(weights=str(copied)).weights_content() == here
    (copied / "README.md").write_text("told")
    assert ip2p(weights=str(copied)).weights_content() == here
    scheduler = copied / "scheduler/scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"beta_end": 0.02}))
    assert ip2p(weights=str(copied)).weights_content() != here

    pinned = ip2p().weights_content()["editor.weights"]
    assert pinned.startswith("timbrooks/instruct-pix2pix@3151")
    told = ip2p(weights="someone/base").weights_content(), ip2p(revision="v2").weights_content()
    assert [content["editor.weights"] for content in told] == [
        "someone/base@main",
        "timbrooks/instruct-pix2pix@v2",
    ]


def test_a_base_that_is_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"editor\.weights=/nowhere/at is no folder, and no id"):
        ip2p(weights="/nowhere/at").load_base()
    with pytest.raises(UsageError, match=rf"editor\.weights={tmp_path}: "):
        ip2p(weights=str(tmp_path)).load_base()


@pytest.mark.parametrize(
    ("config", "told"),
    [({"in_channels": 9}, "9 input channels"), ({"addition_embed_type": "text_time"}, "SDXL")],
)
def test_bases_of_other_families_are_told_before_they_are_loaded(
    config: dict[str, Any], told: str, base: Path, tmp_path: Path, unread: None
) -> None:
    (tmp_path / "unet").mkdir()
    content = json.loads((base / "unet/config.json").read_text()) | config
    (tmp_path / "unet/config.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=told):
        ip2p(weights=str(tmp_path)).load_base()


def test_a_plain_stable_diffusion_must_learn_to_take_the_source(plain: Path, unread: None) -> None:
    with pytest.raises(UsageError, match=r"does not take a source image .* adapter=RUN_FOLDER"):
        ip2p(weights=str(plain)).load_pipeline()
    for kind in ({}, {"trainable": "branch", "caption_branch": "safe"}):
        with pytest.raises(UsageError, match=r"add conv_in to editor\.targets"):
            ip2p(weights=str(plain), **kind).load_base()
    with pytest.raises(UsageError, match=r"editor\.trainable=full trains in float32"):
        ip2p(weights=str(plain), trainable="full", dtype="bfloat16").load_base()


def test_a_target_without_match_is_told_before_any_weight_is_loaded(
    base: Path, unread: None
) -> None:
    for target in ("to_nothing", r"re:.*attn3.*"):
        with pytest.raises(UsageError, match=r"matches no layer of the model"):
            ip2p(weights=str(base), targets=("to_q", target)).load_base()


def test_a_widened_model_begins_as_its_base_whatever_the_source() -> None:
    torch.manual_seed(0)
    unet = small_unet(4)
    latents, source = torch.randn(2, 2, 4, 8, 8)
    text = torch.randn(2, 6, 24)
    with torch.no_grad():
        before = unet(latents, 3, text).sample
        widen_conv_in(unet)
        after = unet(torch.cat([latents, source], 1), 3, text).sample
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert unet.config.in_channels == 8


def test_the_licence_of_the_base_is_told(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "unsafe2safe"):
        ip2p(weights=str(base)).load_base()
    assert "licence creativeml-openrail-m (commercial use allowed)" in caplog.text


def test_targets_may_be_patterns_and_a_pattern_without_match_is_named() -> None:
    unet = small_unet(8)
    found = target_modules(unet, (r"re:.*attn2\.to_[qk]", "conv_in"))
    assert "conv_in" in found
    assert {name.rsplit(".", 2)[-2] for name in found if name != "conv_in"} == {"attn2"}
    assert {name.rsplit(".", 1)[-1] for name in found} == {"to_q", "to_k", "conv_in"}
    with pytest.raises(UsageError, match=r"editor\.targets: 're:to_q' matches no layer"):
        target_modules(unet, ("to_k", "re:to_q"))
    with pytest.raises(ConfigError, match=r"'re:\(' is no regular expression"):
        ip2p(targets=("re:(",))
    editor = ip2p(targets=(r"re:.*attn2\.to_q",), use_rslora=True, lora_init="gaussian")
    unet.add_adapter(lora_config(editor, unet))
    lora = {name.split(".lora_")[0] for name, _ in unet.named_parameters() if ".lora_" in name}
    assert lora == set(target_modules(small_unet(8), editor.targets))


def test_the_combined_caption_is_the_text_where_there_is_one(base: Path) -> None:
    editor = ip2p(weights=str(base), captions="combined")
    assert editor.text_of("a", "b", "both") == "both"
    one = ip2p(weights=str(base)).edit([request(edit_instruction="a red beach")])[0]
    assert np.array_equal(editor.edit([request(combined_caption="a red beach")])[0], one)
    with pytest.raises(ItemError, match="it has no combined caption"):
        editor.edit([request()])

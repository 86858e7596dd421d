"""``sdxl_ip2p`` and ``cosxl``: where a base may come from, what is told of it, and its edits."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLInstructPix2PixPipeline
from tiny_bases import SIDE, write_base
from tiny_xl import small_unet, write_single_file, write_xl

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.base_weights import BaseWeights
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.editors.sdxl_ip2p import SdxlIp2pEditor
from unsafe2safe.editors.single_file import SingleFile


def xl(choice: str, weights: Path | str, **values: Any) -> SdxlIp2pEditor:
    config = dict(load("train", [f"editor={choice}"]).editor)  # type: ignore[attr-defined]
    small = {"steps": 2, "resolution": SIDE, "dtype": "float32", "weights": str(weights)}
    return build(config | small | values, "editor", SdxlIp2pEditor)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    made = {
        "epsilon": write_xl(folder / "epsilon"),
        "v": write_xl(folder / "v", kind="v_prediction", zeros=False),
        "plain": write_xl(folder / "plain", in_channels=4),
        "cosxl": write_xl(folder / "cosxl", kind="cosxl"),
    }
    made["file"] = write_single_file(made["cosxl"], folder / "cosxl_edit.safetensors")
    return made


def request(text: str = "give the person red hair", seed: int = 5) -> EditRequest:
    image = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return EditRequest(image, np.zeros((SIDE, SIDE), np.float32), (), "a beach", text, seed=seed)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any weight that is loaded fails the test."""

    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    for kind in (BaseWeights, SingleFile):
        monkeypatch.setattr(kind, "load", loaded)


@pytest.mark.parametrize(("choice", "base"), [("sdxl_ip2p", "v"), ("cosxl", "cosxl")])
def test_edits_are_those_of_the_plain_diffusers_pipeline(
    choice: str, base: str, bases: dict[str, Path]
) -> None:
    editor = xl(choice, bases[base], batch_size=2)
    asked = [request(), request("a blue coat", seed=6)]
    pipeline = StableDiffusionXLInstructPix2PixPipeline.from_pretrained(
        bases[base], is_cosxl_edit=choice == "cosxl"
    )
    pipeline.set_progress_bar_config(disable=True)
    for one, edited in zip(asked, editor.edit(asked), strict=True):
        expected = pipeline(
            prompt=one.edit_instruction,
            image=to_model([one.image]) / 2 + 0.5,
            height=SIDE,
            width=SIDE,
            num_inference_steps=2,
            guidance_scale=editor.text_guidance_scale,
            image_guidance_scale=1.5,
            generator=torch.Generator().manual_seed(one.seed),
            output_type="np",
        ).images[0]
        assert np.abs(edited / 255 - expected).max() <= 0.5 / 255 + 1e-4


def test_an_empty_text_is_zeros_where_the_base_says_so(bases: dict[str, Path]) -> None:
    for base, zero in (("epsilon", True), ("v", False)):
        editor = xl("sdxl_ip2p", bases[base])
        nothing = editor.no_text(editor.pipeline)
        assert (not nothing.tokens.any(), not nothing.pooled.any()) == (zero, zero)
    edits = [
        xl("sdxl_ip2p", bases["epsilon"], text_guidance_scale=scale).edit([request()])[0]
        for scale in (3.0, 6.0)
    ]
    assert not np.array_equal(*edits)


def test_the_base_may_be_in_half_precision_but_not_its_autoencoder(
    bases: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    exact = xl("cosxl", bases["cosxl"]).edit([request()])[0].astype(float)
    for dtype, of_vae in (("bfloat16", torch.bfloat16), ("float16", torch.float32)):
        for weights in (bases["cosxl"], bases["file"]):
            with caplog.at_level(logging.INFO, "unsafe2safe"):
                editor = xl("cosxl", weights, dtype=dtype, layout=str(bases["cosxl"]))
                pipeline = editor.pipeline
            half = getattr(torch, dtype)
            found = [getattr(pipeline, part).dtype for part in editor.parts]
            assert found == [half, of_vae, half, half]
            told = "the autoencoder stays in float32; it overflows in float16" in caplog.text
            assert told is (dtype == "float16")
            assert np.abs(editor.edit([request()])[0] - exact).mean() < 8


def test_a_single_file_is_the_pipeline_that_it_was_made_of(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    folder = xl("cosxl", bases["cosxl"])
    file = xl("cosxl", bases["file"], layout=str(bases["epsilon"]))
    edits = [editor.edit([request()])[0].astype(int) for editor in (file, folder)]
    assert np.abs(edits[0] - edits[1]).max() <= 1
    assert file.pipeline.scheduler.config.sigma_max == 120.0
    assert file.base_fingerprint(file.load_base()) == folder.base_fingerprint(folder.load_base())
    # it says its own bounds, which the layout does not know
    bounded = write_single_file(bases["cosxl"], tmp_path / "x.safetensors", sigma_max=80.0)
    other = xl("cosxl", bounded, layout=str(bases["epsilon"]))
    assert other.load_base().scheduler.config.sigma_max == 80.0
    contents = [editor.weights_content()["editor.weights"] for editor in (file, other)]
    assert contents[0] != contents[1]
    copied = shutil.copy(bases["file"], tmp_path / "copy.safetensors")
    copy = xl("cosxl", copied, layout=str(bases["epsilon"]))
    assert copy.weights_content()["editor.weights"] == contents[0]
    published = xl("cosxl", "stabilityai/cosxl/cosxl_edit.safetensors", revision="v1")
    assert published.weights_content()["editor.weights"] == (
        "stabilityai/cosxl/cosxl_edit.safetensors@v1+diffusers/sdxl-instructpix2pix-768@main"
    )


def test_a_single_file_that_is_none_is_told(bases: dict[str, Path], tmp_path: Path) -> None:
    layout = {"layout": str(bases["epsilon"])}
    for name in ("nowhere.safetensors", "/nowhere/at/all.safetensors"):
        with pytest.raises(UsageError, match=r"is no file, and no file of the hub"):
            xl("cosxl", name, **layout).load_base()
    (tmp_path / "damaged.safetensors").write_bytes(b"not one")
    with pytest.raises(UsageError, match=r"editor\.weights=.*damaged"):
        xl("cosxl", tmp_path / "damaged.safetensors", **layout).load_base()
    other = bases["epsilon"] / "unet/diffusion_pytorch_model.safetensors"
    with pytest.raises(UsageError, match=r"holds no UNet in Stability AI's layout"):
        xl("cosxl", other, **layout).load_base()
    with pytest.raises(UsageError, match=r"editor\.layout=/nowhere is no folder"):
        xl("cosxl", bases["file"], layout="/nowhere").load_base()
    # pickles are not read
    (tmp_path / "cosxl.ckpt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"cosxl\.ckpt is no folder"):
        xl("cosxl", tmp_path / "cosxl.ckpt").load_base()


def test_bases_of_other_families_are_told_before_they_are_loaded(
    bases: dict[str, Path], tmp_path: Path, unread: None
) -> None:
    stable_diffusion = write_base(tmp_path / "sd1")
    normalizing = shutil.copytree(bases["epsilon"], tmp_path / "playground")
    config = normalizing / "vae/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"latents_mean": [0.0] * 4}))
    for choice, base, told in (
        ("sdxl_ip2p", stable_diffusion, r"is not of the SDXL family"),
        ("cosxl", stable_diffusion, r"is not of the SDXL family"),
        ("sdxl_ip2p", bases["cosxl"], r"EDM scheduler; if it is a CosXL, use editor=cosxl"),
        ("cosxl", bases["v"], r"no EDM scheduler of velocities \(EulerDiscreteScheduler\)"),
        ("sdxl_ip2p", normalizing, r"its autoencoder normalizes latents"),
        ("ip2p", bases["epsilon"], r"is of the SDXL family"),
        ("sdxl_ip2p", bases["plain"], r"add conv_in to editor\.targets"),
    ):
        config = dict(load("train", [f"editor={choice}"]).editor)  # type: ignore[attr-defined]
        with pytest.raises(UsageError, match=told):
            build(config | {"weights": str(base)}, "editor", SdxlIp2pEditor.__mro__[1]).load_base()


def test_a_plain_file_is_widened(bases: dict[str, Path], tmp_path: Path) -> None:
    file = write_single_file(bases["plain"], tmp_path / "cosxl.safetensors")
    layout = {"layout": str(bases["cosxl"])}
    with pytest.raises(UsageError, match=r"does not take a source image"):
        xl("cosxl", file, **layout).load_pipeline()
    editor = xl("cosxl", file, targets=("to_q", "conv_in"), **layout)
    unet = editor.load_base().unet
    assert unet.config.in_channels == 8
    plain = small_unet(4).from_pretrained(bases["plain"], subfolder="unet")
    assert torch.equal(unet.conv_in.weight[:, :4], plain.conv_in.weight)
    assert not unet.conv_in.weight[:, 4:].any()


def test_the_licence_of_the_base_is_told(
    bases: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    for choice, base, level, told in (
        ("sdxl_ip2p", "epsilon", "INFO", r"licence openrail++ (commercial use allowed)"),
        ("cosxl", "cosxl", "WARNING", "research-community-license (no commercial use)"),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO, "unsafe2safe"):
            xl(choice, bases[base]).load_base()
        assert [r.levelname for r in caplog.records if told in r.getMessage()] == [level]


def test_what_is_cut_from_a_text_is_not_printed(
    bases: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    xl("sdxl_ip2p", bases["epsilon"]).edit([request("red hair " * 60 + "Maria")])
    assert "maria" not in caplog.text.lower()

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline
from editors.tiny_kontext import SIDE, TEXT_TOKENS, kontext, save_tiny_kontext

from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.flux_kontext import FluxKontextEditor
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.editors.token_editor import tell_licence


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_kontext(tmp_path_factory.mktemp("kontext"))


@pytest.fixture(scope="module")
def editor(base: Path) -> FluxKontextEditor:
    return kontext(weights=str(base))


def request(seed: int, height: int = 50, width: int = 70, **values: Any) -> EditRequest:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.float32)
    given = {"public_caption": "a person", "edit_instruction": "red hair", "seed": seed} | values
    return EditRequest(image=image, mask=mask, regions=(), **given)


def test_edits_keep_order_size_and_type_and_their_own_noise(editor: FluxKontextEditor) -> None:
    requests = [
        request(1),
        request(2, 33, 90, text_guidance=1.5),
        request(3, 64, 64),
        request(4, 7, 9),
    ]
    edited = editor.edit(requests)
    assert [image.shape for image in edited] == [r.image.shape for r in requests]
    assert all(image.dtype == np.uint8 for image in edited)
    for one, image in zip(requests[:2], edited, strict=False):
        alone = editor.edit([one])[0]
        assert np.abs(alone.astype(int) - image.astype(int)).max() <= 1  # rounding to 8 bits


def test_text_seed_and_guidance_change_the_edit(editor: FluxKontextEditor) -> None:
    picture = [np.full((SIDE, SIDE, 3), 90, np.uint8)]

    def edited(text: str = "red hair", seed: int = 1, times: float = 1.0) -> np.ndarray:
        return editor.run(editor.pipeline, picture, [text], [seed], times)

    others = (edited(text="BLUE"), edited(seed=9), edited(times=2.5))
    assert all(np.abs(other - edited()).max() > 1e-5 for other in others)


def test_an_edit_is_what_the_public_pipeline_gives_for_the_text(
    editor: FluxKontextEditor, base: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    plain = FluxKontextPipeline.from_pretrained(base, dtype=torch.float32)
    plain.set_progress_bar_config(disable=True)
    expected = plain(
        image=to_model([pixels]) / 2 + 0.5,
        prompt="red hair",
        height=SIDE,
        width=SIDE,
        max_area=SIDE**2,
        _auto_resize=False,
        num_inference_steps=editor.steps,
        guidance_scale=editor.guidance_scale,
        max_sequence_length=TEXT_TOKENS,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images
    np.testing.assert_allclose(
        editor.run(editor.pipeline, [pixels], ["red hair"], [3]), expected, atol=1e-5
    )


def test_latents_are_those_that_the_pipeline_makes(editor: FluxKontextEditor) -> None:
    images = to_model([np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)])
    with torch.no_grad():
        mean, deviation = editor.encode_images(editor.pipeline, images)
        expected = editor.pipeline._encode_vae_image(images, None)
        posterior = editor.pipeline.vae.encode(images).latent_dist
    torch.testing.assert_close(mean, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(deviation, posterior.std * 0.7, atol=1e-6, rtol=0)


def test_a_base_is_the_same_in_another_dtype_and_another_in_others(
    editor: FluxKontextEditor, base: Path
) -> None:
    half = kontext(weights=str(base), dtype="bfloat16")
    pipeline = half.load_base()
    assert {getattr(pipeline, name).dtype for name in half.parts} == {torch.bfloat16}
    known = editor.base_fingerprint(editor.load_base())
    assert half.base_fingerprint(pipeline) == known
    with torch.no_grad():
        pipeline.transformer.x_embedder.weight[0, 0] += 1
    assert half.base_fingerprint(pipeline) != known


def test_what_the_weights_hold_counts_for_a_run_and_not_where_they_lie(
    editor: FluxKontextEditor, tmp_path: Path
) -> None:
    moved = save_tiny_kontext(tmp_path / "moved")
    assert kontext(weights=str(moved)).weights_content() == editor.weights_content()
    (moved / "scheduler/scheduler_config.json").write_text("{}")
    assert kontext(weights=str(moved)).weights_content() != editor.weights_content()
    told = kontext().weights_content()["editor.weights"]
    assert told == "black-forest-labs/FLUX.1-Kontext-dev@main"


def test_a_licence_without_commercial_use_is_told_once(
    editor: FluxKontextEditor, caplog: pytest.LogCaptureFixture
) -> None:
    tell_licence.cache_clear()
    with caplog.at_level(logging.WARNING, "unsafe2safe"):
        for _ in range(2):
            editor.load_base()
    assert caplog.text.count("non-commercial-license, which allows no commercial use") == 1


def test_a_text_that_is_too_long_is_not_repeated_by_the_library(
    editor: FluxKontextEditor, caplog: pytest.LogCaptureFixture
) -> None:
    editor.run(editor.pipeline, [np.zeros((SIDE, SIDE, 3), np.uint8)], ["secret " * 200], [0])
    assert "secret" not in caplog.text


def test_unusable_weights_are_told_before_they_are_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no folder, and no id of the hub"):
        kontext(weights=str(tmp_path / "nothing")).weights_content()
    with pytest.raises(UsageError, match=r"holds no diffusers pipeline"):
        kontext(weights=str(tmp_path)).weights_content()
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UsageError, match=r"is a FluxPipeline; .* needs a FluxKontextPipeline"):
        kontext(weights=str(tmp_path)).load_base()
    with pytest.raises(ConfigError, match=r"trainable=branch: editor=kontext has no caption"):
        kontext(trainable="branch")
    with pytest.raises(ConfigError, match=r"trainable=full trains in fp32"):
        kontext(trainable="full", dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"editor\.dtype="):
        kontext(dtype="float16")

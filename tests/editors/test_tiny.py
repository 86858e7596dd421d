from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.instruct_pix2pix import encode_text, restore, square, to_model
from unsafe2safe.editors.lora_targets import target_modules
from unsafe2safe.editors.tiny import TinyEditor
from unsafe2safe.editors.tiny_model import build_autoencoder, normalize_latents, structured_images
from unsafe2safe.editors.tiny_tokenizer import MAX_TOKENS, build_tokenizer


def tiny(**values: Any) -> TinyEditor:
    config = dict(load("train").editor)  # type: ignore[attr-defined]
    return build(config | {"steps": 3, "init_seed": 0} | values, "editor", TinyEditor)


@pytest.fixture(scope="module")
def editor() -> TinyEditor:
    return tiny()


def request(seed: int, height: int = 50, width: int = 70, guidance: float = 1.0) -> EditRequest:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.float32)
    texts = "a person", "give the person red hair"
    return EditRequest(image, mask, (), *texts, seed, text_guidance=guidance)


def test_edits_keep_order_size_and_type(editor: TinyEditor) -> None:
    requests = [request(1), request(2, 33, 90, 1.5), request(3, 64, 64), request(4, 7, 9)]
    edited = editor.edit(requests)
    assert [image.shape for image in edited] == [r.image.shape for r in requests]
    assert all(image.dtype == np.uint8 for image in edited)


def test_an_items_batch_does_not_change_its_noise(editor: TinyEditor) -> None:
    requests = [request(seed, guidance=1 + seed % 2) for seed in range(3)]
    together = editor.edit(requests)
    for one, image in zip(requests, together, strict=True):
        alone = editor.edit([one])[0]
        assert np.abs(alone.astype(int) - image.astype(int)).max() <= 1  # rounding to 8 bits
    other_seed = editor.edit([EditRequest(**(vars(requests[0]) | {"seed": 77}))])[0]
    assert np.abs(other_seed.astype(int) - together[0]).max() > 1


def test_guidance_and_text_change_the_edit(editor: TinyEditor) -> None:
    plain, stronger = request(1), request(1, guidance=2.0)
    other = EditRequest(**(vars(plain) | {"edit_instruction": "blue shirt"}))
    first, second, third = (editor.edit([r])[0].astype(int) for r in (plain, stronger, other))
    assert np.abs(first - second).max() > 0
    assert np.abs(first - third).max() > 0


def test_the_base_is_a_function_of_its_seed_and_leaves_torchs_own_alone(
    editor: TinyEditor,
) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    again = editor.load_base()
    assert torch.equal(before, torch.random.get_rng_state())
    fingerprint = editor.base_fingerprint(again)
    assert fingerprint == editor.base_fingerprint(editor.load_base())
    other = tiny(init_seed=1)
    assert fingerprint != other.base_fingerprint(other.load_base())


@pytest.mark.slow
def test_the_base_is_the_same_under_another_thread_count(editor: TinyEditor) -> None:
    threads = torch.get_num_threads()
    found = set()
    for count in (1, 2):
        torch.set_num_threads(count)
        found.add(editor.base_fingerprint(editor.load_base()))
    torch.set_num_threads(threads)
    assert len(found) == 1


def test_latents_have_mean_0_and_mean_variance_1(editor: TinyEditor) -> None:
    posterior = editor.load_base().vae.encode(structured_images(16, 64, 123)).latent_dist
    assert posterior.mean.mean((0, 2, 3)).abs().max() < 0.4
    assert float(posterior.mean.var((0, 2, 3)).mean()) == pytest.approx(1.0, abs=0.4)
    assert posterior.std.max() < 0.1


@torch.no_grad()
def test_what_the_decoder_does_not_show_is_not_blown_up() -> None:
    torch.manual_seed(0)
    vae, images = build_autoencoder(), structured_images(16, 64, 5)
    vae.post_quant_conv.weight[:, 3] = 0.0  # nothing of this channel reaches the picture
    before = vae.decode(vae.encode(images).latent_dist.mode()).sample
    normalize_latents(vae, images)
    latents = vae.encode(images).latent_dist.mode()
    torch.testing.assert_close(vae.decode(latents).sample, before, atol=2e-3, rtol=1e-3)
    variances = torch.linalg.eigvalsh(torch.cov(latents.transpose(0, 1).flatten(1).double()))
    assert float(variances.mean()) == pytest.approx(1.0, abs=0.01)
    assert variances[0] < 1e-3 * variances[-1]


def test_texts_are_encoded_as_the_pipeline_does(editor: TinyEditor) -> None:
    pipeline = editor.load_base()
    texts = ["give the person red hair", ""]
    expected = pipeline._encode_prompt(texts, torch.device("cpu"), 1, False)
    torch.testing.assert_close(encode_text(pipeline, texts), expected, atol=0, rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200))
def test_any_text_tokenizes_without_unknowns(text: str) -> None:
    tokenizer = build_tokenizer_once()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids or "<|endoftext|>" in text
    padded = tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(padded) == MAX_TOKENS


_TOKENIZER: list[Any] = []


def build_tokenizer_once() -> Any:
    if not _TOKENIZER:
        _TOKENIZER.append(build_tokenizer())
    return _TOKENIZER[0]


def test_listed_words_are_one_token_each() -> None:
    ids = build_tokenizer_once()("give the person short brown hair", add_special_tokens=False)
    assert len(ids.input_ids) == 6


def test_a_saved_pipeline_loads_as_weights(editor: TinyEditor, tmp_path: Path) -> None:
    editor.load_base().save_pretrained(tmp_path / "base")
    loaded = tiny(weights=tmp_path / "base", init_seed=None)
    first, second = editor.edit([request(1)]), loaded.edit([request(1)])
    assert np.abs(first[0].astype(int) - second[0]).max() <= 1


def test_unusable_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"editor\.weights="):
        tiny(weights=tmp_path, init_seed=None).load_base()
    with pytest.raises(UsageError, match=r"holds no adapter\.json"):
        tiny(adapter=tmp_path).load_pipeline()
    (tmp_path / "adapter.json").write_text("{}")
    with pytest.raises(UsageError, match=r"adapter\.json"):
        tiny(adapter=tmp_path).load_pipeline()


@pytest.mark.parametrize(
    ("key", "value"), [("rank", 0), ("steps", 0), ("text_guidance_scale", 1.0), ("resolution", 60)]
)
def test_values_out_of_bounds_name_their_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"editor.{key}="):
        tiny(**{key: value})


def test_captions_choose_the_text() -> None:
    assert tiny().text_of("A beach.", "Red hair.") == "Red hair."
    assert tiny(captions="public+instruction").text_of("A beach.", "Red hair.") == (
        "A beach. Red hair."
    )


def test_targets_are_matched_by_the_end_of_their_name(editor: TinyEditor) -> None:
    unet = editor.load_base().unet
    found = target_modules(unet, ("to_q", "conv_in"))
    assert "conv_in" in found
    assert all(name == "conv_in" or name.endswith(".to_q") for name in found)
    with pytest.raises(UsageError, match="'q' matches no layer"):
        target_modules(unet, ("q",))


def test_squares_go_to_the_model_and_back() -> None:
    image = np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3)
    tensor = to_model([square(image, 64)])
    assert tensor.shape == (1, 3, 64, 64)
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    back = restore(((tensor + 1) / 2)[0].permute(1, 2, 0).numpy(), 64, 64)
    assert np.array_equal(back, image)
    with pytest.raises(ValueError, match="not finite"):
        restore(np.full((8, 8, 3), np.nan, np.float32), 8, 8)


def test_without_a_seed_the_base_is_the_packaged_one_and_its_absence_is_told(
    editor: TinyEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unsafe2safe.editors.tiny.packaged_weights", lambda: tmp_path / "tiny")
    packaged = tiny(init_seed=None)
    with pytest.raises(UsageError, match=r"holds no weights of editor=tiny .*editor\.init_seed=0"):
        packaged.load_base()
    base = editor.load_base()
    base.save_pretrained(tmp_path / "tiny")
    assert packaged.base_fingerprint(packaged.load_base()) == editor.base_fingerprint(base)


def test_settings_of_a_random_base_are_refused_beside_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"editor\.init_seed and editor\.weights"):
        tiny(weights=tmp_path)
    with pytest.raises(ConfigError, match=r"editor\.prediction_type is for a random base"):
        tiny(init_seed=None, prediction_type="v_prediction")

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from editors.tiny_qwen_edit import (
    LATENT_CHANNELS,
    SIDE,
    pictures_of_that_size,
    qwen_edit,
    save_tiny_qwen_edit,
)
from PIL import Image
from torch import Tensor

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.editors.text_embedding import TextEmbedding


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "edit": save_tiny_qwen_edit(tmp_path_factory.mktemp("edit")),
        "plus": save_tiny_qwen_edit(tmp_path_factory.mktemp("plus"), plus=True, zero_cond_t=True),
    }


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("references")
    made = []
    for index, (height, width) in enumerate([(40, 40), (30, 70)]):
        pixels = np.random.default_rng(7 + index).integers(0, 256, (height, width, 3), np.uint8)
        made.append(folder / f"face{index}.png")
        Image.fromarray(pixels).save(made[-1])
    return tuple(made)


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def public_edit(
    folder: Path, pictures: list[Image.Image], text: str, steps: int, scale: float
) -> np.ndarray:
    plain = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    plain.set_progress_bar_config(disable=True)
    with pictures_of_that_size():
        return plain(
            image=pictures,
            prompt=text,
            negative_prompt=" ",
            true_cfg_scale=scale,
            height=SIDE,
            width=SIDE,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(3),
            output_type="np",
        ).images


@pytest.mark.parametrize("form", ["edit", "plus", "plus with references"])
def test_an_edit_is_what_the_public_pipeline_gives(
    form: str, bases: dict[str, Path], references: tuple[Path, ...]
) -> None:
    folder, shown = bases[form[:4]], references if "references" in form else ()
    editor = qwen_edit(weights=str(folder), references=shown)
    pictures = [Image.fromarray(pixels(0)), *(Image.open(path) for path in shown)]
    scale = editor.guidance_scale
    expected = public_edit(folder, pictures, "red hair", editor.steps, scale)
    ours = editor.run(editor.pipeline, [pixels(0)], ["red hair"], [3])
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_edits_keep_order_size_and_their_own_noise(bases: dict[str, Path]) -> None:
    editor = qwen_edit(weights=str(bases["edit"]))

    def request(seed: int, height: int, width: int, text: str) -> EditRequest:
        image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.float32)
        return EditRequest(image, mask, (), "a person", text, seed)

    requests = [request(1, 50, 70, "red hair"), request(2, 33, 90, "a blue hat and green trousers")]
    edited = editor.edit(requests)
    assert [image.shape for image in edited] == [r.image.shape for r in requests]
    for one, image in zip(requests, edited, strict=True):
        alone = editor.edit([one])[0]
        assert np.abs(alone.astype(int) - image.astype(int)).max() <= 1  # rounding to 8 bits


def test_source_text_seed_guidance_and_references_change_the_edit(
    bases: dict[str, Path], references: tuple[Path, ...]
) -> None:
    editor = qwen_edit(weights=str(bases["plus"]))

    def edited(
        picture: int = 0,
        text: str = "red hair",
        seed: int = 1,
        times: float = 1.0,
        by: Any = editor,
    ) -> np.ndarray:
        return by.run(editor.pipeline, [pixels(picture)], [text], [seed], times)

    other = qwen_edit(weights=str(bases["plus"]), references=references[:1])
    others = (
        edited(picture=5),
        edited(text="BLUE"),
        edited(seed=9),
        edited(times=2.5),
        edited(by=other),
    )
    assert all(np.abs(one - edited()).max() > 1e-5 for one in others)


def test_texts_see_their_source_and_shorter_ones_are_masked(bases: dict[str, Path]) -> None:
    editor = qwen_edit(weights=str(bases["edit"]))
    pipeline, pictures = editor.pipeline, to_model([pixels(0), pixels(1)])
    assert editor.text_sees_source
    with torch.no_grad():
        texts = editor.encode_texts(pipeline, ["red", "a blue hat"], pictures)
        assert texts.mask is not None
        assert texts.mask.sum(1).tolist() == [texts.tokens.shape[1] - 7, texts.tokens.shape[1]]
        for index, text in enumerate(["red", "a blue hat"]):
            length = int(texts.mask[index].sum())
            picture = Image.fromarray(pixels(index))
            expected, _ = pipeline.encode_prompt([text], picture)
            torch.testing.assert_close(texts.tokens[index : index + 1, :length], expected)
        swapped = editor.encode_texts(pipeline, ["red", "a blue hat"], pictures.flip(0))
        assert float((swapped.tokens - texts.tokens).abs().amax((1, 2)).min()) > 1e-3
        with pytest.raises(ValueError, match="no text without its source"):
            editor.encode_texts(pipeline, ["red"])


@torch.no_grad()
def test_what_fills_up_a_shorter_text_does_not_count(bases: dict[str, Path]) -> None:
    editor = qwen_edit(weights=str(bases["edit"]))
    pipeline, pictures = editor.pipeline, to_model([pixels(0)])
    text = editor.encode_texts(pipeline, ["red"], pictures)
    noisy = torch.randn(1, LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))

    def predicted(told: TextEmbedding) -> Tensor:
        return editor.predict(pipeline, noisy, noisy + 1, torch.tensor([400.0]), told)

    longer = text.filled_to(text.tokens.shape[1] + 5)
    torch.testing.assert_close(predicted(longer), predicted(text))
    assert not torch.allclose(predicted(TextEmbedding(longer.tokens)), predicted(text))


def test_the_base_says_which_form_it_is(bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"which sees the source alone; a QwenImageEditPlus"):
        qwen_edit(weights=str(bases["edit"]), references=(tmp_path / "x.png",)).weights_content()
    with pytest.raises(UsageError, match=r"editor\.references: .*x\.png"):
        qwen_edit(weights=str(bases["plus"]), references=(tmp_path / "x.png",)).weights_content()
    (tmp_path / "model_index.json").write_text('{"_class_name": "QwenImagePipeline"}')
    with pytest.raises(
        UsageError, match=r"needs a QwenImageEditPipeline or a QwenImageEditPlusPipeline"
    ):
        qwen_edit(weights=str(tmp_path)).load_base()


def test_what_a_reference_shows_counts_for_a_run_and_not_where_it_lies(
    bases: dict[str, Path], references: tuple[Path, ...], tmp_path: Path
) -> None:
    def content(*paths: Path) -> dict[str, str]:
        return dict(qwen_edit(weights=str(bases["plus"]), references=paths).weights_content())

    moved = tmp_path / "moved.png"
    moved.write_bytes(references[0].read_bytes())
    assert content(moved) == content(references[0])
    assert content(references[1]) != content(references[0])
    assert content(*references) != content(*reversed(references))


def test_a_base_loads_in_half_precision_with_its_autoencoder_in_fp32(
    bases: dict[str, Path],
) -> None:
    editor = qwen_edit(weights=str(bases["edit"]), dtype="float16")
    pipeline = editor.load_pipeline()
    assert (pipeline.transformer.dtype, pipeline.vae.dtype) == (torch.float16, torch.float32)
    half = editor.run(pipeline, [pixels(0)], ["red hair"], [3])
    whole = qwen_edit(weights=str(bases["edit"]))
    full = whole.run(whole.pipeline, [pixels(0)], ["red hair"], [3])
    assert half.dtype == np.float32
    assert np.isfinite(half).all()
    assert half.shape == full.shape

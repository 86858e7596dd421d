"""Free-Prompt-Editing against its algorithm written out, on true classes at toy size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from tiny_pipelines import save_sd1
from torch import Tensor

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.freeprompt import FreePromptEditor

STEPS = 5
TEXT = "a person in a blue hat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd1(tmp_path_factory.mktemp("weights") / "sd1")


@pytest.fixture(scope="module")
def editor(folder: Path) -> FreePromptEditor:
    return freeprompt(folder)


def with_settings(editor: FreePromptEditor, **values: Any) -> FreePromptEditor:
    """The same with other settings, without loading its pipeline again."""
    other = replace(editor, **values)
    other.__dict__["pipeline"] = editor.pipeline
    return other


def latents() -> Tensor:
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))


def freeprompt(folder: Path, **values: Any) -> FreePromptEditor:
    config = dict(load("anonymize", ["editor=freeprompt"]).editor)  # type: ignore[attr-defined]
    small = {"weights": str(folder), "device": "cpu", "resolution": 32, "steps": STEPS}
    return build(config | small | values, "editor", FreePromptEditor)


def request(
    seed: int, height: int = 41, width: int = 60, text_guidance: float = 1.0
) -> EditRequest:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.float32)
    return EditRequest(image, mask, (), TEXT, "blue hat", seed, text_guidance=text_guidance)


class Maps:
    """Attention written out, which keeps the maps of self-attention or puts kept ones in place."""

    def __init__(self) -> None:
        self.kept: dict[int, Tensor] = {}
        self.mode = ""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(states: Tensor) -> Tensor:
            return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        q = heads(attn.to_q(hidden_states))
        k, v = heads(attn.to_k(context)), heads(attn.to_v(context))
        map_ = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        if encoder_hidden_states is None:
            if self.mode == "keep":
                self.kept[id(attn)] = map_
            if self.mode == "replace" and map_.shape[-1] <= 64:  # of 256: at 512 px 32 x 32
                map_ = self.kept[id(attn)]
        return attn.to_out[0]((map_ @ v).transpose(1, 2).flatten(-2))


def written_out(
    pipeline: Any, z_0: Tensor, source: str, target: str, guidance: float, replaced: int
) -> Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha = (1 - betas).cumprod(0)
    every = 1000 // STEPS
    ts = [1 + every * i for i in range(STEPS)]
    maps = Maps()
    pipeline.unet.set_attn_processor(maps)

    def embed(text: str) -> Tensor:
        ids = pipeline.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt")
        return pipeline.text_encoder(ids.input_ids).last_hidden_state

    def eps(z: Tensor, t: int, text: str, mode: str = "") -> Tensor:
        maps.mode = mode
        return pipeline.unet(z, t, encoder_hidden_states=embed(text)).sample

    def ddim(z: Tensor, noise: Tensor, a_from: Tensor, a_to: Tensor) -> Tensor:
        image = (z - (1 - a_from) ** 0.5 * noise) / a_from**0.5
        return a_to**0.5 * image + (1 - a_to) ** 0.5 * noise

    levels = [alpha[0], *(alpha[t] for t in ts)]
    inverted = [z_0]
    for i, t in enumerate(ts):
        inverted.append(ddim(inverted[-1], eps(inverted[-1], t, source), levels[i], levels[i + 1]))
    z = inverted[-1]
    for step, i in enumerate(reversed(range(STEPS))):
        t = ts[i]
        eps(inverted[i + 1], t, source, "keep")
        without = eps(z, t, "")
        towards = eps(z, t, target, "replace" if step < replaced else "")
        z = ddim(z, without + guidance * (towards - without), levels[i + 1], levels[i])
    return z


@pytest.fixture(scope="module")
def exact(folder: Path) -> FreePromptEditor:
    """In float64: a random network and guidance blow the rounding of float32 up to 5e-5."""
    editor = freeprompt(folder)
    editor.pipeline.to(torch.float64)
    return editor


@torch.no_grad()
@pytest.mark.parametrize(("source", "share", "replaced"), [("", 0.4, 2), ("Anna, red hat", 0.8, 4)])
def test_edits_are_the_published_algorithms(
    exact: FreePromptEditor, source: str, share: float, replaced: int
) -> None:
    chosen, z_0 = with_settings(exact, self_attention_replace=share), latents().double()
    unet = exact.pipeline.unet
    unet.set_attn_processor(AttnProcessor2_0())
    found = chosen.edit_latents(z_0, source, TEXT)
    expected = written_out(exact.pipeline, z_0, source, TEXT, 7.5, replaced)
    never = written_out(exact.pipeline, z_0, source, TEXT, 7.5, 0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - never).abs().max() > 1e-3  # the maps count


@torch.no_grad()
def test_denoising_undoes_the_inversion_where_the_noise_does_not_depend_on_the_level(
    folder: Path,
) -> None:
    fixed = freeprompt(folder)
    torch.nn.init.zeros_(fixed.pipeline.unet.conv_out.weight)
    fixed.pipeline.unet.conv_out.bias.copy_(torch.tensor([0.5, -1.0, 0.0, 2.0]))
    assert fixed.invert(latents(), torch.zeros(1, 3, 16))[801].abs().max() < 3.5
    torch.testing.assert_close(
        fixed.edit_latents(latents(), "", TEXT), latents(), atol=1e-4, rtol=1e-4
    )


def test_nothing_is_random_and_a_batch_changes_nothing(editor: FreePromptEditor) -> None:
    requests = [request(1), request(3, 7, 90, text_guidance=1.5)]
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    together = editor.edit(requests)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [image.shape for image in together] == [r.image.shape for r in requests]
    for one, image in zip(requests, together, strict=True):
        assert np.array_equal(image, editor.edit([replace(one, seed=77)])[0])
    stronger = editor.edit([replace(requests[0], text_guidance=1.5)])[0]
    assert not np.array_equal(stronger, together[0])
    assert not any(module._forward_hooks for module in editor.pipeline.unet.modules())


def test_stronger_text_guidance_keeps_less_of_the_layout(folder: Path) -> None:
    published = freeprompt(folder, steps=50)
    assert [published.replaced_steps(times) for times in (1, 1.5, 2, 2.5)] == [20, 13, 10, 8]


def test_the_private_caption_is_read_only_when_asked_for(editor: FreePromptEditor) -> None:
    assert not editor.reads_private_caption
    with_caption = replace(request(1), private_caption="Anna with a red hat")
    assert np.array_equal(editor.edit([request(1)])[0], editor.edit([with_caption])[0])
    reading = with_settings(editor, source_text="private_caption")
    assert reading.reads_private_caption
    assert not np.array_equal(reading.edit([with_caption])[0], editor.edit([with_caption])[0])
    with pytest.raises(ValueError, match="private caption"):
        reading.edit([request(1)])

"""The public-caption branch: nothing at first, heard once its gate opens, loaded whole or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.caption_branch import (
    BRANCH_FILE,
    add_caption_branch,
    caption_branch,
    load_caption_branch,
    save_caption_branch,
    without_caption_branch,
)
from unsafe2safe.editors.instruct_pix2pix import encode_text
from unsafe2safe.editors.tiny import TinyEditor


def tiny(**values: Any) -> TinyEditor:
    config = dict(load("train").editor)  # type: ignore[attr-defined]
    settings = {"steps": 2, "init_seed": 0, "caption_branch": "gated"}
    return build(config | settings | values, "editor", TinyEditor)


def small_unet(**values: Any) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(5)
    settings = {
        "sample_size": 8,
        "in_channels": 8,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**settings | values).eval()


SDXL = {
    "use_linear_projection": True,
    "transformer_layers_per_block": (2, 1),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 16,
}


def open_gates(unet: Any, value: float) -> None:
    for name, parameter in caption_branch(unet).items():
        if name.endswith(".gate"):
            parameter.data.fill_(value)


@pytest.mark.parametrize("kind", [{}, {"attention_head_dim": (2, 8)}, SDXL])
def test_a_new_branch_changes_no_bit_and_an_open_gate_adds_what_the_formula_says(
    kind: dict[str, Any],
) -> None:
    unet = small_unet(**kind)
    random = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 8, 8, 8, generator=random)
    text, caption = torch.randn(2, 2, 6, 24, generator=random)
    more = (
        {"text_embeds": torch.ones(2, 16), "time_ids": torch.ones(2, 6)} if kind == SDXL else None
    )

    def output(states: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return unet(latents, 10, states, added_cond_kwargs=more).sample

    before = output(text)
    add_caption_branch(unet, text_tokens=6)
    both = torch.cat([text, caption], 1)
    assert torch.equal(output(both), before)
    # projections copied from the text branch and the text itself as caption: with gate -1 the two
    # branches cancel, and only to_out's bias is left of every cross-attention
    open_gates(unet, -1.0)
    doubled = output(torch.cat([text, text], 1))
    with without_caption_branch(unet):
        for name, module in unet.named_modules():
            if name.endswith("attn2.to_v"):
                module.weight.data.zero_()
        torch.testing.assert_close(doubled, output(text), atol=1e-5, rtol=1e-5)


def test_the_projections_are_copied_from_the_loaded_base() -> None:
    unet = small_unet()
    add_caption_branch(unet, 6)
    branch, base = caption_branch(unet), unet.state_dict()
    assert len(branch) == 3 * 4  # two down or mid layers, two up
    for name, parameter in branch.items():
        if name.endswith(".gate"):
            assert parameter.item() == 0
        else:
            assert torch.equal(parameter, base[name.replace("public_", "")])
        assert not parameter.requires_grad


def test_texts_of_another_length_are_refused() -> None:
    unet = small_unet()
    add_caption_branch(unet, 6)
    for tokens in (6, 7):
        with pytest.raises(ValueError, match=f"6 tokens of text .* not {tokens} in all"):
            unet(torch.zeros(1, 8, 8, 8), 10, torch.zeros(1, tokens, 24))


def test_a_model_without_plain_cross_attention_is_refused() -> None:
    from diffusers import UNet2DConditionModel

    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    with pytest.raises(UsageError, match="has no cross-attention"):
        add_caption_branch(small_unet(**plain, mid_block_type="UNetMidBlock2D"), 6)
    added = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("SimpleCrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "SimpleCrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    with pytest.raises(UsageError, match="is no plain cross-attention"):
        add_caption_branch(added, 6)


def request(caption: str) -> EditRequest:
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return EditRequest(image, np.zeros((64, 64), np.float32), (), caption, "red hair", 5)


def test_edits_hear_the_caption_once_the_gate_is_open() -> None:
    editor, plain = tiny(), tiny(caption_branch="none")
    beach, street = request("a person on a beach"), request("a person in a street")
    closed = editor.edit([beach])[0]
    assert np.array_equal(closed, plain.edit([beach])[0])
    assert np.array_equal(closed, editor.edit([street])[0])
    open_gates(editor.pipeline.unet, 1.0)
    assert not np.array_equal(editor.edit([beach])[0], editor.edit([street])[0])


def test_guidance_compares_with_an_empty_text_and_an_empty_caption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    editor = tiny()
    unet = editor.pipeline.unet
    seen: list[torch.Tensor] = []
    honest = unet.forward

    def watched(*inputs: Any, **named: Any) -> Any:
        seen.append(named["encoder_hidden_states"])
        return honest(*inputs, **named)

    monkeypatch.setattr(unet, "forward", watched)
    editor.edit([request("a beach"), request("a street")])
    with torch.no_grad():
        text, beach, street, nothing = encode_text(
            editor.pipeline, ["red hair", "a beach", "a street", ""]
        )
    without = torch.cat([nothing, nothing])
    rows = [torch.cat([text, beach]), torch.cat([text, street]), *([without] * 4)]
    torch.testing.assert_close(seen[0], torch.stack(rows), atol=1e-5, rtol=1e-5)


def filled(unet: Any) -> Any:
    torch.manual_seed(9)
    for parameter in caption_branch(unet).values():
        torch.nn.init.normal_(parameter)
    return unet


def test_a_saved_branch_comes_back_and_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    first, second = small_unet(), small_unet()
    add_caption_branch(first, 6)
    save_caption_branch(filled(first), tmp_path / "a.safetensors")
    add_caption_branch(second, 6, tmp_path / "a.safetensors")
    for name, parameter in caption_branch(first).items():
        assert torch.equal(parameter, caption_branch(second)[name])
    save_caption_branch(second, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_branch_loads_whole_or_not_at_all(tmp_path: Path) -> None:
    unet = small_unet()
    add_caption_branch(unet, 6)
    path = tmp_path / BRANCH_FILE
    save_caption_branch(unet, path)
    whole = load_file(path)
    gate = min(name for name in whole if name.endswith(".gate"))
    wrong = {
        "missing": {name: value for name, value in whole.items() if name != gate},
        "unknown": {**whole, "attn2.gate": torch.zeros(())},
        "of another shape": {**whole, gate: torch.zeros(2)},
    }
    for weights in wrong.values():
        save_file(weights, path)
        with pytest.raises(UsageError, match=r"is not a caption branch of this model \(.*gate"):
            load_caption_branch(unet, path)
    path.write_bytes(b"cut short")
    with pytest.raises(UsageError, match=BRANCH_FILE):
        load_caption_branch(unet, path)


def test_without_its_branch_a_model_is_what_it_was() -> None:
    unet = small_unet()
    before = set(unet.state_dict())
    add_caption_branch(unet, 6)
    filled(unet)
    inside = {}
    with without_caption_branch(unet):
        assert set(unet.state_dict()) == before
        assert caption_branch(unet) == inside
    assert len(caption_branch(unet)) == 12
    assert set(unet.state_dict()) > before


def test_the_branch_beside_the_base_is_where_an_editor_begins(tmp_path: Path) -> None:
    base = tiny().load_base()
    base.save_pretrained(tmp_path)
    shipped = tiny(weights=tmp_path, init_seed=None)
    fresh = shipped.load_pipeline()
    assert all(not v.any() for n, v in caption_branch(fresh.unet).items() if n.endswith(".gate"))
    save_caption_branch(filled(fresh.unet), tmp_path / BRANCH_FILE)
    begun = caption_branch(shipped.load_pipeline().unet)
    assert all(torch.equal(v, begun[n]) for n, v in caption_branch(fresh.unet).items())
    assert not caption_branch(
        tiny(weights=tmp_path, init_seed=None, caption_branch="none").load_pipeline().unet
    )

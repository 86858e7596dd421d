"""Safe Cross Attention: nothing at first, and once its gate opens what the paper's formula says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bases import TEXT_WIDTH, small_unet
from torch import nn

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors import branch_attention
from unsafe2safe.editors.branch_attention import SafeCrossAttention
from unsafe2safe.editors.caption_branch import (
    add_caption_branch,
    caption_branch,
    load_caption_branch,
    save_caption_branch,
)

TOKENS = 6


def unet() -> Any:
    torch.manual_seed(5)
    return small_unet(8).eval()


def texts(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    text, caption = torch.randn(2, count, TOKENS, TEXT_WIDTH, generator=random)
    return text, caption


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_branch_changes_no_bit(dtype: torch.dtype) -> None:
    model = unet().to(dtype)
    latents = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(2)).to(dtype)
    text, caption = (half.to(dtype) for half in texts())
    with torch.no_grad():
        before = model(latents, 10, text).sample
        add_caption_branch(model, TOKENS, kind="safe")
        after = model(latents, 10, torch.cat([text, caption], 1)).sample
    assert torch.equal(after, before)
    assert all(value.dtype == torch.float32 for value in caption_branch(model).values())


def test_the_projections_are_copied_from_the_loaded_base() -> None:
    model = unet()
    base = copy.deepcopy(model.state_dict())
    add_caption_branch(model, TOKENS, kind="safe")
    branch = caption_branch(model)
    copied = {name for name in branch if ".public_to_" in name}
    assert len(branch) == 7 * 4  # q, k, v, gate, and three weights of the fusion in each layer
    assert len(copied) == 3 * 4
    for name in copied:
        assert torch.equal(branch[name], base[name.replace("public_", "")])
    assert not any(v.any() for n, v in branch.items() if n.endswith(".gate"))
    again = unet()
    add_caption_branch(again, TOKENS, kind="safe")
    assert all(torch.equal(v, caption_branch(again)[n]) for n, v in branch.items())


def layer_with_branch() -> tuple[Any, SafeCrossAttention]:
    model = unet()
    add_caption_branch(model, TOKENS, kind="safe")
    attention = model.mid_block.attentions[0].transformer_blocks[0].attn2
    branch = attention.processor
    torch.manual_seed(3)
    for parameter in branch.parameters():
        nn.init.normal_(parameter, std=0.7)
    return attention, branch


def test_an_open_gate_adds_what_the_published_formula_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(branch_attention, "_FUSED_ROWS", 7)  # several pieces, the last not full
    attention, branch = layer_with_branch()
    pixels = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(4))
    text, caption = texts()
    with torch.no_grad():
        ours = attention(pixels, torch.cat([text, caption], 1))

        heads, width = attention.heads, 32 // attention.heads
        w_in, b_in = branch.fusion_in.weight[:, 0], branch.fusion_in.bias
        w_out, summed = branch.fusion_out.weight[0], torch.zeros(2, 5, 32)
        for item in range(2):
            q, k, v = (
                attention.to_q(pixels[item]),
                *(project(text[item]) for project in (attention.to_k, attention.to_v)),
            )
            pq = branch.public_to_q(pixels[item])
            pk, pv = branch.public_to_k(caption[item]), branch.public_to_v(caption[item])
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                for pixel in range(5):
                    told = torch.softmax(k[:, part] @ q[pixel, part] / width**0.5, 0)
                    public = torch.softmax(pk[:, part] @ pq[pixel, part] / width**0.5, 0)
                    row = torch.cat([told, public])
                    padded = torch.cat([torch.zeros(1), row, torch.zeros(1)])
                    hidden = torch.stack(
                        [w_in @ padded[at : at + 3] + b_in for at in range(2 * TOKENS)]
                    )
                    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
                    around = torch.cat([torch.zeros(1, 16), hidden, torch.zeros(1, 16)])
                    logits = torch.stack(
                        [(w_out * around[at : at + 3].T).sum() for at in range(2 * TOKENS)]
                    )
                    fused = torch.softmax(logits[TOKENS:], 0)
                    summed[item, pixel, part] = told @ v[:, part] + branch.gate * (
                        fused @ pv[:, part]
                    )
        expected = attention.to_out[0](summed)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_the_fusion_begins_by_handing_the_public_map_on() -> None:
    model = unet()
    add_caption_branch(model, TOKENS, kind="safe")
    branch = model.mid_block.attentions[0].transformer_blocks[0].attn2.processor
    public = torch.tensor([0.9, 0.02, 0.02, 0.02, 0.02, 0.02])
    rows = torch.cat([torch.full((TOKENS,), 1 / TOKENS), public])[None, None]
    with torch.no_grad():
        fused = branch._fused(rows)[0]
        flat = torch.cat([public, torch.full((TOKENS,), 1 / TOKENS)])[None, None]
        uniform = branch._fused(flat)[0]
    assert fused[0] > 0.9  # not uniform, as the released form begins
    torch.testing.assert_close(uniform, torch.full((TOKENS,), 1 / TOKENS), atol=1e-6, rtol=0)


def test_recomputed_fusions_give_the_gradients_of_kept_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attention, branch = layer_with_branch()
    pixels = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(4))
    both = torch.cat(texts(), 1)
    branch.requires_grad_(True)

    def gradients() -> dict[str, torch.Tensor]:
        branch.zero_grad()
        attention(pixels, both).square().sum().backward()
        return {name: value.grad.clone() for name, value in branch.named_parameters()}

    recomputed = gradients()
    monkeypatch.setattr(SafeCrossAttention, "_fused", SafeCrossAttention._fuse)
    for name, value in gradients().items():
        assert value.any()
        torch.testing.assert_close(recomputed[name], value, atol=0, rtol=0)


def test_a_branch_of_another_kind_is_refused(tmp_path: Path) -> None:
    safe, gated = unet(), unet()
    add_caption_branch(safe, TOKENS, kind="safe")
    add_caption_branch(gated, TOKENS, kind="gated")
    for one, other in ((safe, gated), (gated, safe)):
        save_caption_branch(one, tmp_path / "branch.safetensors")
        with pytest.raises(UsageError, match="is not a caption branch of this model"):
            load_caption_branch(other, tmp_path / "branch.safetensors")

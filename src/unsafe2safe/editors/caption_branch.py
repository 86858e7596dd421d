"""The public-caption branch: a second cross-attention for the public caption (``gated``).

Beside the text branch of every cross-attention of a UNet stands one with keys and values of its
own, read from the public caption, with the text branch's queries:

    out = to_out(attention(q, k(text), v(text)) + gate * attention(q, public_k(c), public_v(c)))

The idea is the paper's Safe Cross Attention; its released form copies the projections before the
checkpoint is loaded, begins from a random fusion of both maps and doubles the magnitude of the sum.
Here the projections are copied from the loaded text branch and each layer's gate begins at 0, so a
new branch leaves the editor exactly as it is.

The caption's embedding travels behind the text's on the token axis: (B, 2L, D). The pipelines of
diffusers thereby carry it through every branch of their guidance without knowing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unsafe2safe.core.errors import UsageError

BRANCH_FILE = "caption_branch.safetensors"
_FORMAT = {"format": "unsafe2safe.caption_branch.1"}


class CaptionBranchAttention(nn.Module):
    """An attention processor of diffusers for one cross-attention layer.

    ``public_to_k`` and ``public_to_v`` begin as copies of the layer's own, ``gate`` () at 0. An
    instance belongs to the layer it was made for.
    """

    def __init__(self, attention: Any, text_tokens: int) -> None:
        """For a diffusers ``Attention``; its texts are ``text_tokens`` long."""
        super().__init__()
        self._text_tokens = text_tokens
        # fp32 whatever the base is in: small steps of training would be lost in half precision.
        self.public_to_k = deepcopy(attention.to_k).float()
        self.public_to_v = deepcopy(attention.to_v).float()
        self.gate = nn.Parameter(torch.zeros((), device=attention.to_k.weight.device))

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,  # noqa: ARG002 - diffusers hands it to every processor
    ) -> Tensor:
        """(B, N, D) pixels and (B, 2L, D) text behind which the caption stands, to (B, N, D).

        Raises:
            ValueError: the texts are not 2 L tokens long, or come with a mask.
        """
        tokens = 0 if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        if encoder_hidden_states is None or tokens != 2 * self._text_tokens:
            raise ValueError(
                f"a UNet with a caption branch needs {self._text_tokens} tokens of text and as "
                f"many of public caption behind them, not {tokens} in all"
            )
        if attention_mask is not None:
            raise ValueError("a caption branch takes no attention mask")
        text = encoder_hidden_states[:, : self._text_tokens]
        caption = encoder_hidden_states[:, self._text_tokens :]
        query = _heads(attn.to_q(hidden_states), attn.heads)
        told = functional.scaled_dot_product_attention(
            query, _heads(attn.to_k(text), attn.heads), _heads(attn.to_v(text), attn.heads)
        )
        caption = caption.to(self.public_to_k.weight.dtype)
        public = functional.scaled_dot_product_attention(
            query,
            _heads(self.public_to_k(caption), attn.heads).to(query.dtype),
            _heads(self.public_to_v(caption), attn.heads).to(query.dtype),
        )
        both = told + self.gate.to(told.dtype) * public
        joined = both.transpose(1, 2).flatten(2).to(query.dtype)
        projected: Tensor = attn.to_out[1](attn.to_out[0](joined))
        return projected


def _heads(projected: Tensor, heads: int) -> Tensor:
    """(B, T, heads * d) to (B, heads, T, d)."""
    batch, tokens, width = projected.shape
    return projected.view(batch, tokens, heads, width // heads).transpose(1, 2)


def add_caption_branch(unet: Any, text_tokens: int, weights: Path | None = None) -> None:
    """Give every cross-attention of ``unet`` a caption branch, without gradients.

    ``unet`` must hold its base's weights already and no LoRA yet: the branch begins as their copy,
    or from the file ``weights``.

    Raises:
        UsageError: a layer is of a kind that cannot have a branch, there is none at all, or
            ``weights`` is not a branch of this UNet.
    """
    layers = _cross_attentions(unet)
    if not layers:
        raise UsageError("editor.caption_branch=gated: the model has no cross-attention")
    for name, attention in layers.items():
        if not _is_plain(attention):
            raise UsageError(f"editor.caption_branch=gated: {name} is no plain cross-attention")
        attention.set_processor(CaptionBranchAttention(attention, text_tokens))
    for parameter in caption_branch(unet).values():
        parameter.requires_grad_(False)
    if weights is not None:
        load_caption_branch(unet, weights)


def _cross_attentions(unet: Any) -> dict[str, Any]:
    from diffusers.models.attention_processor import Attention

    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and module.is_cross_attention
    }


def _is_plain(attention: Any) -> bool:
    """Whether it is the cross-attention of a transformer block, which AttnProcessor2_0 computes
    without any of its options."""
    options = ("spatial_norm", "group_norm", "norm_cross", "norm_q", "norm_k", "add_k_proj")
    return (
        isinstance(attention.to_k, nn.Linear)
        and all(getattr(attention, option, None) is None for option in options)
        and not attention.residual_connection
        and attention.rescale_output_factor == 1
    )


def caption_branch(unet: Any) -> dict[str, nn.Parameter]:
    """The branch's weights as ``<layer>.public_to_k.weight``, ``.public_to_v.weight``, ``.gate``;
    empty without a branch."""
    return {
        f"{name}.{part}": parameter
        for name, attention in _cross_attentions(unet).items()
        if isinstance(attention.processor, CaptionBranchAttention)
        for part, parameter in attention.processor.named_parameters()
    }


@contextmanager
def without_caption_branch(unet: Any) -> Iterator[None]:
    """Inside the block ``unet`` has no branch, as if none had ever been added."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    branches = {
        attention: attention.processor
        for attention in _cross_attentions(unet).values()
        if isinstance(attention.processor, CaptionBranchAttention)
    }
    for attention in branches:
        del attention.processor
        attention.set_processor(AttnProcessor2_0())
    try:
        yield
    finally:
        for attention, branch in branches.items():
            attention.set_processor(branch)


def save_caption_branch(unet: Any, path: Path) -> None:
    """Write the branch of ``unet`` as safetensors in fp32; equal weights give equal bytes.

    Diffusers neither looks for such a file nor takes it for a LoRA.
    """
    from safetensors.torch import save_file

    weights = {
        name: parameter.detach().cpu().float().contiguous()
        for name, parameter in sorted(caption_branch(unet).items())
    }
    save_file(weights, path, metadata=_FORMAT)


def load_caption_branch(unet: Any, path: Path) -> None:
    """Fill the branch of ``unet``, which must have one, from ``path``: every weight, no other.

    Raises:
        UsageError: the file is damaged or not a branch of this UNet.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored: Mapping[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}") from None
    weights = caption_branch(unet)
    odd = {
        name for name in set(stored) | set(weights) if _shape(stored, name) != _shape(weights, name)
    }
    if odd:
        raise UsageError(f"{path} is not a caption branch of this model ({min(odd)} does not fit)")
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(stored[name])


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None

"""Attention processors of diffusers that read the public caption beside the text.

``gated``, with the text branch's queries:

    out = to_out(attention(q, k(text), v(text)) + gate * attention(q, public_k(c), public_v(c)))

``safe`` is the paper's Safe Cross Attention, with queries of its own. Both softmaxed maps stand
side by side per head and query, two 1-D convolutions pass over them, and what stands in the public
half is the public map's new logits:

    A = softmax(q k(text)^T / sqrt(d)),  P = softmax(public_q public_k(c)^T / sqrt(d))
    P' = softmax(fusion_out(GELU(fusion_in([A | P])))[L:])
    out = to_out(A v(text) + gate * P' public_v(c))

The paper's released form copies the projections before the checkpoint is loaded, begins from a
random fusion of both maps, so that P' is uniform, and doubles the magnitude of the sum. Here the
projections are copied from the loaded text branch, the fusion begins by handing P on, and each
layer's gate begins at 0.

The caption's embedding travels behind the text's on the token axis: (B, 2L, D). The pipelines of
diffusers thereby carry it through every branch of their guidance without knowing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

BranchKind: TypeAlias = Literal["gated", "safe"]

_FUSION_CHANNELS = 16
_FUSION_KERNEL = 3
# What the fusion multiplies a map by at first: a softmax over values in [0, 1] would be flat.
_SHARPNESS = 8.0
# Rows of [A | P] fused at once; at 77 tokens their 16 channels are 160 MB in fp32.
_FUSED_ROWS = 16384


class CaptionBranchAttention(nn.Module):
    """The ``gated`` branch of one cross-attention layer.

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
        key = _heads(attn.to_k(text), attn.heads)
        told = functional.scaled_dot_product_attention(
            query, key, _heads(attn.to_v(text), attn.heads)
        )
        caption = caption.to(self.public_to_k.weight.dtype)
        public = self.public(attn, hidden_states, query, key, caption)
        both = told + self.gate.to(told.dtype) * public.to(told.dtype)
        joined = both.transpose(1, 2).flatten(2).to(query.dtype)
        projected: Tensor = attn.to_out[1](attn.to_out[0](joined))
        return projected

    def public(
        self,
        attn: Any,
        hidden_states: Tensor,  # noqa: ARG002 - a branch with queries of its own reads it
        query: Tensor,
        key: Tensor,  # noqa: ARG002 - a branch that looks at the text's map reads it
        caption: Tensor,
    ) -> Tensor:
        """What the caption (B, L, D) says: (B, heads, N, d). ``query`` and ``key`` are the text
        branch's, by head."""
        return functional.scaled_dot_product_attention(
            query,
            _heads(self.public_to_k(caption), attn.heads).to(query.dtype),
            _heads(self.public_to_v(caption), attn.heads).to(query.dtype),
        )


class SafeCrossAttention(CaptionBranchAttention):
    """The ``safe`` branch of one cross-attention layer.

    Adds ``public_to_q``, a copy of the layer's own, and the fusion of both maps. Its first channel
    begins as P to ``8 P Phi(8 P)``, its others are drawn and not listened to.
    """

    # What the recomputation of the fusion happens in. Torch brings autocast back by itself, but not
    # on the device without numbers that mode=plan measures on.
    recomputed_in: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __init__(self, attention: Any, text_tokens: int) -> None:
        """For a diffusers ``Attention``; its texts are ``text_tokens`` long."""
        super().__init__(attention, text_tokens)
        device, middle = attention.to_k.weight.device, _FUSION_KERNEL // 2
        self.public_to_q = deepcopy(attention.to_q).float()
        # Drawn on the CPU by a generator of its own: a new branch is the same everywhere.
        drawn = torch.Generator().manual_seed(0)
        weight = torch.empty(_FUSION_CHANNELS, 1, _FUSION_KERNEL).uniform_(-1, 1, generator=drawn)
        weight[0] = 0.0
        weight[0, 0, middle] = _SHARPNESS
        self.fusion_in = _convolution(1, _FUSION_CHANNELS, bias=True).to(device)
        # A bias would move all logits alike, which a softmax does not see.
        self.fusion_out = _convolution(_FUSION_CHANNELS, 1, bias=False).to(device)
        with torch.no_grad():
            self.fusion_in.weight.copy_(weight)
            self.fusion_out.weight[0, 0, middle] = 1.0

    def public(
        self, attn: Any, hidden_states: Tensor, query: Tensor, key: Tensor, caption: Tensor
    ) -> Tensor:
        """What the caption (B, L, D) says, under the fused map: (B, heads, N, d)."""
        own_dtype = self.public_to_q.weight.dtype
        public_query = _heads(self.public_to_q(hidden_states.to(own_dtype)), attn.heads)
        public_key = _heads(self.public_to_k(caption), attn.heads)
        maps = torch.cat([_map(query, key), _map(public_query, public_key)], dim=-1)
        rows = maps.flatten(0, 2).unsqueeze(1)
        fused = torch.cat([self._fused(part) for part in torch.split(rows, _FUSED_ROWS)])
        weights = fused.view(*maps.shape[:-1], -1)
        values = _heads(self.public_to_v(caption), attn.heads)
        return weights.to(values.dtype) @ values

    def _fused(self, rows: Tensor) -> Tensor:
        """(R, 1, 2L) rows [A | P] to (R, L) public maps.

        Its 16 channels are computed again on the way back instead of being kept: at 512 px they
        are gigabytes.
        """
        if not torch.is_grad_enabled():
            return self._fuse(rows)
        fused: Tensor = checkpoint(
            self._fuse,
            rows,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), self.recomputed_in()),
        )
        return fused

    def _fuse(self, rows: Tensor) -> Tensor:
        logits = self.fusion_out(functional.gelu(self.fusion_in(rows)))
        return torch.softmax(logits[:, 0, self._text_tokens :].float(), dim=-1)


def _convolution(channels_in: int, channels_out: int, *, bias: bool) -> nn.Conv1d:
    """One that keeps the length of its rows, with all weights 0."""
    with torch.random.fork_rng(devices=[]):  # its own first weights are drawn, and not wanted
        convolution = nn.Conv1d(
            channels_in, channels_out, _FUSION_KERNEL, padding=_FUSION_KERNEL // 2, bias=bias
        )
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


def _map(query: Tensor, key: Tensor) -> Tensor:
    """(B, heads, N, L) attention map in fp32."""
    scores = query.float() @ key.float().transpose(-1, -2)
    return torch.softmax(scores * query.shape[-1] ** -0.5, dim=-1)


def _heads(projected: Tensor, heads: int) -> Tensor:
    """(B, T, heads * d) to (B, heads, T, d)."""
    batch, tokens, width = projected.shape
    return projected.view(batch, tokens, heads, width // heads).transpose(1, 2)

"""The public-caption branch: a second cross-attention for the public caption, beside the text's.

Every cross-attention of a UNet gets one of :mod:`branch_attention`'s, ``gated`` or ``safe``. Its
projections are copied from the loaded text branch and each layer's gate begins at 0, so a new
branch leaves the editor exactly as it is. It is saved in a file of its own, which diffusers neither
looks for nor takes for a LoRA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.branch_attention import (
    BranchKind,
    CaptionBranchAttention,
    SafeCrossAttention,
)

BRANCH_FILE = "caption_branch.safetensors"
_FORMAT = {"format": "unsafe2safe.caption_branch.1"}
_KINDS: Mapping[BranchKind, type[CaptionBranchAttention]] = {
    "gated": CaptionBranchAttention,
    "safe": SafeCrossAttention,
}


def add_caption_branch(
    unet: Any, text_tokens: int, weights: Path | None = None, kind: BranchKind = "gated"
) -> None:
    """Give every cross-attention of ``unet`` a caption branch, without gradients.

    ``unet`` must hold its base's weights already and no LoRA yet: the branch begins as their copy,
    or from the file ``weights``.

    Raises:
        UsageError: a layer is of a kind that cannot have a branch, there is none at all, or
            ``weights`` is not a branch of this UNet.
    """
    layers = _cross_attentions(unet)
    if not layers:
        raise UsageError(f"editor.caption_branch={kind}: the model has no cross-attention")
    for name, attention in layers.items():
        if not _is_plain(attention):
            raise UsageError(f"editor.caption_branch={kind}: {name} is no plain cross-attention")
        attention.set_processor(_KINDS[kind](attention, text_tokens))
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
    """The branch's weights as ``<layer>.public_to_k.weight``, ``.public_to_v.weight``, ``.gate``,
    and for ``safe`` its queries and fusion too; empty without a branch."""
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

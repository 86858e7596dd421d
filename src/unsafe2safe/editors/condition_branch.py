"""OminiControl's condition branch on diffusers' FluxTransformer2DModel (Tan et al. 2024, arXiv
2411.15098).

The source's tokens are a third stream beside those of text and noisy image. All three pass through
the same frozen transformer and attend to each other, but the condition's stream alone

- has the LoRA: every other token sees the base's own weights;
- is modulated as a clean image is, by time 0.

With ``independent`` its queries see its own keys only, so that it is the same in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unsafe2safe.core.errors import UsageError

LORA_FILE = "condition_lora.safetensors"
_FORMAT = {"format": "unsafe2safe.condition_lora.1"}
# Peft's names and ours. Diffusers takes any file whose names all say `lora` for a LoRA.
_NAMES = {
    "lora_A.weight": "condition_down",
    "lora_B.weight": "condition_up",
    "lora_magnitude_vector": "condition_magnitude",
}

_in_condition: ContextVar[bool] = ContextVar("in_condition", default=False)
_Heads = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Conditioned:
    """What the transformer is given beside the noisy tokens.

    ``condition`` (B, C, D) are the source's packed latents; ``noisy_ids`` (N, 3) and
    ``condition_ids`` (C, 3) say where tokens lie. ``text`` (B, T, D) has the ids 0. ``times`` (B,)
    are in [0, 1], ``guidance`` and ``condition_guidance`` (B,), or None where the model takes none.
    """

    condition: Tensor
    noisy_ids: Tensor
    condition_ids: Tensor
    text: Tensor
    pooled: Tensor
    times: Tensor
    guidance: Tensor | None
    condition_guidance: Tensor | None
    independent: bool = False


def velocity_beside_condition(transformer: Any, noisy: Tensor, given: Conditioned) -> Tensor:
    """(B, N, D) what ``transformer`` predicts for the packed ``noisy`` (B, N, D)."""
    now = _embedded_time(transformer, given.times.to(noisy.dtype), given.guidance, given.pooled)
    clean = _embedded_time(
        transformer,
        torch.zeros_like(given.times, dtype=noisy.dtype),
        given.condition_guidance,
        given.pooled,
    )
    text_ids = given.noisy_ids.new_zeros(given.text.shape[1], given.noisy_ids.shape[1])
    rotary = transformer.pos_embed(torch.cat([text_ids, given.noisy_ids, given.condition_ids]))
    text = transformer.context_embedder(given.text)
    noisy = transformer.x_embedder(noisy)
    with _the_condition():
        condition = transformer.x_embedder(given.condition)
    times = (now, clean)
    for block in transformer.transformer_blocks:
        step = partial(_double_block, block, times, rotary, given.independent)
        text, noisy, condition = _run(transformer, step, text, noisy, condition)
    plain = torch.cat([text, noisy], dim=1)
    for block in transformer.single_transformer_blocks:
        single = partial(_single_block, block, times, rotary, given.independent)
        plain, condition = _run(transformer, single, plain, condition)
    noisy = plain[:, text.shape[1] :]
    predicted: Tensor = transformer.proj_out(transformer.norm_out(noisy, now))
    return predicted


def never_learning(transformer: Any) -> tuple[str, ...]:
    """Layers whose output for the condition's tokens nobody reads: the model's last one, and those
    of the last block that make no keys or values. Of other models none."""
    from diffusers import FluxTransformer2DModel

    if not isinstance(transformer, FluxTransformer2DModel):
        return ()
    last = f"single_transformer_blocks.{len(transformer.single_transformer_blocks) - 1}"
    return ("proj_out", f"{last}.attn.to_q", f"{last}.proj_mlp", f"{last}.proj_out")


def add_condition_lora(transformer: Any, config: Any) -> None:
    """Give ``transformer`` a LoRA of peft's ``config`` that acts on the condition's tokens alone.

    Without a condition, as in the transformer's own ``forward``, it does nothing.
    """
    from peft.tuners.lora import LoraLayer

    transformer.add_adapter(config)
    for module in transformer.modules():
        if isinstance(module, LoraLayer):
            module.register_forward_pre_hook(_base_but_in_condition, with_kwargs=True)


def _base_but_in_condition(
    _layer: Any, given: tuple[Tensor, ...], named: dict[str, Any]
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    if _in_condition.get():
        return given, named
    # peft's name for "this sample without any adapter"
    return given, {**named, "adapter_names": ["__base__"] * len(given[0])}


def save_condition_lora(transformer: Any, path: Path) -> None:
    """Write the LoRA of ``transformer`` as safetensors in fp32; equal weights give equal bytes.

    Plain diffusers refuses the file: its names are none of a LoRA's.
    """
    from safetensors.torch import save_file

    weights = {
        name: value.detach().cpu().float().contiguous()
        for name, value in sorted(_condition_lora(transformer).items())
    }
    save_file(weights, path, metadata=_FORMAT)


def load_condition_lora(transformer: Any, path: Path) -> None:
    """Fill the LoRA of ``transformer``, which must have one, from ``path``: every weight, no other.

    Raises:
        UsageError: the file is damaged or belongs to another model or another LoRA.
    """
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored: Mapping[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}") from None
    weights = _condition_lora(transformer)
    odd = {
        name for name in set(stored) | set(weights) if _shape(stored, name) != _shape(weights, name)
    }
    if odd:
        raise UsageError(f"{path} is no condition LoRA of this model ({min(odd)} does not fit)")
    back = {ours: theirs for theirs, ours in _NAMES.items()}
    set_peft_model_state_dict(
        transformer, {_renamed(name, back): value for name, value in stored.items()}
    )


def _condition_lora(transformer: Any) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(transformer)
    return {_renamed(name, _NAMES): value for name, value in weights.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if name.endswith(f".{old}"):
            return name.removesuffix(old) + new
    return name


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None


@contextmanager
def _the_condition() -> Iterator[None]:
    """Inside the block, layers work on the condition's tokens: the LoRA acts."""
    token = _in_condition.set(True)
    try:
        yield
    finally:
        _in_condition.reset(token)


def _embedded_time(
    transformer: Any, times: Tensor, guidance: Tensor | None, pooled: Tensor
) -> Tensor:
    """(B, D) as the transformer itself embeds them."""
    scaled = [times * 1000]
    if guidance is not None:
        scaled.append(guidance.to(times.dtype) * 1000)
    embedded: Tensor = transformer.time_text_embed(*scaled, pooled)
    return embedded


def _run(
    transformer: Any, step: Callable[..., tuple[Tensor, ...]], *streams: Tensor
) -> tuple[Tensor, ...]:
    """A block, computed again on the way back where the transformer checkpoints its own."""
    if torch.is_grad_enabled() and transformer.gradient_checkpointing:
        again: tuple[Tensor, ...] = transformer._gradient_checkpointing_func(step, *streams)
        return again
    return step(*streams)


def _double_block(
    block: Any,
    times: tuple[Tensor, Tensor],
    rotary: tuple[Tensor, Tensor],
    independent: bool,
    text: Tensor,
    noisy: Tensor,
    condition: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    attn, (now, clean) = block.attn, times
    text_in, *text_mods = block.norm1_context(text, emb=now)
    noisy_in, *noisy_mods = block.norm1(noisy, emb=now)
    heads = [_text_heads(attn, text_in), _heads(attn, noisy_in)]
    with _the_condition():
        condition_in, *condition_mods = block.norm1(condition, emb=clean)
        heads.append(_heads(attn, condition_in))
    seen = _attend(heads, rotary, independent)
    text_seen, noisy_seen = attn.to_add_out(seen[0]), attn.to_out[0](seen[1])
    text = _finished(text, text_seen, text_mods, block.norm2_context, block.ff_context)
    noisy = _finished(noisy, noisy_seen, noisy_mods, block.norm2, block.ff)
    with _the_condition():
        condition_seen = attn.to_out[0](seen[2])
        condition = _finished(condition, condition_seen, condition_mods, block.norm2, block.ff)
    return text, noisy, condition


def _finished(
    tokens: Tensor, seen: Tensor, mods: Sequence[Tensor], norm: Any, feed_forward: Any
) -> Tensor:
    """A double block's second half: what attention gave is added, then the feed-forward's."""
    gate, shift, scale, forward_gate = (mod[:, None] for mod in mods)
    tokens = tokens + gate * seen
    return _bounded(tokens + forward_gate * feed_forward(norm(tokens) * (1 + scale) + shift))


def _single_block(
    block: Any,
    times: tuple[Tensor, Tensor],
    rotary: tuple[Tensor, Tensor],
    independent: bool,
    plain: Tensor,
    condition: Tensor,
) -> tuple[Tensor, Tensor]:
    """``plain`` are text and noisy image, which such a block treats alike."""

    def opened(tokens: Tensor, time: Tensor) -> tuple[_Heads, Tensor, Tensor]:
        normed, gate = block.norm(tokens, emb=time)
        return _heads(block.attn, normed), block.act_mlp(block.proj_mlp(normed)), gate[:, None]

    def closed(tokens: Tensor, seen: Tensor, inner: Tensor, gate: Tensor) -> Tensor:
        return _bounded(tokens + gate * block.proj_out(torch.cat([seen, inner], dim=2)))

    heads, inner, gate = opened(plain, times[0])
    with _the_condition():
        condition_heads, condition_inner, condition_gate = opened(condition, times[1])
    seen, condition_seen = _attend([heads, condition_heads], rotary, independent)
    plain = closed(plain, seen, inner, gate)
    with _the_condition():
        condition = closed(condition, condition_seen, condition_inner, condition_gate)
    return plain, condition


def _heads(attn: Any, tokens: Tensor) -> _Heads:
    """Queries, keys and values (B, S, heads, d) of image tokens."""
    query, key, value = (
        layer(tokens).unflatten(-1, (-1, attn.head_dim))
        for layer in (attn.to_q, attn.to_k, attn.to_v)
    )
    return attn.norm_q(query), attn.norm_k(key), value


def _text_heads(attn: Any, tokens: Tensor) -> _Heads:
    query, key, value = (
        layer(tokens).unflatten(-1, (-1, attn.head_dim))
        for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    )
    return attn.norm_added_q(query), attn.norm_added_k(key), value


def _attend(
    streams: Sequence[_Heads], rotary: tuple[Tensor, Tensor], independent: bool
) -> list[Tensor]:
    """(B, S, D) per stream, of joint attention; the last of them is the condition's."""
    from diffusers.models.embeddings import apply_rotary_emb

    sizes = [stream[0].shape[1] for stream in streams]
    query, key, value = (torch.cat(parts, dim=1) for parts in zip(*streams, strict=True))
    query, key = (apply_rotary_emb(part, rotary, sequence_dim=1) for part in (query, key))
    if independent:
        own = sizes[-1]
        joint = _attention(query[:, :-own], key, value)
        alone = _attention(query[:, -own:], key[:, -own:], value[:, -own:])
        return [*torch.split(joint, sizes[:-1], dim=1), alone]
    return list(torch.split(_attention(query, key, value), sizes, dim=1))


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, S, heads, d) each to (B, S, heads * d)."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    seen = functional.scaled_dot_product_attention(query, key, value)
    return seen.transpose(1, 2).flatten(2)


def _bounded(tokens: Tensor) -> Tensor:
    """Within what fp16 can hold, as the transformer's own blocks keep it."""
    return tokens.clip(-65504, 65504) if tokens.dtype == torch.float16 else tokens

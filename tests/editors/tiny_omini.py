"""``editor=omini`` on a tiny FluxPipeline, and its branch as diffusers would compute it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from editors.tiny_kontext import SMALL, save_tiny_kontext
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import compose_config
from unsafe2safe.editors.condition_branch import Conditioned
from unsafe2safe.editors.omini import OminiEditor


def omini(**settings: Any) -> OminiEditor:
    values = compose_config("train", ["editor=omini"])["editor"]
    return build(dict(values) | SMALL | settings, "editor", OminiEditor)


def save_tiny_flux(folder: Path, **settings: Any) -> Path:
    return save_tiny_kontext(folder, kind="FluxPipeline", single_layers=2, **settings)


class _PerToken:
    """A modulation (B, S, D), which diffusers' blocks take for one of (B, D) that they widen."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def unsqueeze(self, _: int) -> Tensor:
        return self._values

    def __getitem__(self, _: Any) -> Tensor:
        return self._values


def by_diffusers(
    transformer: Any,
    noisy: Tensor,
    given: Conditioned,
    lora: tuple[LoraConfig, Mapping[str, Tensor]] | None = None,
) -> Tensor:
    """What ``velocity_beside_condition`` gives, by the own ``forward`` of a plain transformer of
    diffusers over one sequence of text, noisy image and condition.

    Modulations are given per token; what ``lora`` adds is multiplied by 1 on the condition's tokens
    and by 0 on others; ``independent`` is an attention mask.
    """
    own = given.condition.shape[1]
    if lora is not None:
        transformer.add_adapter(lora[0])
        set_peft_model_state_dict(transformer, dict(lora[1]))

    def embedded(times: Tensor, guidance: Tensor | None) -> Tensor:
        scaled = [times * 1000] if guidance is None else [times * 1000, guidance * 1000]
        return transformer.time_text_embed(*scaled, given.pooled)

    clean = embedded(torch.zeros_like(given.times), given.condition_guidance)

    def modulate(norm: Any, count: int) -> None:
        linear = norm.linear
        plain = linear.base_layer if isinstance(linear, LoraLayer) else linear

        def forward(tokens: Tensor, emb: Tensor) -> tuple[Any, ...]:
            both = plain(norm.silu(emb)), linear(norm.silu(clean))
            sizes = tokens.shape[1] - own, own
            each = [m[:, None].expand(-1, s, -1) for m, s in zip(both, sizes, strict=True)]
            shift, scale, *rest = torch.cat(each, dim=1).chunk(count, dim=2)
            return norm.norm(tokens) * (1 + scale) + shift, *map(_PerToken, rest)

        norm.forward = forward

    for block in transformer.transformer_blocks:
        modulate(block.norm1, 6)
    for block in transformer.single_transformer_blocks:
        modulate(block.norm, 3)

    def masked(_: Any, __: Any, update: Tensor) -> Tensor:
        if update.ndim < 3:  # a modulation: already by its own time
            return update
        mask = torch.zeros(update.shape[1], 1)
        mask[-own:] = 1
        return update * mask

    for module in transformer.modules():
        if isinstance(module, LoraLayer):
            module.lora_B["default"].register_forward_hook(masked)
    length = given.text.shape[1] + noisy.shape[1] + own
    seen = torch.ones(length, length, dtype=torch.bool)
    if given.independent:
        seen[-own:, :-own] = False
    predicted = transformer(
        hidden_states=torch.cat([noisy, given.condition], dim=1),
        timestep=given.times,
        guidance=given.guidance,
        pooled_projections=given.pooled,
        encoder_hidden_states=given.text,
        txt_ids=torch.zeros(given.text.shape[1], 3),
        img_ids=torch.cat([given.noisy_ids, given.condition_ids]),
        joint_attention_kwargs={"attention_mask": seen},
    ).sample
    return predicted[:, : noisy.shape[1]]


def weights_of_lora(transformer: Any) -> dict[str, Tensor]:
    return get_peft_model_state_dict(transformer)

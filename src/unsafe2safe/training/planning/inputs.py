"""How a training step calls each family of networks: tensors of the right shape, empty.

Token counts and ids follow diffusers' pipelines of the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unsafe2safe.training.planning.true_size import ModelSize

Arguments = dict[str, Any]


def network_arguments(
    network: nn.Module,
    size: ModelSize,
    batch: int,
    resolution: int,
    dtype: torch.dtype,
    text_tokens: int,
    device: str = "meta",
) -> Arguments:
    """Keyword arguments of ``network`` for ``batch`` samples of ``resolution`` pixels a side."""

    def empty(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    side = resolution // size.latent_scale
    text = empty(batch, text_tokens, size.text_width)
    pooled = empty(batch, size.pooled_width)
    timestep = empty(batch)
    config: Any = network.config
    if size.inputs in ("unet", "sd3"):
        arguments: Arguments = {
            ("sample" if size.inputs == "unet" else "hidden_states"): empty(
                batch, config.in_channels, side, side
            ),
            "timestep": timestep,
            "encoder_hidden_states": text,
        }
        if size.inputs == "sd3":
            arguments["pooled_projections"] = pooled
        elif size.pooled_width:
            arguments["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": empty(batch, 6)}
        return arguments
    images = 2 if size.source == "token" else 1
    tokens = images * (side // 2) ** 2
    arguments = {
        "hidden_states": empty(batch, tokens, config.in_channels),
        "timestep": timestep,
        "encoder_hidden_states": text,
    }
    if size.inputs == "qwen":
        arguments["img_shapes"] = [[(1, side // 2, side // 2)] * images] * batch
        return arguments
    axes = 3 if size.inputs == "flux" else 4
    arguments["img_ids"] = empty(tokens, axes)
    arguments["txt_ids"] = empty(text_tokens, axes)
    if config.guidance_embeds:
        arguments["guidance"] = empty(batch)
    if size.inputs == "flux":
        arguments["pooled_projections"] = pooled
    return arguments


def forward_of(network: nn.Module, arguments: Arguments) -> Callable[[], Tensor]:
    """The call itself; gives the prediction."""

    def forward() -> Tensor:
        prediction: Tensor = network(**arguments, return_dict=False)[0]
        return prediction

    return forward


def encoding_of(
    vae: nn.Module, size: ModelSize, batch: int, resolution: int, dtype: torch.dtype
) -> Callable[[], Any]:
    """Encoding one batch of pictures."""
    frames = (1,) if size.inputs == "qwen" else ()  # its autoencoder is one of videos
    shape = (batch, 3, *frames, resolution, resolution)
    pictures = torch.zeros(shape, dtype=dtype, device="meta")
    encoder: Any = vae
    return lambda: encoder.encode(pictures)

"""OminiControl's condition branch, against diffusers' own transformer."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from editors.tiny_omini import by_diffusers, omini, weights_of_lora
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor

from unsafe2safe.editors.condition_branch import (
    Conditioned,
    add_condition_lora,
    velocity_beside_condition,
)
from unsafe2safe.editors.lora_targets import lora_config

NOISY, OWN, TEXT, WIDTH = 9, 4, 5, 16


@pytest.fixture(scope="module", params=[True, False], ids=["guided", "unguided"])
def transformer(request: pytest.FixtureRequest) -> FluxTransformer2DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FluxTransformer2DModel(
            in_channels=WIDTH,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=request.param,
            axes_dims_rope=(4, 4, 8),
        ).eval()


def inputs(transformer: Any, **changes: Any) -> tuple[Tensor, Conditioned]:
    random = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    def ids(count: int, shift: int) -> Tensor:
        return torch.tensor([[0, index // 3, index % 3 + shift] for index in range(count)]).float()

    guided = transformer.config.guidance_embeds
    given = Conditioned(
        condition=drawn(2, OWN, WIDTH),
        noisy_ids=ids(NOISY, 0),
        condition_ids=ids(OWN, 7),
        text=drawn(2, TEXT, WIDTH),
        pooled=drawn(2, WIDTH),
        times=torch.tensor([0.3, 0.9]),
        guidance=torch.full((2,), 3.5) if guided else None,
        condition_guidance=torch.full((2,), 1.0) if guided else None,
    )
    return drawn(2, NOISY, WIDTH), replace(given, **changes)


def with_lora(transformer: Any) -> tuple[Any, LoraConfig]:
    """A copy with a condition LoRA whose weights are all at work."""
    made = deepcopy(transformer)
    config = lora_config(omini(rank=4), made)
    add_condition_lora(made, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for name, parameter in made.named_parameters():
            if ".lora_" in name:
                parameter.data.normal_(0, 0.3)
    return made, config


@pytest.mark.parametrize("independent", [False, True])
@torch.no_grad()
def test_without_lora_it_is_the_base_with_the_condition_at_time_zero(
    independent: bool, transformer: Any
) -> None:
    noisy, given = inputs(transformer, independent=independent)
    ours = velocity_beside_condition(transformer, noisy, given)
    torch.testing.assert_close(ours, by_diffusers(deepcopy(transformer), noisy, given))
    other = by_diffusers(
        deepcopy(transformer), noisy, replace(given, condition=given.condition + 1)
    )
    assert float((other - ours).abs().max()) > 1e-3


@torch.no_grad()
def test_at_time_zero_and_one_guidance_it_is_the_plain_transformer(transformer: Any) -> None:
    """Then all tokens are modulated alike, and nothing of diffusers' own needs to be changed."""
    noisy, given = inputs(transformer, times=torch.zeros(2))
    given = replace(given, guidance=given.condition_guidance)
    plain = transformer(
        hidden_states=torch.cat([noisy, given.condition], dim=1),
        timestep=given.times,
        guidance=given.guidance,
        pooled_projections=given.pooled,
        encoder_hidden_states=given.text,
        txt_ids=torch.zeros(TEXT, 3),
        img_ids=torch.cat([given.noisy_ids, given.condition_ids]),
    ).sample[:, :NOISY]
    torch.testing.assert_close(velocity_beside_condition(transformer, noisy, given), plain)


@pytest.mark.parametrize("independent", [False, True])
@torch.no_grad()
def test_a_lora_is_its_update_times_the_mask_of_the_conditions_tokens(
    independent: bool, transformer: Any
) -> None:
    trained, config = with_lora(transformer)
    noisy, given = inputs(transformer, independent=independent)
    ours = velocity_beside_condition(trained, noisy, given)
    lora = (config, weights_of_lora(trained))
    theirs = by_diffusers(deepcopy(transformer), noisy, given, lora)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    without = velocity_beside_condition(transformer, noisy, given)
    assert float((ours - without).abs().max()) > 1e-3


@torch.no_grad()
def test_projections_of_text_and_noisy_tokens_are_the_bases_own(transformer: Any) -> None:
    trained, _ = with_lora(transformer)
    seen: dict[str, list[tuple[int, bool]]] = {}

    def watch(name: str) -> Any:
        def hook(layer: Any, given: tuple[Tensor, ...], output: Tensor) -> None:
            own = torch.equal(output, layer.base_layer(given[0]))
            tokens = given[0].shape[1] if given[0].ndim == 3 else 1
            seen.setdefault(name, []).append((tokens, own))

        return hook

    layers = {n: m for n, m in trained.named_modules() if isinstance(m, LoraLayer)}
    for name, layer in layers.items():
        layer.register_forward_hook(watch(name))
    noisy, given = inputs(transformer)
    velocity_beside_condition(trained, noisy, given)
    for name, calls in seen.items():
        single = name.startswith("single")
        others = 1 if name.endswith("norm1.linear") else NOISY + (TEXT if single else 0)
        mine = 1 if name.endswith("norm1.linear") else OWN
        assert calls == [(others, True), (mine, False)], name
    assert set(seen) == set(layers)


@torch.no_grad()
def test_the_transformer_itself_stays_the_base(transformer: Any) -> None:
    trained, _ = with_lora(transformer)
    noisy, given = inputs(transformer)
    told = {
        "timestep": given.times,
        "guidance": given.guidance,
        "pooled_projections": given.pooled,
        "encoder_hidden_states": given.text,
        "txt_ids": torch.zeros(TEXT, 3),
        "img_ids": given.noisy_ids,
    }
    assert torch.equal(trained(noisy, **told).sample, transformer(noisy, **told).sample)


def test_checkpointed_blocks_give_the_same_gradients(transformer: Any) -> None:
    trained, _ = with_lora(transformer)
    noisy, given = inputs(transformer)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            trained.enable_gradient_checkpointing()
        trained.zero_grad()
        velocity_beside_condition(trained.train(), noisy, given).square().mean().backward()
        gradients.append(
            {n: p.grad.clone() for n, p in trained.named_parameters() if ".lora_" in n}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)
        assert gradient.any(), name

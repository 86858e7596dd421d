"""Known sizes, and measures on the meta device that real tensors confirm."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import (
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from peft import LoraConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unsafe2safe.core.config.compose import config_dir
from unsafe2safe.editors.caption_branch import add_caption_branch, caption_branch
from unsafe2safe.training.planning.inputs import forward_of, network_arguments
from unsafe2safe.training.planning.measure import AsOnGpu, Meter, measure_step, set_checkpointing
from unsafe2safe.training.planning.true_size import (
    ModelSize,
    build_part,
    parameter_count,
    read_size,
    true_sizes,
)

# As published with the weights, or read off the size of their files.
PUBLISHED = {
    "unet_sd15": 859.5e6,
    "unet_sdxl": 2.57e9,
    "flux1": 11.9e9,
    "flux2_klein_4b": 3.88e9,
    "qwen_image": 20.43e9,
    "sd3_medium": 2.03e9,
    "clip_l": 123e6,
    "clip_g": 695e6,
    "t5_xxl": 4.76e9,
    "qwen3_4b": 4.02e9,
    "qwen2_5_vl_7b": 8.29e9,
    "vae_sd": 83.7e6,
    "vae_16": 83.8e6,
    "vae_flux2": 84.0e6,
    "vae_qwen": 127e6,
}


@pytest.mark.parametrize("part", sorted(PUBLISHED))
def test_a_true_size_has_its_published_parameter_count(part: str) -> None:
    module = build_part(part)
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
    assert parameter_count(module) == pytest.approx(PUBLISHED[part], rel=0.01)


def test_every_part_is_known_and_every_model_is_made_of_parts() -> None:
    parts = {path.stem for path in (config_dir() / "true_size" / "part").glob("*.yaml")}
    assert parts == set(PUBLISHED)
    for name in true_sizes():
        size = read_size(name)
        assert {size.network, size.vae, *size.text_encoders} <= parts


# Small models of the true classes, with what a step gives them.


def sized(inputs: str, width: int, channels: int = 4, **other: Any) -> ModelSize:
    return ModelSize(
        **{
            "network": "network",
            "vae": "vae",
            "text_encoders": (),
            "inputs": inputs,
            "source": "channel" if inputs == "unet" else "token",
            "latent_channels": channels,
            "text_tokens": 7,
            "text_width": width,
            "resolution": 64,
            "targets": (),
        }
        | other
    )


UNET: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
SMALL: dict[str, tuple[Any, dict[str, Any], ModelSize]] = {
    "unet": (UNet2DConditionModel, {**UNET, "cross_attention_dim": 24}, sized("unet", 24)),
    "sdxl": (
        UNet2DConditionModel,
        {
            **UNET,
            "cross_attention_dim": 24,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 12,
        },
        sized("unet", 24, pooled_width=12),
    ),
    "flux": (
        FluxTransformer2DModel,
        {
            **HEADS,
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 2,
            "joint_attention_dim": 24,
            "pooled_projection_dim": 12,
            "guidance_embeds": True,
            "axes_dims_rope": (4, 4, 8),
        },
        sized("flux", 24, pooled_width=12),
    ),
    "flux2": (
        Flux2Transformer2DModel,
        {
            **HEADS,
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 2,
            "joint_attention_dim": 24,
            "guidance_embeds": False,
            "axes_dims_rope": (4, 4, 4, 4),
        },
        sized("flux2", 24),
    ),
    "qwen": (
        QwenImageTransformer2DModel,
        {
            **HEADS,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "joint_attention_dim": 24,
            "axes_dims_rope": (4, 4, 8),
        },
        sized("qwen", 24),
    ),
    "sd3": (
        SD3Transformer2DModel,
        {
            **HEADS,
            "sample_size": 8,
            "in_channels": 4,
            "num_layers": 2,
            "joint_attention_dim": 24,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 12,
            "pos_embed_max_size": 8,
        },
        sized("sd3", 24, source="none", pooled_width=12),
    ),
}


def network_on(device: str, family: str) -> tuple[nn.Module, list[nn.Parameter]]:
    kind, config, _ = SMALL[family]
    with torch.device(device):
        network: Any = kind(**config)
    network.requires_grad_(False)
    network.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"]))
    return network, [p for p in network.parameters() if p.requires_grad]


def measured(device: str, family: str, checkpointing: bool) -> Any:
    network, trained = network_on(device, family)
    size = SMALL[family][2]
    mode = partial(AsOnGpu, None) if device == "meta" else nullcontext
    set_checkpointing(network, checkpointing, mode)
    arguments = network_arguments(network, size, 2, 64, torch.float32, 7, device)
    return measure_step(forward_of(network, arguments), trained, on_gpu=device == "meta")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["unet", "sdxl", "sd3"])
def test_meta_tensors_are_measured_as_real_ones_are(family: str, checkpointing: bool) -> None:
    """Families without RMS norm: torch has no fused one on the CPU."""
    meta, real = (measured(device, family, checkpointing) for device in ("meta", "cpu"))
    assert meta.peak_bytes == pytest.approx(real.peak_bytes, rel=0.01)
    assert meta.state_bytes == real.state_bytes


@pytest.mark.parametrize("family", sorted(SMALL))
def test_every_family_steps_and_checkpointing_trades_memory_for_work(family: str) -> None:
    kept, recomputed = (measured("meta", family, on) for on in (False, True))
    assert recomputed.peak_bytes < kept.peak_bytes
    assert kept.flops < recomputed.flops < 2 * kept.flops


@pytest.mark.parametrize("family", ["flux", "flux2", "qwen"])
def test_token_families_predict_for_target_and_source_tokens(family: str) -> None:
    network, _ = network_on("cpu", family)
    size = SMALL[family][2]
    arguments = network_arguments(network, size, 2, 64, torch.float32, 7, "cpu")
    with torch.no_grad():
        predicted = forward_of(network, arguments)()
    assert predicted.shape == (2, 2 * (64 // 8 // 2) ** 2, 16)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_fusion_of_a_safe_branch_is_recomputed_as_it_was_computed(checkpointing: bool) -> None:
    kind, config, size = SMALL["unet"]
    with torch.device("meta"):
        network: Any = kind(**config).requires_grad_(False)
    add_caption_branch(network, 7, kind="safe")
    branch = list(caption_branch(network).values())
    for parameter in branch:
        parameter.requires_grad_(True)
    set_checkpointing(network, checkpointing, partial(AsOnGpu, torch.bfloat16))
    arguments = network_arguments(network, size, 2, 64, torch.float32, 14)
    step = measure_step(forward_of(network, arguments), branch, torch.bfloat16)
    assert step.flops > 0


def test_operations_are_torchs_own_count() -> None:
    network, trained = network_on("meta", "unet")
    arguments = network_arguments(network, SMALL["unet"][2], 2, 64, torch.float32, 7)
    forward = forward_of(network, arguments)
    counter = FlopCounterMode(display=False)
    with AsOnGpu(None), counter:
        torch.autograd.backward([forward().square().mean()])
    assert measure_step(forward, trained).flops == counter.get_total_flops()


def test_the_peak_is_what_the_allocator_hands_out() -> None:
    """Against the allocations that torch's profiler sees on the CPU."""
    network, _ = network_on("cpu", "unet")
    arguments = network_arguments(network, SMALL["unet"][2], 2, 64, torch.float32, 7, "cpu")

    def step(inside: Any) -> None:
        with inside:
            loss = network(**arguments).sample.square().mean()
            torch.autograd.backward([loss])
        for parameter in network.parameters():
            parameter.grad = None

    step(nullcontext())  # what is allocated once and kept
    with torch.profiler.profile(profile_memory=True) as profiler:
        step(nullcontext())
    changes = [
        event
        for event in profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
        if event.name() == "[memory]"
    ]
    now = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    meter = Meter()
    step(meter)
    assert meter.peak == pytest.approx(peak, rel=0.05)


def test_half_precision_casts_as_autocast_does() -> None:
    """Linear layers and GELU, which autocast casts alike on CPU and CUDA."""

    def peak(device: str, mode: Any) -> int:
        with torch.device(device):
            layers = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
            batch = torch.zeros(128, 64)
        layers.requires_grad_(False)[0].weight.requires_grad_(True)
        meter = Meter()
        with mode, meter:
            loss = layers(batch).float().square().mean()
        with meter:
            torch.autograd.backward([loss])
        return meter.peak

    emulated = peak("meta", AsOnGpu(torch.bfloat16))
    assert emulated == peak("cpu", torch.autocast("cpu", torch.bfloat16))
    assert emulated < peak("meta", AsOnGpu(None))


def test_normalization_stays_in_fp32_under_half() -> None:
    with AsOnGpu(torch.bfloat16):
        normal = nn.functional.layer_norm(torch.zeros(2, 8, device="meta").bfloat16(), (8,))
        product = nn.functional.linear(normal, torch.zeros(4, 8, device="meta"))
    assert (normal.dtype, product.dtype) == (torch.float32, torch.bfloat16)

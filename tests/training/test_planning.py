"""A plan's figures: known sizes, and measures on the meta device that real tensors confirm."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

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

from unsafe2safe.core.config.components import build, component
from unsafe2safe.core.config.compose import config_dir, load
from unsafe2safe.core.config.schema import Plan, Train
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.core.ledger import result_keys
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.tiny import TinyEditor
from unsafe2safe.jobs.common import plain
from unsafe2safe.jobs.plan_training import settings_of
from unsafe2safe.jobs.train import _NEVER_CHANGES_RESULT, run
from unsafe2safe.training.planning.advice import advise
from unsafe2safe.training.planning.estimate import GIB, Planner, Settings, check_settings
from unsafe2safe.training.planning.gpus import Gpu
from unsafe2safe.training.planning.inputs import forward_of, network_arguments
from unsafe2safe.training.planning.measure import AsOnGpu, Meter, measure_step, set_checkpointing
from unsafe2safe.training.planning.model import planned_model
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


# Plans.


def tiny(kind: type[TinyEditor] = TinyEditor, **values: Any) -> TinyEditor:
    config: Any = dict(load("train").editor) | values  # type: ignore[attr-defined]
    del config["_target_"]
    return kind(**config)


def plan_keys(**values: Any) -> Plan:
    config = load("train")
    assert isinstance(config, Train)
    return config.plan.model_copy(update=values)


SETTINGS = Settings(
    batch_size=2,
    accumulate=1,
    resolution=64,
    precision="32-true",
    weights="fp32",
    gradient_checkpointing=False,
    cache=False,
    sharding="ddp",
    devices=1,
)


@pytest.fixture(scope="module")
def planner() -> Planner:
    plan = plan_keys(context_gib=0.0, fragmentation=0.0)
    return Planner(planned_model(tiny(), None, None), True, plan)


def gpu_of(size: float) -> Gpu:
    return Gpu("small", size / GIB, 100.0, 10.0)


def test_parts_of_memory_follow_from_the_weights(planner: Planner) -> None:
    parts = planner.memory(SETTINGS)
    trained = 4 * planner.trained
    assert parts["trained weights"] == parts["gradients"] == parts["moving average"] == trained
    assert parts["frozen network"] == 4 * planner.frozen
    assert parts["optimizer"] == pytest.approx(2 * trained, rel=0.01)
    two = planner.memory(replace(SETTINGS, devices=2))
    assert two["gradients"] == 2 * trained
    shared = planner.memory(replace(SETTINGS, devices=4, sharding="fsdp"))
    assert shared["frozen network"] == parts["frozen network"] / 4
    cached = planner.memory(replace(SETTINGS, cache=True))
    assert cached["text encoders"] == cached["autoencoder"] == 0
    packed = planner.memory(replace(SETTINGS, weights="nf4"))
    assert (
        packed["frozen network"]
        < planner.memory(replace(SETTINGS, weights="int8"))["frozen network"]
        < 2 * planner.frozen
    )


def test_time_is_work_over_the_reached_share_of_the_peak(planner: Planner) -> None:
    gpu = gpu_of(1e9)
    work = planner.flops_per_step(SETTINGS)
    assert planner.seconds_per_step(SETTINGS, gpu) == pytest.approx(work / (10e12 * 0.35))
    twice = replace(SETTINGS, accumulate=2, weights="bf16")
    assert planner.seconds_per_step(twice, gpu) == pytest.approx(2 * work / (100e12 * 0.35), 0.01)
    assert planner.flops_per_step(replace(SETTINGS, cache=True)) == planner.step(SETTINGS).flops


def test_a_cached_pair_is_moments_source_and_text(planner: Planner) -> None:
    size = planner.planned.model.size
    expected = 4 * (3 * 16 * 16 * 16 + size.text_tokens * size.text_width)
    assert planner.cache_bytes_per_sample(SETTINGS) == expected


def test_the_first_remedy_that_suffices_alone_is_advised(planner: Planner) -> None:
    checkpointed = planner.total(replace(SETTINGS, gradient_checkpointing=True))
    advice = advise(planner, SETTINGS, gpu_of(checkpointed))
    assert advice is not None
    assert advice.overrides == ("plan.gradient_checkpointing=true",)


def test_advice_keeps_the_samples_of_a_step_and_fits(planner: Planner) -> None:
    gentle = replace(SETTINGS, batch_size=1, gradient_checkpointing=True, cache=True)
    gpu = gpu_of(planner.total(replace(gentle, weights="nf4", precision="bf16-mixed")))
    advice = advise(planner, SETTINGS, gpu)
    assert advice is not None
    assert len(advice.overrides) > 1
    assert planner.fits(advice.settings, gpu)
    assert advice.settings.samples_per_step == SETTINGS.samples_per_step
    assert advise(planner, SETTINGS, gpu_of(1000)) is None


@component
class NamedTrueSize(TinyEditor):
    """An editor that says of which size it is."""

    true_size: ClassVar[str | None] = "ip2p"


def test_lora_of_sd15_has_the_known_count_and_the_editors_own_targets() -> None:
    """797,184 weights at rank 4 on the attention projections, as in diffusers' first examples."""
    planned = planned_model(tiny(NamedTrueSize, rank=4, resolution=256), None, None)
    assert planned.model.name == "ip2p"
    assert planned.resolution == 256
    assert sum(p.numel() for p in planned.trained) == 797_184
    narrower = planned_model(tiny(NamedTrueSize, rank=4, targets=("to_q",)), None, None)
    assert sum(p.numel() for p in narrower.trained) < 797_184


def test_a_named_model_brings_its_targets_and_a_caption_branch_its_tokens() -> None:
    planned = planned_model(tiny(caption_branch="safe"), "ip2p", None)
    assert any("fusion_in" in name for name, _ in planned.model.network.named_parameters())
    assert planned.resolution == read_size("ip2p").resolution
    assert planned.text_tokens == 2 * 77
    with pytest.raises(UsageError, match="has no cross-attention"):
        planned_model(tiny(caption_branch="gated"), "sd3", None)


def test_the_job_writes_a_plan_that_adds_up(tmp_path: Path) -> None:
    overrides = [f"paths.runs={tmp_path}", "mode=plan", "plan.samples=1000", "plan.gpus=[h100]"]
    config = load("train", [*overrides, "trainer.precision=auto"])
    assert isinstance(config, Train)
    result = run(config)
    assert result.output_dir is not None
    plan = json.loads((result.output_dir / "plan.json").read_text("utf-8"))
    assert plan["schema"] == "unsafe2safe.plan.1"
    parts = plan["memory_per_gpu_bytes"]
    assert parts.pop("total") == sum(parts.values())
    assert plan["gpus"]["h100"]["fits"] is True
    assert plan["settings"]["precision"] == "bf16-mixed"
    assert plan["cache_bytes"]["total"] == 1000 * plan["cache_bytes"]["per_sample"]
    assert not list(tmp_path.rglob("*.safetensors"))
    assert "h100" in result.message


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["plan.model=kontex"], "did you mean 'kontext'"),
        (["plan.gpus=[h10]"], "did you mean 'h100'"),
        (["editor=redact"], "has no weights"),
        (["task=tiny_base"], "task=tiny_base is none"),
        (["plan.model=ip2p", "plan.resolution=30"], "multiple of 8"),
        (["pairs=nowhere"], "pairs=nowhere is no run folder"),
    ],
)
def test_mistakes_are_one_line(overrides: list[str], told: str, tmp_path: Path) -> None:
    config = load("train", [f"paths.runs={tmp_path}", "mode=plan", *overrides])
    assert isinstance(config, Train)
    with pytest.raises(UsageError, match=told) as caught:
        run(config)
    assert "\n" not in str(caught.value)


def test_a_plan_is_of_what_the_trainer_and_the_editor_say() -> None:
    shared = "trainer.devices=4", "trainer.num_nodes=2", "trainer.accumulate=3"
    for name, held in (("ip2p", "fp32"), ("kontext", "bf16")):
        config = load("train", [f"editor={name}", *shared])
        assert isinstance(config, Train)
        editor = build(config.editor, "editor", TrainableEditor)
        settings = settings_of(config, 64, editor)
        assert (settings.devices, settings.accumulate, settings.weights) == (8, 3, held)


def test_what_does_not_go_together_is_refused() -> None:
    packed = replace(SETTINGS, weights="nf4")
    with pytest.raises(UsageError, match=r"trainable=lora"):
        check_settings(packed, "full")
    with pytest.raises(UsageError, match=r"do not go together"):
        check_settings(replace(packed, sharding="fsdp", devices=2), "lora")
    with pytest.raises(ConfigError, match=r"plan\.utilization"):
        load("train", ["plan.utilization=1.5"])


def test_what_a_plan_assumes_does_not_change_a_training() -> None:
    keys = [
        result_keys(plain(load("train", [override])), _NEVER_CHANGES_RESULT)
        for override in ("plan.weights=fp32", "plan.weights=nf4")
    ]
    assert keys[0] == keys[1]

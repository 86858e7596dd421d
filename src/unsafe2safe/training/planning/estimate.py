"""From a model and the settings of a training to bytes per GPU, operations and seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from unsafe2safe.core.config.schema_train import Plan
from unsafe2safe.core.errors import UsageError
from unsafe2safe.training.planning.gpus import Gpu
from unsafe2safe.training.planning.inputs import encoding_of, forward_of, network_arguments
from unsafe2safe.training.planning.measure import (
    AsOnGpu,
    StepCost,
    measure_forward,
    measure_step,
    set_checkpointing,
)
from unsafe2safe.training.planning.model import TrainedModel, largest_block, largest_layer
from unsafe2safe.training.planning.true_size import parameter_count

GIB = 2**30
Weights = Literal["fp32", "bf16", "int8", "nf4"]

# bitsandbytes: one scale in fp32 per row (int8) or per 64 weights (nf4), of linear layers.
_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "nf4": 0.5}
_NF4_SCALE = 4 / 64
_MOMENT_BYTES = 4  # cached latents stay in fp32


@dataclass(frozen=True)
class Settings:
    """What of a training changes its memory and its time; ``batch_size`` is per GPU and pass."""

    batch_size: int
    accumulate: int
    resolution: int
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    weights: Weights
    gradient_checkpointing: bool
    cache: bool
    sharding: Literal["ddp", "fsdp"]
    devices: int

    @property
    def computed_in(self) -> torch.dtype:
        """The numbers of the frozen weights when they are multiplied, before any autocast."""
        return torch.float32 if self.weights == "fp32" else torch.bfloat16

    @property
    def autocast(self) -> torch.dtype | None:
        kinds = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        return kinds[self.precision]

    @property
    def samples_per_step(self) -> int:
        return self.batch_size * self.accumulate * self.devices


def check_settings(settings: Settings, trainable: str) -> None:
    """Refuse what cannot be trained together.

    Raises:
        UsageError: says which two keys.
    """
    if settings.weights in ("int8", "nf4"):
        if trainable == "full":
            raise UsageError(
                f"plan.weights={settings.weights}: quantized weights cannot be trained as a whole; "
                "use editor.trainable=lora"
            )
        if settings.sharding == "fsdp":
            raise UsageError(
                f"plan.weights={settings.weights} and trainer.strategy=fsdp do not go together"
            )


class Planner:
    """Measures the steps of one model, each kind of step once."""

    def __init__(self, planned: TrainedModel, ema: bool, plan: Plan) -> None:
        self.planned, self._ema, self._plan = planned, ema, plan
        self._network: Any = planned.model.network
        self.trained = sum(parameter.numel() for parameter in planned.trained)
        self.frozen = parameter_count(self._network) - self.trained
        self._steps: dict[tuple[Any, ...], StepCost] = {}
        self._encodings: dict[tuple[Any, ...], StepCost] = {}

    def step(self, settings: Settings) -> StepCost:
        """One forward and backward pass of a batch, and the optimizer's step."""
        key = (
            settings.batch_size,
            settings.resolution,
            settings.computed_in,
            settings.autocast,
            settings.gradient_checkpointing,
        )
        if key not in self._steps:
            network, size = self._network, self.planned.model.size
            _hold_frozen(network, settings.computed_in)
            gpu = partial(AsOnGpu, settings.autocast)
            set_checkpointing(network, settings.gradient_checkpointing, gpu)
            arguments = network_arguments(
                network,
                size,
                settings.batch_size,
                settings.resolution,
                settings.computed_in,
                self.planned.text_tokens,
            )
            forward = forward_of(network, arguments)
            self._steps[key] = measure_step(forward, self.planned.trained, settings.autocast)
        return self._steps[key]

    def encoding(self, settings: Settings) -> StepCost:
        """What a batch costs before its step: nothing where it comes from a cache."""
        if settings.cache:
            return StepCost(0, 0)
        key = (settings.batch_size, settings.resolution, settings.computed_in)
        if key not in self._encodings:
            model = self.planned.model
            _hold_frozen(model.vae, settings.computed_in)
            encode = encoding_of(
                model.vae, model.size, settings.batch_size, settings.resolution, key[2]
            )
            pictures = measure_forward(encode, settings.autocast)
            times = 1 if model.size.source == "none" else 2
            flops = times * pictures.flops + settings.batch_size * self.text_flops()
            self._encodings[key] = StepCost(flops, pictures.peak_bytes)
        return self._encodings[key]

    def text_flops(self) -> int:
        """Of embedding one sample's texts: 2 per weight and token, embeddings left out."""
        size = self.planned.model.size
        texts = self.planned.text_tokens // size.text_tokens
        flops = 0
        for encoder in self.planned.model.text_encoders.values():
            embeddings = sum(
                parameter_count(module)
                for module in encoder.modules()
                if isinstance(module, nn.Embedding)
            )
            config: Any = encoder.config
            longest = getattr(config, "max_position_embeddings", None) or size.text_tokens
            tokens = min(size.text_tokens, longest)
            flops += 2 * (parameter_count(encoder) - embeddings) * tokens * texts
        return flops

    def flops_per_step(self, settings: Settings) -> int:
        """On one GPU, for one optimizer step."""
        one_pass = self.step(settings).flops + self.encoding(settings).flops
        return settings.accumulate * one_pass

    def memory(self, settings: Settings) -> dict[str, int]:
        """Bytes on one GPU by part; the allowance for what cannot be measured is one of them."""
        model, step = self.planned.model, self.step(settings)
        shares = settings.devices if settings.sharding == "fsdp" else 1
        trained = 4 * self.trained / shares
        # DDP copies gradients into buckets of its own.
        copies = 2 if settings.devices > 1 and settings.sharding == "ddp" else 1
        plain: Weights = "fp32" if settings.weights == "fp32" else "bf16"
        encoders = (
            0.0
            if settings.cache
            else sum(_weight_bytes(encoder, plain) for encoder in model.text_encoders.values())
        )
        working: float = max(step.peak_bytes, self.encoding(settings).peak_bytes)
        if settings.weights in ("int8", "nf4"):
            working += 2 * largest_layer(self._network)
        if shares > 1:  # the block that computes, and the next on its way
            working += 2 * largest_block(self._network) * _BYTES[plain]
        parts = {
            "frozen network": _weight_bytes(self._network, settings.weights) / shares,
            "text encoders": encoders,
            "autoencoder": 0.0 if settings.cache else _weight_bytes(model.vae, plain),
            "trained weights": trained,
            "gradients": trained * copies,
            "optimizer": step.state_bytes / shares,
            "moving average": trained if self._ema else 0.0,
            "activations": working,
            "allowance": self._plan.context_gib * GIB + self._plan.fragmentation * working,
        }
        return {name: round(value) for name, value in parts.items()}

    def total(self, settings: Settings) -> int:
        """Bytes on one GPU."""
        return sum(self.memory(settings).values())

    def fits(self, settings: Settings, gpu: Gpu) -> bool:
        return self.total(settings) <= gpu.memory_gib * GIB

    def seconds_per_step(self, settings: Settings, gpu: Gpu) -> float:
        """At ``plan.utilization`` of the peak for the numbers that are multiplied."""
        full = settings.computed_in is torch.float32 and settings.autocast is None
        peak = gpu.fp32_tflops if full else gpu.bf16_tflops
        return self.flops_per_step(settings) / (peak * 1e12 * self._plan.utilization)

    def cache_bytes_per_sample(self, settings: Settings) -> int:
        """Mean and deviation of the target's latents, the source's mode, the embedded texts."""
        size = self.planned.model.size
        latents = size.latent_channels * (settings.resolution // size.latent_scale) ** 2
        kept = 2 if size.source == "none" else 3
        texts = self.planned.text_tokens // size.text_tokens
        text = self.planned.text_tokens * size.text_width + texts * size.pooled_width
        return kept * latents * _MOMENT_BYTES + text * settings.computed_in.itemsize


def _hold_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def _weight_bytes(module: nn.Module, weights: str) -> float:
    """Bytes of the frozen weights of ``module``; only linear layers are quantized."""
    frozen = [p for p in module.parameters() if not p.requires_grad]
    if weights in ("fp32", "bf16"):
        return sum(p.numel() for p in frozen) * _BYTES[weights]
    layers = [m.weight for m in module.modules() if isinstance(m, nn.Linear)]
    quantized = [weight for weight in layers if not weight.requires_grad]
    count = sum(weight.numel() for weight in quantized)
    scales = (
        sum(4 * weight.shape[0] for weight in quantized)
        if weights == "int8"
        else count * _NF4_SCALE
    )
    rest = sum(p.numel() for p in frozen) - count
    return count * _BYTES[weights] + scales + rest * _BYTES["bf16"]


def parameters_of(planner: Planner) -> Mapping[str, dict[str, int]]:
    """Trained and frozen weights by module."""
    model = planner.planned.model
    counts = {
        model.size.network: {"trained": planner.trained, "frozen": planner.frozen},
        model.size.vae: {"trained": 0, "frozen": parameter_count(model.vae)},
    }
    for name, encoder in model.text_encoders.items():
        counts[name] = {"trained": 0, "frozen": parameter_count(encoder)}
    return counts

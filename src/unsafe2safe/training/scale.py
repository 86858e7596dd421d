"""How a training is spread over devices, and what of it does not go together.

Everything here is told before any weight is loaded.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema_train import Train, Trainer
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.attention import check_attention
from unsafe2safe.editors.base import Editor
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.precision import resolve_precision
from unsafe2safe.training.network_options import check_compiler
from unsafe2safe.training.ranks import Ranks
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.sharding import ShardedStrategy

_OF_DENOISERS = ("gradient_checkpointing", "compile", "attention")
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def device_type(settings: Trainer) -> str:
    """Of the device that Lightning will train on."""
    if settings.accelerator in ("auto", "gpu"):
        found = torch.accelerator.current_accelerator(check_available=True)
        return found.type if found is not None else "cpu"
    return settings.accelerator


def training_device(settings: Trainer, ranks: Ranks) -> torch.device:
    """The device that Lightning will train on in this process."""
    kind = device_type(settings)
    return torch.device(kind, ranks.local_rank) if kind == "cuda" else torch.device(kind)


def check_devices(settings: Trainer) -> None:
    """Refuse more devices than there are, and an accelerator that is not there.

    Raises:
        UsageError: says how many there are.
    """
    kind = device_type(settings)
    if kind == "cuda" and settings.devices > torch.cuda.device_count():
        raise UsageError(
            f"trainer.devices={settings.devices}: this machine shows "
            f"{torch.cuda.device_count()} CUDA devices"
        )
    if settings.accelerator == "gpu" and kind == "cpu":
        raise UsageError("trainer.accelerator=gpu: torch sees no GPU on this machine")
    if settings.accelerator == "mps" and not torch.backends.mps.is_available():
        raise UsageError("trainer.accelerator=mps: torch sees none on this machine")


def checked_scale(config: Train, recipe: Recipe) -> Train:
    """``config`` with ``trainer.attention`` filled in from the editor's.

    Refuses choices of the trainer that the device, the editor or each other do not allow.

    Raises:
        UsageError: names the key.
    """
    settings, kind = config.trainer, device_type(config.trainer)
    if settings.precision == "16-mixed" and kind == "cpu":
        raise UsageError(
            "trainer.precision=16-mixed needs a GPU (a CPU has no fp16 autocast with scaled "
            "gradients); use 32-true, or bf16-mixed where the processor computes in bf16"
        )
    check_compiler(settings, kind)
    if not recipe.trains_editors:
        _check_without_denoiser(settings, recipe)
        return config
    editor = build(config.editor, "editor", Editor)  # type: ignore[type-abstract]
    if not isinstance(editor, TrainableEditor):
        return config  # told by the recipe
    editor.check_loadable()
    if editor.base_dtype == "float16" and settings.precision != "16-mixed":
        raise UsageError(
            f"editor.dtype=float16 trains with trainer.precision=16-mixed alone, whose gradients "
            f"are scaled; this is {settings.precision}"
        )
    _check_attention(settings, editor, kind)
    if settings.shares_weights:
        _check_shared(config, editor)
    if settings.processes > 1 and settings.strategy == "fsdp":
        _check_fsdp(config, editor)
    if settings.processes > 1 and settings.strategy == "deepspeed":
        _check_deepspeed(settings, editor, kind)
    settings = settings.model_copy(update={"attention": settings.attention or editor.attention})
    return config.model_copy(update={"trainer": settings})


def _check_shared(config: Train, editor: TrainableEditor) -> None:
    """What needs all of the denoiser in one process, or trains more than it."""
    strategy = f"trainer.strategy={config.trainer.strategy}"
    if config.validation.every is not None:
        raise UsageError(
            f"{strategy} shares the denoiser's weights, and validation.every needs all of them on "
            "each process; measure the checkpoints' adapters afterwards, or use ddp"
        )
    if len(editor.lora_targets()) > 1:
        raise UsageError(
            f"{strategy} trains the denoiser alone: editor.text_encoder_targets needs ddp"
        )


def _check_without_denoiser(settings: Trainer, recipe: Recipe) -> None:
    chosen = {name: getattr(settings, name) for name in _OF_DENOISERS}
    if settings.strategy != "ddp":
        chosen["strategy"] = settings.strategy
    for name, value in chosen.items():
        if value:
            raise UsageError(
                f"trainer.{name}={value} is for the denoisers of editors; task={recipe.name} "
                "trains none"
            )


def _check_attention(settings: Trainer, editor: TrainableEditor, kind: str) -> None:
    own = settings.attention is not None
    precision = resolve_precision(settings.precision, kind)
    check_attention(
        settings.attention if own else editor.attention,
        "trainer.attention" if own else "editor.attention",
        dispatched=editor.dispatched_attention,
        device=torch.device(kind),
        dtype=_AUTOCAST.get(precision) or getattr(torch, editor.base_dtype),
        training=True,
    )


def _check_fsdp(config: Train, editor: TrainableEditor) -> None:
    library = str(config.optimizer.get("_target_", "")).partition(".")[0]
    if editor.quantize != "none":
        raise UsageError(
            f"editor.quantize={editor.quantize} and trainer.strategy=fsdp do not go together: "
            "packed weights are not shared out; use trainer.strategy=ddp, or no quantization"
        )
    if library != "torch":
        raise UsageError(
            f"optimizer={config.optimizer.get('_target_')} and trainer.strategy=fsdp do not go "
            "together: it knows no weights in parts; use optimizer=adamw"
        )
    if config.trainer.precision == "16-mixed":
        raise UsageError(
            "trainer.precision=16-mixed and trainer.strategy=fsdp do not go together; use "
            "bf16-mixed or 32-true"
        )


def _check_deepspeed(settings: Trainer, editor: TrainableEditor, kind: str) -> None:
    if find_spec("deepspeed") is None:
        raise UsageError(
            "trainer.strategy=deepspeed needs deepspeed, which is not there: pip install deepspeed"
        )
    if kind != "cuda":
        raise UsageError(f"trainer.strategy=deepspeed needs CUDA GPUs; this trains on {kind}")
    asked = {
        "trainer.gradient_check": settings.gradient_check and "false",  # it owns each backward
        "trainer.precision": settings.precision != "32-true" and "32-true",  # it casts all weights
        "trainer.ema": settings.ema and settings.zero_stage == 3 and "null",
        "editor.quantize": editor.quantize != "none" and "none",
    }
    for key, needed in asked.items():
        if needed:
            raise UsageError(f"trainer.strategy=deepspeed needs {key}={needed}")


def strategy_of(settings: Trainer, ranks: Ranks) -> Any:
    """What Lightning is told: its own choice where one process trains."""
    if ranks.world_size == 1:
        return "auto"
    if settings.strategy == "fsdp":
        return ShardedStrategy(ranks)
    if settings.strategy == "deepspeed":
        from unsafe2safe.training.zero import ZeroStrategy  # needs deepspeed

        return ZeroStrategy(settings)
    return DDPStrategy()

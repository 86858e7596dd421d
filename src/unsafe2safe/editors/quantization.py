"""Frozen bases in 4 or 8 bits, through diffusers' and transformers' own quantizers.

Packed are the linear layers of the denoiser and of large text encoders. Autoencoders never are,
nor CLIP's text models, which are small. What is trained (LoRA) stays in fp32 beside them.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.library_logs import quiet

if TYPE_CHECKING:
    import torch

Quantize = Literal["none", "nf4", "int8", "torchao_int8"]

_LIBRARY = {"nf4": "bitsandbytes", "int8": "bitsandbytes", "torchao_int8": "torchao"}
BITSANDBYTES = frozenset(kind for kind, library in _LIBRARY.items() if library == "bitsandbytes")


def check_quantize(quantize: Quantize, trainable: str, use_dora: bool = False) -> None:
    """Refuse what quantized weights cannot do; told before any weight is loaded.

    Raises:
        UsageError: all weights are to be trained, or by DoRA beside bitsandbytes' 8 bits, which
            peft cannot; or the library is not there.
    """
    if quantize == "none":
        return
    library = _LIBRARY[quantize]
    if trainable == "full":
        raise UsageError(
            f"editor.quantize={quantize}: quantized weights cannot be trained as a whole; "
            "use editor.trainable=lora"
        )
    if quantize == "int8" and use_dora:
        raise UsageError(
            "editor.quantize=int8 takes no DoRA: use editor.quantize=nf4, or torchao_int8"
        )
    if find_spec(library) is None:
        raise UsageError(
            f"editor.quantize={quantize} needs {library}, which is not there: "
            "pip install unsafe2safe[quantized]"
        )


def loading_settings(
    quantize: Quantize, index: Mapping[str, Any], denoiser: str, dtype: torch.dtype
) -> dict[str, Any]:
    """What ``DiffusionPipeline.from_pretrained`` is given beside the rest.

    ``index`` is the pipeline's ``model_index.json``; ``dtype`` is what layers compute in.
    """
    from diffusers.quantizers import PipelineQuantizationConfig

    libraries = {denoiser: "diffusers"} | {
        part: "transformers"
        for part, named in index.items()
        if part.startswith("text_encoder") and isinstance(named, list) and _is_large(named[1])
    }
    mapping = {part: _config(quantize, library, dtype) for part, library in libraries.items()}
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}


def _is_large(class_name: str | None) -> bool:
    return class_name is not None and not class_name.startswith("CLIP")


def _config(quantize: Quantize, library: str, dtype: torch.dtype) -> Any:
    own: Any = importlib.import_module(library)
    if quantize == "torchao_int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return own.TorchAoConfig(Int8WeightOnlyConfig())
    if quantize == "int8":
        return own.BitsAndBytesConfig(load_in_8bit=True)
    return own.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


@contextmanager
def quantizing(quantize: Quantize) -> Iterator[None]:
    """Load a base inside the block: without a GPU, bitsandbytes packs on the CPU.

    bitsandbytes has kernels for it and transformers uses them; diffusers asks for a GPU still.
    """
    import torch

    gpu = torch.cuda.is_available() or torch.xpu.is_available() or torch.mps.is_available()
    if quantize == "int8":  # it tells that it casts with every layer
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    with (
        quiet("diffusers.quantizers.torchao.torchao_quantizer"),  # that fp32 is no habit of its
        nullcontext() if gpu or quantize not in BITSANDBYTES else _on_the_cpu(),
    ):
        yield


@contextmanager
def _on_the_cpu() -> Iterator[None]:
    from diffusers.quantizers import auto

    known: dict[str, Any] = auto.AUTO_QUANTIZER_MAPPING
    before = {name: known[name] for name in ("bitsandbytes_4bit", "bitsandbytes_8bit")}
    known.update({name: _cpu_kind(kind) for name, kind in before.items()})
    try:
        yield
    finally:
        known.update(before)


def _cpu_kind(kind: Any) -> Any:
    def validate_environment(self: Any, *_: Any, **__: Any) -> None:
        """No GPU is asked for."""

    def update_device_map(self: Any, device_map: Any) -> Any:  # noqa: ARG001
        return device_map or {"": "cpu"}

    members = {
        "validate_environment": validate_environment,
        "update_device_map": update_device_map,
    }
    return type(kind.__name__, (kind,), members)


def gather_on_cpu(pipeline: Any) -> None:
    """Bring parts that a GPU has packed to the others, which lie on the CPU."""
    import torch

    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            torch.nn.Module.to(part, "cpu")  # the models' own `to` may refuse


def unpacked(value: torch.Tensor) -> torch.Tensor:
    """``value`` as a plain tensor: torchao's weights are tensors of a class of their own."""
    return value.dequantize() if type(value).__module__.startswith("torchao.") else value

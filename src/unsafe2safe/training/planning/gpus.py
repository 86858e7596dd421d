"""GPUs by name: what their makers publish of them."""

from __future__ import annotations

from dataclasses import dataclass

from unsafe2safe.core.config.components import nearest
from unsafe2safe.core.errors import UsageError


@dataclass(frozen=True)
class Gpu:
    """``memory_gib`` is what programs see, a little less than the name says; the peaks are dense,
    in TFLOP/s, bf16 on tensor cores with fp32 sums and fp32 without TF32."""

    name: str
    memory_gib: float
    bf16_tflops: float
    fp32_tflops: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("rtx_3090", 23.5, 71.0, 35.6),
        Gpu("rtx_4090", 23.5, 165.2, 82.6),
        Gpu("l4", 22.0, 121.0, 30.3),
        Gpu("l40s", 44.4, 362.0, 91.6),
        Gpu("a6000", 47.4, 154.8, 38.7),
        Gpu("a100_40", 39.4, 312.0, 19.5),
        Gpu("a100_80", 79.1, 312.0, 19.5),
        Gpu("h100", 79.1, 989.0, 66.9),
        Gpu("h200", 139.8, 989.0, 66.9),
    )
}


def gpu_named(name: str) -> Gpu:
    """One of :data:`GPUS`.

    Raises:
        UsageError: it is not in the table.
    """
    if name not in GPUS:
        raise UsageError(f"plan.gpus: {name!r} is not in our table{nearest(name, GPUS)}")
    return GPUS[name]

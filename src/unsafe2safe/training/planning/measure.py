"""What one training step needs, measured on the meta device: no weights, no arithmetic.

The step runs forward, backward and optimizer as it would, while every operation that torch
dispatches is seen: those that compute are counted with the formulas of
``torch.utils.flop_counter``, and each storage is followed from the operation that makes it to its
release. Tensors on the meta device have shapes and storages of the right size but no memory behind
them, so a model of any size can be measured.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from unsafe2safe.editors.branch_attention import SafeCrossAttention

# What torch.autocast computes in half and in full precision on CUDA, of what these networks do.
_IN_HALF = frozenset(
    {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "matmul", "__matmul__", "bmm"}
    | {"mm", "addmm", "baddbmm", "einsum", "scaled_dot_product_attention"}
)
_IN_FULL = frozenset(
    {"layer_norm", "group_norm", "softmax", "log_softmax", "pow", "__pow__", "rsqrt", "exp", "log"}
    | {"sum", "norm", "mse_loss", "reciprocal", "softplus", "cumsum", "prod"}
)


@dataclass(frozen=True)
class StepCost:
    """One step's floating-point operations, and the most bytes that lived at once in it.

    ``peak_bytes`` is without weights and without the gradients of weights; ``state_bytes`` are the
    optimizer's.
    """

    flops: int
    peak_bytes: int
    state_bytes: int = 0


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations and follows storages that are made inside the block.

    ``peak`` is the most bytes that lived at once. What existed before is not counted, and a view
    counts no second time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.now = self.peak = 0
        # FlopCounterMode itself holds on to recomputed tensors through its hooks on modules.
        self._formulas = FlopCounterMode(display=False).flop_registry
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = {leaf.untyped_storage()._cdata for leaf in _tensors((args, kwargs))}
        result = func(*args, **kwargs)
        if (formula := self._formulas.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        for leaf in _tensors(result):
            storage = leaf.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._known:
                self._follow(storage)
        return result

    def _follow(self, storage: Any) -> None:
        key, size = storage._cdata, int(storage.nbytes())
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, size).atexit = False

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


class AsOnGpu(TorchFunctionMode):
    """Has the meta device choose numbers and kernels as a GPU does.

    Fused attention and fused RMS norm stand in the place of their decompositions, which keep
    matrices that no GPU keeps. With ``half`` operations are cast as ``torch.autocast`` casts them,
    which itself knows no meta device.
    """

    def __init__(self, half: torch.dtype | None) -> None:
        super().__init__()
        self._half = half

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        kwargs = kwargs or {}
        if self._half is not None and name in _IN_HALF:
            args, kwargs = _cast((args, kwargs), self._half)
        elif self._half is not None and name in _IN_FULL:
            args, kwargs = _cast((args, kwargs), torch.float32)
        if name == "scaled_dot_product_attention":
            return _attention(*args, **kwargs)
        if name == "rms_norm":
            return _rms_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    return tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, tree)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,  # noqa: ARG001 - a mask neither saves work nor keeps a matrix
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (part.repeat_interleave(times, -3) for part in (key, value))
    fused = torch.ops.aten._scaled_dot_product_flash_attention
    return fused(query, key, value, dropout_p, is_causal, scale=scale)[0]


def _rms_norm(
    input: Tensor,  # noqa: A002 - torch's own name
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Any:
    return torch.ops.aten._fused_rms_norm(input, list(normalized_shape), weight, eps)[0]


def set_checkpointing(
    network: nn.Module, on: bool, mode: Callable[[], AbstractContextManager[Any]]
) -> None:
    """Turn gradient checkpointing of a diffusers model on or off; ``mode`` opens what the forward
    pass is measured in, for the recomputation too."""
    model: Any = network
    for module in model.modules():
        if isinstance(module, SafeCrossAttention):
            module.recomputed_in = mode
    if not on:
        model.disable_gradient_checkpointing()
        return

    def again(module: nn.Module, *arguments: Any) -> Any:
        return checkpoint(
            module.__call__,
            *arguments,
            use_reentrant=False,
            # torch leaves such modes out of backward, where the recomputation happens
            context_fn=lambda: (nullcontext(), mode()),
        )

    model.enable_gradient_checkpointing(again)


def measure_step(
    forward: Callable[[], Tensor],
    trained: list[nn.Parameter],
    half: torch.dtype | None = None,
    on_gpu: bool = True,
) -> StepCost:
    """Run ``forward``, the backward of its mean square, and AdamW on ``trained``, and measure it.

    The gradients of ``trained`` are gone afterwards. ``on_gpu=False`` leaves the choice of kernels
    to the device that the weights are on.
    """
    meter = Meter()
    mode = AsOnGpu(half) if on_gpu else nullcontext()
    with mode, meter:
        prediction = forward()
        loss = prediction.float().square().mean()
        del prediction
        torch.autograd.backward([loss])
        del loss
    gradients = sum(p.grad.untyped_storage().nbytes() for p in trained if p.grad is not None)
    step = Meter()
    optimizer = torch.optim.AdamW(trained, foreach=True)
    with step:
        optimizer.step()
    states = sum(
        leaf.untyped_storage().nbytes()
        for state in optimizer.state.values()
        for leaf in _tensors(state)
    )
    for parameter in trained:
        parameter.grad = None
    working = max(meter.peak - gradients, step.peak - states, 0)
    return StepCost(meter.flops, working, states)


def measure_forward(forward: Callable[[], Any], half: torch.dtype | None = None) -> StepCost:
    """Run ``forward`` without gradients and measure it."""
    meter = Meter()
    with torch.no_grad(), AsOnGpu(half), meter:
        forward()
    return StepCost(meter.flops, meter.peak)

"""Weights that lie in parts on several processes (FSDP2), and checkpoints that know nothing of it.

Lightning would write a folder of shards, or gather a state by the names of the whole module. A
checkpoint of ours holds the trained weights alone, whole, so any number of processes and any
strategy goes on from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from unsafe2safe.training.ranks import Ranks
from unsafe2safe.training.task import Task


def whole(value: Tensor) -> Tensor:
    """``value`` on every rank, gathered if it lies in parts: all ranks call this together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def kept(value: Tensor) -> Tensor:
    """What a checkpoint keeps of ``value``: all of it in the first rank's memory, and nothing of
    what lies in parts on the others. All ranks call this together."""
    if not isinstance(value, DTensor):
        return value
    gathered = value.full_tensor()
    return gathered.cpu() if torch.distributed.get_rank() == 0 else gathered.new_empty(0)


def put(value: Tensor, into: Tensor) -> None:
    """Copy the whole ``value``; a rank that holds a part of ``into`` takes that part."""
    into.copy_(_as_parts(value, into) if isinstance(into, DTensor) else value)


def _as_parts(value: Tensor, like: DTensor) -> DTensor:
    # every rank has read the same file: nothing needs to be sent
    return distribute_tensor(
        value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def shard(denoiser: Any, mesh: Any) -> None:
    """Let each rank of ``mesh`` hold a part of every weight of ``denoiser``, gathered block by
    block when they are needed.

    Dtypes stay as they are: LoRA weights in fp32 beside a frozen base in bf16, in one group, which
    FSDP2 allows as long as the trained ones are of one dtype.
    """
    for parameter in denoiser.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 takes no channels-last layout
    names: Iterable[str] = denoiser._no_split_modules or ()
    # Innermost first, as fully_shard wants it. All are freed after the forward pass, the root too:
    # between steps every weight lies in parts, so that averages and checks see nothing else.
    for module in reversed(list(denoiser.modules())):
        if module is denoiser or type(module).__name__ in names:
            fully_shard(module, mesh=mesh, reshard_after_forward=True)


class ShardedStrategy(ModelParallelStrategy):  # type: ignore[misc]
    """Lightning's FSDP2 over all ranks, with this project's checkpoints."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(
            data_parallel_size=ranks.world_size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.lightning_module.state_dict()
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state with every tensor whole, on the first rank."""
        plain: Optimizer = getattr(optimizer, "_optimizer", optimizer)
        state: dict[str, Any] = tree_map_only(Tensor, kept, plain.state_dict())
        return state

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        loaded: dict[str, Any] = Strategy.load_checkpoint(self, checkpoint_path, weights_only)
        return loaded

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(_state_in_parts(optimizer, state))


def _state_in_parts(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def placed(parameter: Tensor, value: Any) -> Any:
        like = isinstance(value, Tensor) and value.shape == parameter.shape
        return _as_parts(value, parameter) if like and isinstance(parameter, DTensor) else value

    held = {
        index: {name: placed(parameters[index], value) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": held}


@torch.no_grad()
def take_trained(task: Task[Any, Any, Any], checkpoint: Path) -> None:
    """Give ``task``, made anew, the weights of a checkpoint: the averaged ones where it has some.

    Raises:
        ValueError: the checkpoint is of other weights.
    """
    content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    average = content.get("average")
    weights: Mapping[str, Tensor] = average["average"] if average else content["state_dict"]
    trainable: Mapping[str, nn.Parameter] = task.trainable_parameters()
    if set(weights) != set(trainable):
        raise ValueError(f"{checkpoint.name} is of other weights than this task trains")
    for name, parameter in trainable.items():
        parameter.copy_(weights[name])

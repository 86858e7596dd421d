"""DeepSpeed's ZeRO through Lightning's strategy, with this project's checkpoints.

Lightning would write DeepSpeed's own folder, which only the same number of processes can go on
from. Here weights and optimizer state are gathered by DeepSpeed's public access functions.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.strategies import DeepSpeedStrategy, Strategy
from torch import Tensor, nn
from torch.optim import Optimizer

from unsafe2safe.core.config.schema_train import Trainer

_STEP = "step"


class ZeroStrategy(DeepSpeedStrategy):  # type: ignore[misc]
    """ZeRO 2 or 3 over all ranks; every method that reads or writes state is called by all."""

    def __init__(self, settings: Trainer) -> None:
        super().__init__(stage=settings.zero_stage, logging_batch_size_per_gpu=settings.batch_size)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def _trainable(self) -> Mapping[str, nn.Parameter]:
        trainable: Mapping[str, nn.Parameter] = self.lightning_module.task.trainable_parameters()
        return trainable

    def lightning_module_state_dict(self) -> dict[str, Any]:
        read = _access().safe_get_full_fp32_param
        return {name: read(weight).cpu() for name, weight in self._trainable().items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:  # noqa: ARG002
        weights, trainable = checkpoint["state_dict"], self._trainable()
        if set(weights) != set(trainable):
            raise ValueError("the checkpoint does not fit what is trained")
        for name, weight in trainable.items():
            _access().safe_set_full_fp32_param(weight, weights[name].to(self.root_device))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As torch's ``Optimizer.state_dict``: by number, every tensor whole."""
        base = _base_of(optimizer)
        held: Mapping[str, Any] = next(iter(base.state.values()), {})
        read = _access().safe_get_full_optimizer_state
        state: dict[int, dict[str, Any]] = {}
        for index, weight in enumerate(self._trainable().values()):
            tensors = {name: read(weight, name).cpu() for name in held if name != _STEP}
            state[index] = tensors | ({_STEP: _plain(held[_STEP])} if _STEP in held else {})
        settings = {k: v for k, v in base.param_groups[0].items() if k != "params"}
        return {"state": state, "param_groups": [settings | {"params": list(range(len(state)))}]}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        (saved,), base = checkpoint["optimizer_states"], _base_of(self.optimizers[0])
        write = _access().safe_set_full_optimizer_state
        for index, weight in enumerate(self._trainable().values()):
            for name, value in saved["state"][index].items():
                if name != _STEP:
                    write(weight, value.to(self.root_device), name)
        for state in base.state.values():
            if _STEP in state:
                taken = saved["state"][0][_STEP]
                state[_STEP] = taken.to(state[_STEP]) if isinstance(taken, Tensor) else taken
        settings = {k: v for k, v in saved["param_groups"][0].items() if k != "params"}
        for group in base.param_groups:
            group.update(settings)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        loaded: dict[str, Any] = Strategy.load_checkpoint(self, checkpoint_path, weights_only)
        return loaded


def _access() -> Any:
    return importlib.import_module("deepspeed.utils")


def _base_of(optimizer: Any) -> Optimizer:
    """The torch optimizer below Lightning's and DeepSpeed's wrappers."""
    inner = getattr(optimizer, "_optimizer", optimizer)
    base: Optimizer = getattr(inner, "optimizer", inner)
    return base


def _plain(value: Any) -> Any:
    return torch.as_tensor(value).detach().cpu().clone()

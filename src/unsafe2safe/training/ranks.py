"""Which of the processes of one training this is, and what they tell each other before it begins.

Lightning would start the others by running ``sys.argv`` again, and each would compose its
configuration anew: under a sweeper, with other values. Here the first process hands the others its
own configuration, or all are started from outside (torchrun, srun) and the first one decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from unsafe2safe.core.errors import UsageError

T = TypeVar("T")

_LOOPBACK = "127.0.0.1"
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK")


@dataclass(frozen=True)
class Ranks:
    """The place of a process among ``world_size``; ``external``: others started them."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    num_nodes: int = 1
    address: str = _LOOPBACK
    port: int = 0
    external: bool = False

    @property
    def devices(self) -> int:
        """Processes on each node."""
        return self.world_size // self.num_nodes


ALONE = Ranks()


class RankEnvironment(ClusterEnvironment):
    """Tells Lightning what :class:`Ranks` says; nothing is read from the environment."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self._ranks.address

    @property
    def main_port(self) -> int:
        return self._ranks.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._ranks.world_size

    def set_world_size(self, size: int) -> None:
        assert size == self._ranks.world_size

    def global_rank(self) -> int:
        return self._ranks.rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self._ranks.rank

    def local_rank(self) -> int:
        return self._ranks.local_rank

    def node_rank(self) -> int:
        return self._ranks.rank // self._ranks.devices


def external_ranks(devices: int, num_nodes: int) -> Ranks | None:
    """The place of this process where torchrun or srun started it beside others, else None.

    Raises:
        UsageError: they started another number of processes than ``devices`` times ``num_nodes``,
            or none although there is more than one node.
    """
    environment = _launcher()
    world = environment.world_size() if environment is not None else 1
    if environment is None or world == 1:
        if num_nodes > 1:
            raise UsageError(
                f"trainer.num_nodes={num_nodes}: start train.py on each node with torchrun or srun"
            )
        return None
    if world != devices * num_nodes:
        raise UsageError(
            f"{world} processes were started, but trainer.devices={devices} times "
            f"trainer.num_nodes={num_nodes} is {devices * num_nodes}"
        )
    return Ranks(
        rank=environment.global_rank(),
        local_rank=environment.local_rank(),
        world_size=world,
        num_nodes=num_nodes,
        address=environment.main_address,
        port=environment.main_port,
        external=True,
    )


def launched_rank() -> int:
    """The rank that torchrun or srun gave this process; 0 where neither started it."""
    environment = _launcher()
    return environment.global_rank() if environment is not None else 0


def _launcher() -> ClusterEnvironment | None:
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    # A batch script that calls python without srun is one process in an allocation of many.
    if "SLURM_PROCID" in os.environ and "SLURM_STEP_ID" in os.environ:
        return SLURMEnvironment(auto_requeue=False)
    return None


def local_ranks(count: int) -> list[Ranks]:
    """Places for ``count`` processes on this machine."""
    port = find_free_network_port()
    return [Ranks(rank=i, local_rank=i, world_size=count, port=port) for i in range(count)]


@contextmanager
def joined(ranks: Ranks, timeout: timedelta) -> Iterator[None]:
    """Inside the block this process is one of the group; what it set is undone afterwards.

    Raises:
        RuntimeError: the others did not come within ``timeout``.
    """
    if ranks.world_size == 1:
        yield
        return
    before = {name: os.environ.get(name) for name in _ADDRESS}
    # A rank on the CPU or on a GPU: objects travel by gloo, gradients by what the device has.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(
        backend,
        init_method=f"tcp://{ranks.address}:{ranks.port}",
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=timeout,
    )
    if ranks.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(ranks.local_rank)  # before a base is packed on a GPU
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@dataclass(frozen=True)
class Start:
    """What the first rank has decided for all: where checkpoints lie, which one they go on from,
    and which earlier results they read."""

    checkpoints: Path
    resume_from: Path | None
    inputs: Mapping[str, Path]


class Call:
    """The first rank's one word to the others: a :class:`Start`, or None where there is nothing to
    train. Left without having been told, it tells None, so that nobody waits for ever."""

    def __init__(self) -> None:
        self._ranks = ALONE

    def tell(self, ranks: Ranks, start: Start | None) -> None:
        """Every other rank returns from :func:`hear`."""
        self._ranks = ALONE
        if ranks.world_size > 1:
            _broadcast([start])

    @contextmanager
    def expected_by(self, ranks: Ranks) -> Iterator[None]:
        """Inside the block the others, already there, wait."""
        self._ranks = ranks
        try:
            yield
        finally:
            self.tell(self._ranks, None)


def hear() -> Start | None:
    """What the first rank tells."""
    held: list[Start | None] = [None]
    _broadcast(held)
    return held[0]


def gathered(value: T, ranks: Ranks) -> list[T]:
    """What every rank gives, in their order; all of them call this at the same time."""
    if ranks.world_size == 1:
        return [value]
    held: list[Any] = [None] * ranks.world_size
    torch.distributed.all_gather_object(held, value)
    return held


def tell_all(word: str | None) -> str | None:
    """What the first rank says, to every rank; the others' ``word`` is not looked at."""
    held = [word]
    _broadcast(held)
    return held[0]


def _broadcast(held: list[Any]) -> None:
    torch.distributed.broadcast_object_list(held, src=0, device=torch.device("cpu"))

"""Shares of one run: an array job's, or one for each device of this machine."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from unsafe2safe.core.config.schema_common import Common, ShardedEngine
from unsafe2safe.core.ledger import RunFolder, RunSpec
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.core.units import Shard, UnitCut
from unsafe2safe.engines.processes import Child, own_device, run_processes

log = logging.getLogger("unsafe2safe")

_NAMED = 5  # missing units that a message names


class Sharded(Protocol):
    """A configuration whose engine deals shares."""

    @property
    def engine(self) -> ShardedEngine: ...


ShardedConfig = TypeVar("ShardedConfig", bound=Common)


def shard_of(config: Sharded) -> Shard | None:
    """The share that this process works off; None: all of it."""
    return Shard.parse(config.engine.shard) if config.engine.shard else None


def run_devices(
    script: str,
    config: ShardedConfig,
    engine: ShardedEngine,
    spec: RunSpec,
    merge: Callable[[], RunResult],
) -> RunResult:
    """A process for each of ``engine.devices``, each with its share of the units; then ``merge``,
    unless this is a share of other shares itself. ``engine`` is that of ``config``."""
    if config.existing != "resume":  # once, not by each process
        RunFolder.open(spec, config.existing).close()
    whole = Shard.parse(engine.shard) if engine.shard else None
    shards = (whole or Shard(0, 1)).split(engine.devices)
    visible = _cuda_devices()
    if visible and len(visible) < len(shards):
        log.warning("%d processes share %d CUDA devices", len(shards), len(visible))
    children = []
    for index, shard in enumerate(shards):
        one = engine.model_copy(update={"shard": str(shard), "devices": 1})
        own = config.model_copy(update={"engine": one, "existing": "resume"})
        given = json.dumps({"script": script, "config": json.loads(own.model_dump_json())})
        device = own_device(index, visible)
        children.append(Child(f"shard {shard}", "unsafe2safe.jobs.one_shard", given, device))
    statuses = run_processes(children)
    failures = [
        (shard, status) for shard, status in zip(shards, statuses, strict=True) if status != 0
    ]
    if failures:
        told = "; ".join(f"shard {shard} {_ended(status)}" for shard, status in failures)
        codes = [ExitStatus(s) if s in list(ExitStatus) else ExitStatus.FAULT for _, s in failures]
        worst = max(codes, key=lambda status: status.severity)
        message = f"{told}; what the processes wrote is kept, the same command goes on from there"
        return RunResult(worst, None, message=message)
    if whole is not None:
        return RunResult(ExitStatus.DONE, spec.output_dir, message=told_to_merge(spec, whole))
    return merge()


def told_to_merge(spec: RunSpec, shard: Shard) -> str:
    return (
        f"shard {shard} is done: {spec.output_dir}\n"
        "when all shards are, the same command with mode=merge completes the run"
    )


def _cuda_devices() -> list[str]:
    """Names of the CUDA devices that this process may use."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


def _ended(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def told_missing(folder: RunFolder, cut: UnitCut, missing: Sequence[int]) -> str:
    """Which units a run lacks, and how to get them: the shards they belong to, if there are any."""
    names = ", ".join(f"part-{index:06d}" for index in missing[:_NAMED])
    names += ", ..." if len(missing) > _NAMED else ""
    told = f"{folder.path} lacks {len(missing)} of {cut.units} units: {names}"
    shards = folder.state.get("shards")
    if not shards:
        return f"{told}; run the same command with mode=run"
    late = sorted({index % shards for index in missing})
    which = ", ".join(str(Shard(index, shards)) for index in late)
    return f"{told}; run again engine.shard={which}"

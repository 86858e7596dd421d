"""Each loop of ``benchmarks/training.py`` in a process of its own.

The processes are forked from one that has imported the libraries of all loops and computed nothing,
so all of them begin with the same memory, and none takes time for imports.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from small_ip2p import Size

from unsafe2safe.core.openmp import wait_briefly

_LOOPS = "training_loops"


@dataclass(frozen=True)
class Job:
    """What a process does: ``kind`` names a function of ``training_loops``."""

    kind: str
    root: Path
    size: Size
    pairs: int
    batch: int
    steps: int
    warmup: int
    threads: int
    trainable: str = "full"
    cache: str = "cache"
    gradient_check: bool = False
    gradients: str | None = None  # file for those of the first step
    rank: int = 0
    world: int = 1
    port: int = 0
    channels_last: bool | None = None  # None: as the editor lays its weights out
    bf16: bool = False


def start_server(benchmarks: Path) -> multiprocessing.context.ForkServerContext:
    """What forks the processes."""
    paths = [str(benchmarks), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    wait_briefly()  # as the scripts do
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_LOOPS])
    return context


def measure(
    context: multiprocessing.context.ForkServerContext, jobs: Sequence[Job]
) -> list[dict[str, Any]]:
    """Run ``jobs`` side by side; what each has measured.

    Raises:
        SystemExit: one of them failed; its log has been printed.
    """
    running = []
    for job in jobs:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(theirs, job), daemon=True)
        process.start()
        theirs.close()
        running.append((ours, process))
    results = []
    for job, (ours, process) in zip(jobs, running, strict=True):
        try:
            results.append(ours.recv())
        except EOFError:
            print(_log(job).read_text(errors="replace"), file=sys.stderr)
            raise SystemExit(f"the process of {job.kind} failed; its log is above") from None
        process.join()
    return results


def work(connection: Connection, job: Job) -> None:
    """In the process: do ``job`` and send what was measured, with the peak of resident memory.

    That peak is the operating system's for the whole life of the process: interpreter and
    libraries, weights, gradients, optimizer, activations, loading, mapped pages of files.
    """
    with _log(job).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    import torch
    import training_loops

    torch.set_num_threads(job.threads)
    found = getattr(training_loops, job.kind)(job)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    connection.send({**found, "peak_mb": peak})


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _log(job: Job) -> Path:
    return job.root / f"{job.kind}-{job.rank}.log"

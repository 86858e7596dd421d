"""The processes that train beside this one, one for each of ``trainer.devices``."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta

from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import Unsafe2SafeError
from unsafe2safe.engines.processes import Child, Processes
from unsafe2safe.jobs.common import plain
from unsafe2safe.training.ranks import Ranks, joined, local_ranks

WITHIN = timedelta(minutes=30)
_GRACE = 60.0  # seconds that this process has to notice by itself that another one is gone


class RankFailedError(Unsafe2SafeError):
    """A process that trained beside this one ended badly."""


@contextmanager
def company(config: Train, ranks: Ranks) -> Iterator[Ranks]:
    """Start the others, where ``ranks`` does not say that they are there; gives this one's place.

    They end with the block, and with this process however that ends.

    Raises:
        RankFailedError: one of them did.
    """
    if ranks.external or config.trainer.devices == 1:
        yield ranks
        return
    first, *others = local_ranks(config.trainer.devices)
    children = [
        Child(
            f"rank {other.rank}",
            "unsafe2safe.jobs.train_rank",
            json.dumps({"config": plain(config), "ranks": asdict(other)}),
        )
        for other in others
    ]
    done = threading.Event()
    with Processes(children) as running:
        watch = threading.Thread(target=_watch, args=(running, done), daemon=True)
        watch.start()
        try:
            with joined(first, WITHIN):
                yield first
            running.wait()
        except Exception:
            if failed := running.failed():
                raise RankFailedError(f"{failed}; see its lines above") from None
            raise
        finally:
            done.set()
        if failed := running.failed():
            raise RankFailedError(f"{failed}; see its lines above")


def _watch(running: Processes, done: threading.Event) -> None:
    """Whoever waits in a collective for a process that is gone may wait for ever."""
    while not done.wait(1.0):
        if (failed := running.failed()) and not done.wait(_GRACE):
            print(f"train.py: {failed}; see its lines above", file=sys.stderr, flush=True)
            os._exit(1)

"""One process for each shard on this machine, told apart on standard error, ended together."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO


@dataclass(frozen=True)
class Child:
    """A Python module to run as a process of its own.

    ``given`` is the first line of its standard input, which then stays open: its end tells the
    child that its parent is gone, however that ended.
    """

    label: str
    module: str
    given: str
    environment: Mapping[str, str] = field(default_factory=dict)


def run_processes(children: Sequence[Child]) -> list[int]:
    """Run all ``children`` at once; their statuses, a negative one for the signal that killed."""
    running: list[subprocess.Popen[str]] = []
    readers: list[threading.Thread] = []
    try:
        for child in children:
            process = subprocess.Popen(
                [sys.executable, "-m", child.module],
                env={**os.environ, **child.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            running.append(process)
            reader = threading.Thread(
                target=_forward, args=(child.label, process.stderr), daemon=True
            )
            reader.start()
            readers.append(reader)
            _give(process, child.given)
        statuses = [process.wait() for process in running]
        for reader in readers:
            reader.join()
        return statuses
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()


def end_with_parent() -> str:
    """For a child: its ``given`` line; from now on it ends as soon as its parent has."""
    given = sys.stdin.readline()

    def watch() -> None:
        sys.stdin.read()  # returns when the parent has closed it, or is dead
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return given


def own_device(index: int, visible: Sequence[str]) -> dict[str, str]:
    """The environment that shows a child one of the ``visible`` CUDA devices, in turn."""
    return {"CUDA_VISIBLE_DEVICES": visible[index % len(visible)]} if visible else {}


def _give(process: subprocess.Popen[str], line: str) -> None:
    try:
        if process.stdin is not None:
            process.stdin.write(line + "\n")
            process.stdin.flush()
    except BrokenPipeError:  # it ended at once; its status tells
        return


def _forward(label: str, lines: IO[str] | None) -> None:
    for line in lines or ():
        print(f"[{label}] {line.rstrip()}", file=sys.stderr, flush=True)

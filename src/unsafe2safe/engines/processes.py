"""One process for each shard on this machine, told apart on standard error, ended together."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

_SECONDS_TO_END = 30.0


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


class Processes:
    """Children that run beside their parent inside a ``with`` block and never outlive it."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._running: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> Processes:
        try:
            for child in self._children:
                self._start(child)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, child: Child) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", child.module],
            env={**os.environ, **child.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._running.append(process)
        reader = threading.Thread(target=_forward, args=(child.label, process.stderr), daemon=True)
        reader.start()
        self._readers.append(reader)
        _give(process, child.given)

    def wait(self) -> list[int]:
        """Their statuses once all have ended; a negative one for the signal that killed."""
        statuses = [process.wait() for process in self._running]
        for reader in self._readers:
            reader.join()
        return statuses

    def failed(self) -> str | None:
        """The label and status of a child that has ended badly so far."""
        for child, process in zip(self._children, self._running, strict=False):
            if process.poll():
                return f"{child.label} ended with status {process.returncode}"
        return None

    def signal(self, number: int) -> None:
        """Send a signal to all that still run."""
        for process in self._running:
            if process.poll() is None:
                process.send_signal(number)

    def __exit__(self, *exception: object) -> None:
        for process in self._running:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_SECONDS_TO_END)
                except subprocess.TimeoutExpired:  # it hangs, in a driver perhaps
                    process.kill()
                    process.wait()
            if process.stdin is not None:
                process.stdin.close()


def run_processes(children: Sequence[Child]) -> list[int]:
    """Run all ``children`` at once; their statuses, a negative one for the signal that killed."""
    with Processes(children) as running:
        return running.wait()


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

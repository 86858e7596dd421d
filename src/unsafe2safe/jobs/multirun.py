"""What the jobs of a sweep come to, told by whichever process a launcher ran them in.

Hydra hands the results of a multirun to nobody, and launchers run jobs in other processes, on other
machines. A callback of Hydra's sees each result where the job ran; from another process it travels
as a file in the sweep's folder, which has to be shared with that machine anyway.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from unsafe2safe.core.files import write_json
from unsafe2safe.core.records import ExitStatus, RunResult

_results: list[RunResult] = []
_folders: list[Path] = []


class JobResults(Callback):
    """Collects the result of each job; named in ``configs/base.yaml``."""

    def __init__(self) -> None:
        self._home = _process()
        self._folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose where other processes leave their results."""
        self._folder = Path(config.hydra.sweep.dir).absolute() / f".results-{secrets.token_hex(4)}"
        _folders.append(self._folder)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Keep the result, or leave it as a file for the process that began the sweep."""
        result = job_return.return_value
        if not isinstance(result, RunResult):
            return
        if _process() == self._home:
            _results.append(result)
        elif self._folder is not None:
            told = {"status": int(result.status), "message": result.message}
            told["written"] = result.output_dir is not None
            # the output of a job that submitit runs goes to a file of its own
            told["shown"] = "SUBMITIT_EXECUTOR" not in os.environ
            write_json(self._folder / f"{config.hydra.job.num:05d}.json", told)


def finished_jobs(script: str) -> list[ExitStatus]:
    """The statuses of all jobs that have ended, in whichever process; tells what nobody has seen
    yet. To be called once."""
    statuses = [result.status for result in _results]
    for folder in _folders:
        for path in sorted(folder.glob("*.json")):
            told = json.loads(path.read_text("utf-8"))
            statuses.append(ExitStatus(told["status"]))
            if not told["shown"]:
                show(script, told["message"], written=told["written"])
        shutil.rmtree(folder, ignore_errors=True)
    return statuses


def show(script: str, message: str, *, written: bool) -> None:
    """Tell a job's message: on standard output where it has written something, else as an error."""
    if message:  # a rank that others started has nothing to say
        prefix = "" if written else f"{script}.py: "
        print(f"{prefix}{message}", file=sys.stdout if written else sys.stderr, flush=True)


def set_up_process(parent: int) -> bool:
    """Set up logging in a process that runs jobs; ``parent`` began the sweep, or is this one.

    Returns:
        False where ``parent`` had started this process and is gone: no more jobs shall begin.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("unsafe2safe").setLevel(logging.INFO)
    global _watched  # noqa: PLW0603 - one watch for each process
    if parent != os.getpid() and os.getppid() == parent and not _watched:
        _watched = True
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    return not (_watched and os.getppid() != parent)


_watched = False


def _end_with(parent: int) -> None:
    """A training that is told to end saves first, so that the same sweep goes on from there."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


def _process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()

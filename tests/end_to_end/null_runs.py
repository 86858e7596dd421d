"""Runs of generate_triplets.py without models, as a user starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from conftest import REPOSITORY, Finished, run_script
from null_components import NULL, NULL_ENVIRONMENT

ENVIRONMENT = {**NULL_ENVIRONMENT, "OMP_NUM_THREADS": "1"}


def generate(root: Path, *overrides: str, output: str = "run", **environment: str) -> Finished:
    """Run to the end, in ``root``, with the private share under ``root/private``."""
    return run_script(
        "generate_triplets", *NULL, f"output_dir={root / output}", *overrides,
        cwd=root, env={**ENVIRONMENT, **environment},
    )  # fmt: skip


def start(
    root: Path, *overrides: str, output: str = "run", **environment: str
) -> subprocess.Popen[bytes]:
    """Start a run in the background."""
    return subprocess.Popen(
        [
            sys.executable, str(REPOSITORY / "generate_triplets.py"), *NULL,
            f"output_dir={root / output}", *overrides,
        ],
        cwd=root,
        env={**os.environ, **ENVIRONMENT, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def kill_when(process: subprocess.Popen[bytes], moment: Callable[[], bool]) -> bool:
    """SIGKILL ``process`` as soon as ``moment()`` is true; False if it ended before."""
    while process.poll() is None:
        if moment():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.001)  # between two looks at another process
    return False


def parts(run: Path) -> int:
    return len(list((run / "triplets").glob("part-*.parquet")))


def stored(root: Path, output: str = "run") -> dict[str, bytes]:
    """All that a run wrote, public and private, but run.json, which has a clock, and locks."""
    run = root / output
    public = {
        f"public/{path.relative_to(run).as_posix()}": path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and not path.name.startswith(".lock") and path.name != "run.json"
    }
    (share,) = (root / "private" / "generate_triplets").glob(f"{output}-*")
    private = {
        f"private/{path.relative_to(share).as_posix()}": path.read_bytes()
        for path in share.rglob("*")
        if path.is_file()
    }
    return {**public, **private}

"""benchmarks/training.py: every loop that it compares runs, and two processes learn as one does."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY


@pytest.mark.slow
def test_at_toy_size_every_loop_is_measured_and_two_processes_have_the_gradient_of_one() -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "benchmarks" / "training.py"),
            *("--small", "--steps", "1", "--rounds", "1", "--threads", "1"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    table = dict(re.split(r"\s{2,}", line)[:2] for line in done.stdout.splitlines() if "  " in line)
    for kind in ("full", "lora"):
        for other in ("plain", "barest"):
            ratio = table[f"steps per second of cached, {kind}, against the {other} loop"]
            assert float(ratio.split(" x")[0]) > 0
        told = table[f"averaged gradient, {kind}, against one process with the doubled batch"]
        assert float(told.split(", ")[1].split()[0]) < 1e-4
        assert f"samples per second, {kind}, two processes against one, one thread each" in table
        assert f"cached, {kind}, has paid for its cache after" in table
        assert f"steps per second, {kind}, bf16, channels last, against fp32, contiguous" in table
    assert "cost of the cache" in table
    assert done.stdout.count("not judged") == 10

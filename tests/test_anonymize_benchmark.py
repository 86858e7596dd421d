"""benchmarks/anonymize.py: whatever it compares runs, and what it prints can be read."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY


@pytest.mark.slow
def test_at_toy_size_our_loop_the_bare_pipeline_and_the_memory_are_measured() -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "benchmarks" / "anonymize.py"),
            *("--small", "--rounds", "1", "--threads", "1"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    table = dict(re.split(r"\s{2,}", line)[:2] for line in done.stdout.splitlines() if "  " in line)
    what = "images per second of our loop against the bare pipeline"
    for row in (what, f"{what}, by CPU seconds", f"{what}, without the looks"):
        assert float(table[row].split(" x")[0]) > 0
    judged = table["published and held back by our loop"].split(" and ")
    assert sum(map(int, judged)) == 4
    assert table["redact against deface"].startswith("not measured")
    assert float(table["peak memory at 60 pictures against 20"].split(" x")[0]) < 1.5

"""Killed at a seeded moment and started again, a script ends with an undisturbed run's bytes."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY, run_script

PARTS = ("triplets", "regions", "audit", "pairs", "published")


def public_bytes(run):
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for name in PARTS
        for path in sorted((run / name).rglob("*"))
        if path.is_file()
    }


def run_and_kill(script, overrides, cwd, moment):
    """Start ``script`` and SIGKILL it as soon as ``moment()`` is true; False if it ended before."""
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / f"{script}.py"), *overrides],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ,
    )
    while process.poll() is None:
        if moment():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.01)  # between two looks at another process
    return False


@pytest.mark.parametrize("script", ["generate_triplets", "anonymize"])
def test_two_kills_end_with_the_bytes_of_an_undisturbed_run(tmp_path, chain, script):
    small = ["engine.unit_size=1", "dataset.limit=5", "engine.threads=1"]
    if script == "anonymize":
        small += [f"triplets={chain.triplets}", "verify.max_attempts=1"]
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    # one private root: published names and input hashes are keyed by it
    expected = run_script(script, *small, f"output_dir={quiet}", cwd=tmp_path)
    assert expected.status in (0, 3), expected.said
    draw = random.Random(7)
    folder = disturbed / ("triplets" if script == "generate_triplets" else "audit")
    for done in sorted(draw.sample(range(1, 5), 2)):
        killed = run_and_kill(
            script,
            [*small, f"output_dir={disturbed}"],
            tmp_path,
            lambda done=done: len(list(folder.glob("part-*.parquet"))) >= done,
        )
        assert killed
    resumed = run_script(script, *small, f"output_dir={disturbed}", cwd=tmp_path)
    assert resumed.status == expected.status
    assert public_bytes(disturbed) == public_bytes(quiet)
    assert public_bytes(quiet)

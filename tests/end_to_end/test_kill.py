"""Killed at a seeded moment and started again, a script ends with an undisturbed run's bytes."""

import os
import random
import subprocess
import sys

import pytest
from conftest import REPOSITORY, run_script
from end_to_end.null_runs import kill_when

# What a script leaves and which of its parts tells how far it is.
LEAVES = {
    "generate_triplets": ("triplets", "regions"),
    "anonymize": ("audit", "pairs", "published"),
    "evaluate": ("units", "tables", "metrics.json", "report.html"),
}
SMALL = ("engine.unit_size=1", "dataset.limit=5", "engine.threads=1")


def left_by(run, script):
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for name in LEAVES[script]
        for path in ([run / name] if (run / name).is_file() else sorted((run / name).rglob("*")))
        if path.is_file()
    }


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(script, marks=[] if script == "anonymize" else pytest.mark.slow)
        for script in LEAVES
    ],
)
def test_two_kills_end_with_the_bytes_of_an_undisturbed_run(tmp_path, chain, script):
    overrides = {
        "generate_triplets": [*SMALL],
        "anonymize": [*SMALL, f"triplets={chain.triplets}", "verify.max_attempts=1"],
        "evaluate": [*SMALL, f"runs=[{chain.redacted}]", "references=[]"],
    }[script]
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    # one private root: published names and input hashes are keyed by it
    expected = run_script(script, *overrides, f"output_dir={quiet}", cwd=tmp_path)
    assert expected.status in (0, 3), expected.said
    parts = disturbed / LEAVES[script][0]
    for done in sorted(random.Random(7).sample(range(1, 5), 2)):
        process = subprocess.Popen(
            [
                sys.executable, str(REPOSITORY / f"{script}.py"), *overrides,
                f"output_dir={disturbed}",
            ],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ,
        )  # fmt: skip
        assert kill_when(process, lambda done=done: len(list(parts.glob("part-*"))) >= done)
    resumed = run_script(script, *overrides, f"output_dir={disturbed}", cwd=tmp_path)
    assert resumed.status == expected.status, resumed.said
    assert left_by(disturbed, script) == left_by(quiet, script)
    assert left_by(quiet, script)

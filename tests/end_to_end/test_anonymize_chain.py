"""Killed twenty times in a chain, anonymize.py shows no original and ends as if undisturbed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from blind import BLIND
from conftest import REPOSITORY, run_script
from end_to_end.null_runs import kill_when
from PIL import Image
from small_world import make_world

from unsafe2safe.anonymize.audit import audit

KILLS = 20
COUNT = 40
SMALL = (*BLIND, "engine.unit_size=2", "batch_size=2")
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(
        [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    ),
    "OMP_NUM_THREADS": "1",
}


def parts(run: Path) -> int:
    return len(list((run / "audit").glob("part-*.parquet")))


def assert_nothing_private_or_half(world, run: Path) -> None:
    """Every file under ``published`` is a whole picture, and none is an original with its patch."""
    for path in (run / "published").rglob("*.png"):
        if path.name.startswith("."):
            continue  # a temporary of the killed process, which its successor removes
        shown = np.asarray(Image.open(path))
        number = int(path.stem.removeprefix("person_"))
        if number % 5 != 2:  # these are safe
            source = np.asarray(Image.open(world.root / "images" / path.name))
            assert not np.array_equal(shown[16:40, 16:48], source[16:40, 16:48]), path


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "killed"), [(1, KILLS), (2, 6)])  # two start twice as long
def test_kills_in_a_chain_end_with_the_bytes_of_an_undisturbed_run(tmp_path, devices, killed):
    world = make_world(tmp_path / "world", COUNT)

    def command(output: str, *more: str) -> list[str]:
        return world.overrides(*SMALL, f"output_dir={world.root / output}", *more)

    quiet = run_script("anonymize", *command("quiet"), cwd=tmp_path, env=ENVIRONMENT)
    assert quiet.status == 3, quiet.said
    run, draw = world.root / "run", random.Random(5)
    disturbed = command("run", f"engine.devices={devices}")
    kills = moved = 0
    while kills < killed:
        done = parts(run)
        process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "anonymize.py"), *disturbed],
            cwd=tmp_path,
            env={**os.environ, **ENVIRONMENT, "BLIND_WAIT": "0.1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        began, late = time.monotonic(), draw.uniform(0.5, 4.0)
        published = len(list((run / "published").glob("*.png")))
        kinds = {
            "so many more units": lambda done=done: parts(run) > done,
            "at some moment": lambda began=began, late=late: time.monotonic() - began > late,
            "while a file is written": lambda: bool(list((run / "published").glob(".*.tmp"))),
            "between a unit's files": lambda published=published, done=done: (
                len(list((run / "published").glob("*.png"))) > published and parts(run) == done
            ),
            "at the end": (run / "manifest.parquet").exists,
        }
        kind = draw.choice(list(kinds) if kills < killed - 1 else ["at the end"])
        if not kill_when(process, kinds[kind]):
            # it was done before the moment came: take back some units and go on
            (run / "manifest.parquet").unlink()
            for path in sorted((run / "audit").glob("part-*"))[-5:]:
                path.unlink()
            continue
        kills += 1
        assert parts(run) >= done  # nothing finished is lost
        moved += parts(run) > done
        assert_nothing_private_or_half(world, run)
    assert moved >= killed // 4  # not all of them were before the first unit
    for _ in range(20):  # children of a killed parent may still be ending
        last = run_script("anonymize", *disturbed, cwd=tmp_path, env=ENVIRONMENT)
        if "being written by another process" not in last.said:
            break
    assert last.status == quiet.status, last.said
    assert world.written("run") == world.written("quiet")
    assert audit(run).passed

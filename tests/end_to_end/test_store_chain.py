"""Killed twenty times in a chain, at all kinds of moments, a run ends as if nothing had been."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from end_to_end.null_runs import generate, kill_when, parts, start, stored

UNITS = 40
SMALL = ("engine.unit_size=2", f"+dataset.count={2 * UNITS - 1}")
KILLS = 20


def temporaries(root: Path) -> set[Path]:
    return set(root.rglob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_twenty_kills_in_a_chain_end_with_the_bytes_of_an_undisturbed_run(tmp_path, devices):
    expected = generate(tmp_path, *SMALL, output="quiet")
    assert expected.status == 3, expected.said
    quiet = stored(tmp_path, "quiet")
    draw = random.Random(11)
    command = (*SMALL, f"engine.devices={devices}")
    run = tmp_path / "run"
    kills = moved = 0
    while kills < KILLS:
        done, left = parts(run), temporaries(tmp_path)
        process = start(tmp_path, *command, NULL_WAIT="0.05")
        began = time.monotonic()
        late = draw.uniform(0.3, 2.0)  # start-up, opening, or the first units
        kinds = {
            "so many more units": lambda done=done: parts(run) > done,
            "at some moment": lambda began=began, late=late: time.monotonic() - began > late,
            "while a file is written": lambda left=left: bool(temporaries(tmp_path) - left),
            "between a unit's files": lambda: (
                len(list((run / "regions").glob("part-*"))) > parts(run)
            ),
            "at the end": (run / "failures.jsonl").exists,
        }
        kind = draw.choice(list(kinds) if kills < KILLS - 1 else ["at the end"])
        if not kill_when(process, kinds[kind]):
            # it was done before the moment came: take back some units and go on
            (run / "failures.jsonl").unlink()
            for path in sorted((run / "triplets").glob("part-*"))[-5:]:
                path.unlink()
            continue
        kills += 1
        assert parts(run) >= done  # nothing finished is lost
        moved += parts(run) > done
    assert moved >= KILLS // 4  # not all of them were before the first unit
    for _ in range(20):  # children of a killed parent may still be ending
        last = generate(tmp_path, *command)
        if "being written by another process" not in last.said:
            break
    assert last.status == expected.status, last.said
    assert stored(tmp_path) == quiet

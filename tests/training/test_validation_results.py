"""Which validations count, and whose weights stay, whatever happens in between."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from unsafe2safe.training.validation.results import (
    Point,
    StepResult,
    best_result,
    drop_dominated,
    forget_after,
    kept_path,
    pareto_steps,
    read_results,
    worth_keeping,
    write_result,
)

SHARES = st.integers(0, 4).map(lambda quarter: quarter / 4)
POINTS = st.builds(
    lambda privacy, fidelity, other: Point({"g": 1.0}, privacy, fidelity, {"other": other}),
    SHARES,
    SHARES,
    SHARES,
)
HISTORIES = st.lists(st.lists(POINTS, min_size=1, max_size=3), min_size=1, max_size=6).map(
    lambda steps: [StepResult(10 * n, tuple(points)) for n, points in enumerate(steps, 1)]
)


def other(point: Point) -> float:
    """A scalar that has nothing to do with the Pareto set."""
    return point.metrics["other"]


def kept_steps(run: Path) -> set[int]:
    return {int(path.name[5:]) for path in (run / "validated").glob("step-*")}


def store(run: Path, results: list[StepResult]) -> None:
    for result in results:
        kept_path(run, result.step).mkdir(parents=True, exist_ok=True)
        write_result(run, result)


@given(HISTORIES)
def test_best_is_the_earliest_of_the_best(results: list[StepResult]) -> None:
    best = best_result(results[::-1], other)
    top = max(other(point) for result in results for point in result.points)
    assert best.step == min(r.step for r in results if max(map(other, r.points)) == top)


@settings(max_examples=30)  # each writes and flushes files
@given(HISTORIES, st.integers(0, 6), st.integers(0, 6))
def test_weights_that_will_be_kept_at_the_end_are_never_dropped_on_the_way(
    results: list[StepResult], lag: int, killed_at: int
) -> None:
    wanted = worth_keeping(results, other)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        for number, result in enumerate(results):
            store(run, [result])
            oldest_checkpoint = 10 * max(0, number - lag)
            drop_dominated(run, other, oldest_checkpoint)
            if number == killed_at:  # it goes on from that checkpoint and repeats the rest
                forget_after(run, oldest_checkpoint)
                store(run, [r for r in results[: number + 1] if r.step > oldest_checkpoint])
        assert wanted <= kept_steps(run)
        drop_dominated(run, other)
        assert kept_steps(run) == wanted
        assert read_results(run) == results


def test_weights_after_the_oldest_checkpoint_stay_though_they_are_beaten(tmp_path: Path) -> None:
    worse, better = Point({}, 0.1, 0.1, {"other": 0.0}), Point({}, 0.9, 0.9, {"other": 1.0})
    store(tmp_path, [StepResult(10, (worse,)), StepResult(20, (better,))])
    drop_dominated(tmp_path, other, 10)  # a run that goes on from step 10 has no step 20
    assert kept_steps(tmp_path) == {10, 20}
    drop_dominated(tmp_path, other, 20)
    assert kept_steps(tmp_path) == {20}


def test_the_file_of_a_step_is_what_others_build_on(tmp_path: Path) -> None:
    point = Point({"text_guidance_scale": 3.0}, 0.5, 0.75, {"face_sim": 0.5})
    write_result(tmp_path, StepResult(200, (point,)))
    content = json.loads((tmp_path / "validation/step-00000200.json").read_text())
    assert content == {
        "step": 200,
        "points": [
            {
                "guidance": {"text_guidance_scale": 3.0},
                "privacy": 0.5,
                "fidelity": 0.75,
                "metrics": {"face_sim": 0.5},
            }
        ],
    }


def test_what_came_after_a_checkpoint_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    point = Point({}, 0.5, 0.5, {"other": 0.5})
    store(tmp_path, [StepResult(step, (point,)) for step in (10, 20, 30)])
    (tmp_path / "validation/tradeoff.png").write_bytes(b"")
    forget_after(tmp_path, 20)
    assert [result.step for result in read_results(tmp_path)] == [10, 20]
    assert kept_steps(tmp_path) == {10, 20}
    assert (tmp_path / "validation/tradeoff.png").exists()
    shutil.rmtree(tmp_path / "validated")
    forget_after(tmp_path, 0)  # nothing to delete twice
    assert pareto_steps(read_results(tmp_path)) == []

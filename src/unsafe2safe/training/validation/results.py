"""What validations found, on disk: one small file a step, and which steps' weights are kept."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from unsafe2safe.core.files import write_json
from unsafe2safe.metrics.tradeoff import Tradeoff, balance, pareto_front

RESULTS = "validation"  # in the run folder: the figures
KEPT = "validated"  # in the run folder: the weights that are kept
_NAME = re.compile(r"step-(\d{8})(?:\.json)?")


@dataclass(frozen=True)
class Point:
    """The figures of all validation pictures under one guidance; aggregates, nothing private.

    ``privacy`` and ``fidelity`` are in [0, 1], more is better. ``metrics`` are what the metrics
    themselves give, those that have a value.
    """

    guidance: Mapping[str, float]
    privacy: float
    fidelity: float
    metrics: Mapping[str, float]

    @property
    def balance(self) -> float:
        """Harmonic mean of privacy and fidelity."""
        return balance(self.privacy, self.fidelity)


@dataclass(frozen=True)
class StepResult:
    """A validation: the weights after ``step`` optimizer steps under each guidance."""

    step: int
    points: tuple[Point, ...]

    @property
    def tradeoffs(self) -> list[Tradeoff]:
        return [Tradeoff(point.privacy, point.fidelity, self.step) for point in self.points]


Scalar = Callable[[Point], float]  # more is better


def result_path(run: Path, step: int) -> Path:
    return run / RESULTS / f"step-{step:08d}.json"


def kept_path(run: Path, step: int) -> Path:
    """Where the weights after ``step`` lie, in the layout of the final export."""
    return run / KEPT / f"step-{step:08d}"


def write_result(run: Path, result: StepResult) -> None:
    write_json(result_path(run, result.step), asdict(result))


def read_results(run: Path) -> list[StepResult]:
    """All validations of a run folder, by step."""
    reader = TypeAdapter(StepResult)
    return [
        reader.validate_python(json.loads(path.read_text("utf-8")))
        for path in sorted((run / RESULTS).glob("step-*.json"))
    ]


def best_point(result: StepResult, scalar: Scalar) -> Point:
    """The point of a step with the greatest ``scalar``; of equal ones the first."""
    return max(result.points, key=scalar)


def best_result(results: Sequence[StepResult], scalar: Scalar) -> StepResult:
    """The validation whose best point is the best of all; of equal ones the earliest."""
    ordered = sorted(results, key=lambda result: result.step)
    return max(ordered, key=lambda result: scalar(best_point(result, scalar)))


def pareto_steps(results: Sequence[StepResult]) -> list[int]:
    """Steps with a point that no other point beats in both figures."""
    front = pareto_front(point for result in results for point in result.tradeoffs)
    return sorted({point.step for point in front})


def worth_keeping(results: Sequence[StepResult], scalar: Scalar) -> set[int]:
    """The best step and those of the Pareto set.

    Whatever of ``results`` more of them would still keep is kept already, so that what is dropped
    today is not missed tomorrow.
    """
    if not results:
        return set()
    return {best_result(results, scalar).step, *pareto_steps(results)}


def drop_dominated(run: Path, scalar: Scalar, until: int | None = None) -> None:
    """Delete kept weights that the validations up to step ``until`` (None: all) show to be beaten.

    Weights after ``until`` stay: a run that goes on from there has yet to see what beats them.
    """
    results = read_results(run)
    known = [result for result in results if until is None or result.step <= until]
    kept = worth_keeping(known, scalar)
    for step, path in _steps(run / KEPT):
        if step not in kept and (until is None or step <= until):
            shutil.rmtree(path)


def forget_after(run: Path, step: int) -> None:
    """Delete what validations after ``step`` left: the run goes on from there and repeats them."""
    for later, path in (*_steps(run / RESULTS), *_steps(run / KEPT)):
        if later > step:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of what lies in ``folder``; half-written exports have other names."""
    found = []
    for path in folder.glob("step-*"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), path))
    return sorted(found)

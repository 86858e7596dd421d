"""Every training of a utility table, each kept when it is done, and the table made of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from unsafe2safe.core.errors import StorageError, UsageError, describe_fault
from unsafe2safe.core.files import write_json
from unsafe2safe.core.randomness import generator
from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.results import UtilityRow, UtilityTable
from unsafe2safe.evaluation.utility.base import Bench, Item, TooLittleError, UtilityTask
from unsafe2safe.evaluation.utility.examples import Example, TestSet, TrainingSet

log = logging.getLogger("unsafe2safe")


@dataclass(frozen=True)
class Trained:
    """What ``utility/<task>/<row>-<seed>.json`` holds: figures of each test image, no names."""

    title: str
    train_images: int
    absent: dict[str, int]
    unreadable: int
    items: list[Item] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Plan:
    """The rows of a table. Their sets are made when they are first needed, once.

    Tasks that train get sets without the test images, the others all images of each row.
    """

    names: Sequence[str]
    make: Callable[[str], TrainingSet]
    test: TestSet
    seeds: Sequence[int]


def run_task(
    name: str, task: UtilityTask, plan: Plan, bench: Bench, folder: Path, samples: int
) -> tuple[UtilityTable, list[str]]:
    """The table of one task, and the names of rows whose training failed by a fault.

    Each training is written to ``folder`` when it is done: a run that was stopped goes on after
    the last one.
    """
    seeds = tuple(plan.seeds) if task.trains else (0,)
    why = task.unavailable(bench)
    test = [example for example in plan.test.examples if not why and task.usable(example, bench)]
    if not why and task.trains and not test:
        why = "no test image has what this is about (labels, captions, questions or boxes)"
    rows, failed = [], []
    if why:
        log.warning("utility %s is not available: %s", name, why)
        rows = [UtilityRow(row, row, 0, {}, unavailable=why) for row in plan.names]
    for row in [] if why else plan.names:
        try:
            done = [
                _once(task, row, seed, plan, test, bench, folder / f"{row}-{seed}.json")
                for seed in seeds
            ]
        except (TooLittleError, UsageError) as error:
            told = str(error)
        except StorageError:  # a full disk is no fault of this row
            raise
        except Exception as error:  # one row never ends a run; its message may quote a text
            log.warning("utility %s of %s failed: %s", name, row, describe_fault(error))
            told = f"training failed: {describe_fault(error)}"
            failed.append(row)
        else:
            rows.append(_row(task, name, row, done, seeds, bench.seed, samples))
            log.info("utility %s: %s done", name, row)
            continue
        log.warning("utility %s has no %s: %s", name, row, told)
        rows.append(UtilityRow(row, _title(plan, row), 0, {}, unavailable=told))
    counts = [result.n for row in rows for result in row.metrics.values()]
    table = UtilityTable(
        name=name,
        title=task.title,
        definition=f"{task.definition} {plan.test.told}" if task.trains else task.definition,
        model=task.model_name,
        seeds=seeds if task.trains else (),
        test_images=len(test) if task.trains else max(counts, default=0),
        directions=dict(task.directions),
        rows=tuple(rows),
    )
    return table, failed


def _title(plan: Plan, row: str) -> str:
    """What people read of a row; its name where making its set is what failed."""
    try:
        return plan.make(row).title
    except Exception:
        return row


def _once(
    task: UtilityTask,
    row: str,
    seed: int,
    plan: Plan,
    test: Sequence[Example],
    bench: Bench,
    path: Path,
) -> Trained:
    """The training of one row with one seed: as it was kept, or made now and kept."""
    unreadable = plan.test.unreadable if task.trains else 0
    kept = _read(path)
    if kept is not None and (not task.trains or len(kept.items) == len(test)):
        return kept
    made = plan.make(row)
    if made.unavailable:
        raise TooLittleError(made.unavailable)
    if not made.examples:
        raise TooLittleError("there is no image to train on: all are held back or left out")
    usable = [example for example in made.examples if task.usable(example, bench)]
    if not usable:
        raise TooLittleError("no image of it has what this is about")
    if task.trains:
        used = {example.image_id for example in usable} if bench.same_source else set()
        if used & {example.image_id for example in test}:
            raise RuntimeError("an image is both trained and tested on")
        items = task.measure(usable, test, seed, bench)
    else:
        items = task.measure([], usable, seed, bench)
        unreadable = sum(made.absent.values())
    done = Trained(made.title, len(usable) if task.trains else 0, dict(made.absent), unreadable)
    done.items.extend(items)
    write_json(path, asdict(done))
    return done


def _read(path: Path) -> Trained | None:
    try:
        found: Trained = TypeAdapter(Trained).validate_python(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, ValidationError):
        return None
    return found


def _row(
    task: UtilityTask,
    name: str,
    row: str,
    done: Sequence[Trained],
    seeds: Sequence[int],
    seed: int,
    samples: int,
) -> UtilityRow:
    packed = [task.pack(training.items) for training in done]
    rng = generator(seed, "", 0, f"bootstrap utility {name}")
    count, draws = len(done[0].items), min(samples, task.most_draws)
    values = [task.figures(each, np.arange(count)) for each in packed]
    spread = _intervals(task, packed, count, draws, rng) if count > 1 else {}
    floors = task.floors(packed[0])
    absent = sum(done[0].absent.values())
    metrics = {}
    for figure in task.directions:
        of_seeds = [value[figure] for value in values]
        details = {f"seed {seed}": value for seed, value in zip(seeds, of_seeds, strict=True)}
        details = {key: value for key, value in details.items() if not np.isnan(value)}
        if len(details) > 1:
            details["deviation over seeds"] = float(np.std(list(details.values()), ddof=1))
        if figure in floors:
            details["chance"] = floors[figure]
        if task.trains:
            details["training images held back or left out"] = float(absent)
        mean = float(np.mean(of_seeds))
        metrics[figure] = MetricResult(
            value=None if np.isnan(mean) else mean,
            n=count,
            n_missing=done[0].unreadable,
            interval=spread.get(figure),
            details=details if task.trains else {},
        )
    return UtilityRow(row, done[0].title, done[0].train_images, metrics)


def _intervals(
    task: UtilityTask, packed: Sequence[Any], count: int, draws: int, rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals: seeds and test images are both drawn anew, with replacement.

    All rows of a table draw the same images.
    """
    found: dict[str, list[float]] = {figure: [] for figure in task.directions}
    for _ in range(draws):
        images = rng.integers(0, count, count)
        times = np.bincount(rng.integers(0, len(packed), len(packed)), minlength=len(packed))
        drawn = [
            (task.figures(each, images), weight)
            for each, weight in zip(packed, times.tolist(), strict=True)
            if weight
        ]
        for figure, values in found.items():
            values.append(sum(value[figure] * weight for value, weight in drawn) / len(packed))
    ends: Mapping[str, Any] = {
        figure: np.nanquantile(values, [0.025, 0.975])
        for figure, values in found.items()
        if not np.all(np.isnan(values))
    }
    return {figure: (float(low), float(high)) for figure, (low, high) in ends.items()}

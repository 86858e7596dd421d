"""What each row's images are worth to train on: ``evaluate.py suite.utility=[...]``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.source import ImageSource
from unsafe2safe.data.synthetic.source import SyntheticSource
from unsafe2safe.evaluation.results import UtilityTable
from unsafe2safe.evaluation.rows import Row, reference_row
from unsafe2safe.evaluation.runner import Work
from unsafe2safe.evaluation.utility.base import Bench, UtilityTask
from unsafe2safe.evaluation.utility.examples import (
    Division,
    digest,
    divide,
    readable,
    test_set,
)
from unsafe2safe.evaluation.utility.run import Plan, run_task
from unsafe2safe.evaluation.utility.training_sets import Shelf, rows_to_train
from unsafe2safe.vision.perception import Perception

log = logging.getLogger("unsafe2safe")

_CONTROLS = frozenset(("identity", "unrelated", "blur", "mask"))  # which utility has by itself
TASKS = ("classification", "captioning", "vqa", "detection")


def settings_unused(config: Evaluate) -> tuple[str, ...]:
    """Settings of utility that play no part in a run, and so in its identity."""
    if not config.suite.utility:
        return ("utility",)
    return tuple(f"utility.{name}" for name in TASKS if name not in config.suite.utility)


def build_tasks(config: Evaluate) -> dict[str, UtilityTask]:
    """The tasks of ``suite.utility``, in its order.

    Raises:
        ConfigError: a setting that a task does not know.
    """
    return {
        name: build(getattr(config.utility, name), f"utility.{name}", UtilityTask)  # type: ignore[type-abstract]
        for name in dict.fromkeys(config.suite.utility)
    }


def tables(
    folder: RunFolder,
    config: Evaluate,
    work: Work,
    perception: Perception,
    tasks: Mapping[str, UtilityTask],
) -> tuple[tuple[UtilityTable, ...], list[dict[str, str]]]:
    """One table for each task, and what failed by a fault, as rows of ``failures.jsonl``.

    What is done is kept in the run's folder (figures) and its private share (pictures), so that
    the same command goes on after what was finished.
    """
    if not tasks:
        return (), []
    if len(config.utility.seeds) < 3:
        log.warning("utility.seeds has fewer than three seeds: intervals say little of trainings")
    bench, plans = _prepare(folder, config, work, perception)
    found, failures = [], []
    for name, task in tasks.items():
        place = folder.path / "utility" / name
        table, failed = run_task(name, task, plans[task.trains], bench, place, config.bootstrap)
        found.append(table)
        failures += [
            {"row": row, "item": name, "reason": "its training for utility failed"}
            for row in failed
        ]
    return tuple(found), failures


def _prepare(
    folder: RunFolder, config: Evaluate, work: Work, perception: Perception
) -> tuple[Bench, dict[bool, Plan]]:
    """Also the plans: of tasks that train, and of those that do not."""
    subjects, settings = work.subjects, config.utility
    records = [subjects.record(image_id) for image_id in subjects.image_ids]
    if settings.test is None:
        test_source = subjects.source
        division = divide(records, settings.test_share, config.seed)
        told = (
            f"Tested on the same {settings.test_share:.0%} of the originals in every row, kept "
            "from all training, chosen within each class by a hash of the image's id."
        )
        tested = [subjects.record(image_id) for image_id in division.test]
        caption = _caption_of(work)
    else:
        test_source = build(settings.test, "utility.test", ImageSource)  # type: ignore[type-abstract]
        tested = list(test_source.records())
        division = Division(tuple(subjects.image_ids), ())
        told = f"Tested on the data set {test_source.name}, the same images in every row."
        caption = _caption_of_source(test_source, config.seed)
    test, digests = test_set(test_source, tested, told, caption)
    trained = _trainable(subjects.source, [subjects.record(n) for n in division.train], digests)
    every = [*trained, *(record.image_id for record in tested if settings.test is None)]
    rows = [row for row in work.rows if row.name not in _CONTROLS]

    def reference(name: str) -> Row:
        return reference_row(name, config.blur_sigma, subjects)

    def plan(image_ids: list[str]) -> Plan:
        private, unit_size = folder.private / "utility", config.engine.unit_size
        shelf = Shelf(subjects, sorted(image_ids), perception, private, unit_size)
        makers = rows_to_train(shelf, rows, settings.controls, reference)
        return Plan(tuple(makers), cache(lambda name: makers[name]()), test, settings.seeds)

    bench = Bench(config.seed, perception, subjects.source, test_source)
    return bench, {True: plan(trained), False: plan(every)}


def _trainable(
    source: ImageSource, records: list[ImageRecord], tested: frozenset[bytes]
) -> list[str]:
    """Those that can be read and that no test image equals pixel by pixel."""
    found, unreadable, same = [], 0, 0
    for record in records:
        pixels = readable(source, record)
        if pixels is None:
            unreadable += 1
        elif digest(pixels) in tested:
            same += 1
        else:
            found.append(record.image_id)
    if unreadable or same:
        log.warning(
            "utility trains without %d unreadable originals and %d that equal a test image",
            *(unreadable, same),
        )
    return found


def _caption_of(work: Work) -> Any:
    return lambda image_id: work.subjects.captions(image_id).public


def _caption_of_source(source: ImageSource, seed: int) -> Any:
    """Public captions of a test set of its own: only scenes have them."""
    if isinstance(source, SyntheticSource):
        return lambda image_id: source.edit_of(image_id, seed).texts.public_caption
    return lambda _: ""

"""From measuring to ``metrics.json``: the middle of ``evaluate.py``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import write_json, write_text
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.units import UnitCut
from unsafe2safe.evaluation.checks import check_references
from unsafe2safe.evaluation.comparisons import compare
from unsafe2safe.evaluation.feature_store import FeatureStore
from unsafe2safe.evaluation.results import Evaluation, as_csv, define, figures_csv
from unsafe2safe.evaluation.rows import Row, RunRow
from unsafe2safe.evaluation.runner import Measured, Runner, Work, summarize
from unsafe2safe.evaluation.seeds import mean_rows
from unsafe2safe.evaluation.strata import stratify
from unsafe2safe.evaluation.subjects import Subjects
from unsafe2safe.evaluation.utility.base import UtilityTask
from unsafe2safe.jobs import evaluate_utility
from unsafe2safe.jobs.sharding import told_missing
from unsafe2safe.metrics.base import Metric, SetMetric
from unsafe2safe.metrics.features import Memory
from unsafe2safe.vision.perception import Perception

log = logging.getLogger("unsafe2safe")

_UNAVAILABLE = "units/unavailable.json"


@dataclass(frozen=True)
class Measures:
    """What is measured on the rows, and what is trained on them, both by name."""

    metrics: Mapping[str, Metric]
    tasks: Mapping[str, UtilityTask]

    @classmethod
    def of(cls, config: Evaluate) -> Measures:
        """The metrics and tasks that ``config`` names.

        Raises:
            ConfigError: a setting that one of them does not know.
        """
        metrics = {
            name: build(settings, f"metrics.{name}", Metric)  # type: ignore[type-abstract]
            for name, settings in config.metrics.items()
        }
        return cls(metrics, evaluate_utility.build_tasks(config))

    def without(self, unavailable: Mapping[str, str]) -> dict[str, Metric]:
        return {name: metric for name, metric in self.metrics.items() if name not in unavailable}


def measure(folder: RunFolder, config: Evaluate, work: Work, measures: Measures) -> int:
    """Measure all units or those of the folder's shard, and return how many these are; why some
    metrics cannot be measured is written beside them."""
    unavailable = {
        n: why for n, metric in measures.metrics.items() if (why := metric.unavailable())
    }
    for name, why in unavailable.items():
        log.warning("%s is not available: %s", name, why)
    write_json(folder.path / _UNAVAILABLE, unavailable)
    usable = measures.without(unavailable)
    if not config.keep_features:
        return _runner(folder, config, work, usable).run(folder.shard)
    with FeatureStore(work.spec.private_root, work.originals) as store:
        return _runner(folder, config, work, usable, store).run(folder.shard)


def _runner(
    folder: RunFolder,
    config: Evaluate,
    work: Work,
    metrics: Mapping[str, Metric],
    memory: Memory | None = None,
) -> Runner:
    return Runner(
        work.subjects,
        work.rows,
        metrics,
        Perception(config.vision, config.engine.threads),
        folder=folder.path / "units",
        private=folder.private / "units",
        unit_size=config.engine.unit_size,
        memory=memory,
    )


def conclude(folder: RunFolder, config: Evaluate, work: Work, measures: Measures) -> None:
    """Write figures and tables of what was measured, and mark the run complete.

    Raises:
        UsageError: units are missing.
    """
    unavailable = json.loads((folder.path / _UNAVAILABLE).read_text("utf-8"))
    usable = measures.without(unavailable)
    runner = _runner(folder, config, work, usable)
    rows, subjects = work.rows, work.subjects
    units = runner.read()
    measured = [scores for scores in units.values() if scores is not None]
    if len(measured) < len(units):
        cut = UnitCut.of(subjects.image_ids, config.engine.unit_size)
        missing = [index for index, scores in units.items() if scores is None]
        raise UsageError(told_missing(folder, cut, missing))
    items = [item for scores in measured for item in scores.items]
    kinds = [kind for scores in measured for kind in scores.kinds]
    samples, seed = config.bootstrap, config.seed
    common, results = summarize(
        items, subjects.image_ids, rows, measures.metrics, unavailable, samples=samples, seed=seed
    )
    results += mean_rows(items, rows, measures.metrics, results, samples=samples, seed=seed)
    utility, untrained = evaluate_utility.tables(
        folder, config, work, runner.perception, measures.tasks
    )
    evaluation = Evaluation(
        dataset=work.dataset,
        images=len(items),
        common=common,
        seed=seed,
        bootstrap=samples,
        masks=f"{subjects.masks_from}, grown by {config.mask_margin:g} of their size",
        references=(
            "identity returns the original; blur is a Gaussian over the whole frame with a sigma "
            f"of {config.blur_sigma:g} of its long side; mask is grey where something is "
            "sensitive; unrelated is another original of the set"
        ),
        definitions=tuple(define(name, metric) for name, metric in measures.metrics.items()),
        rows=tuple(results),
        comparisons=compare(items, rows, usable, samples=samples, seed=seed),
        strata=stratify(items, kinds, rows, usable, samples=samples, seed=seed),
        utility=utility,
        checks=check_references(results, measures.metrics),
    )
    tables = folder.path / "tables"
    per_image = [name for name, metric in usable.items() if not isinstance(metric, SetMetric)]
    write_text(tables / "figures.csv", figures_csv(evaluation))
    for row in rows:
        write_text(tables / f"{row.name}.csv", _items_csv(row, subjects, items, per_image))
    evaluation.write(folder.path / "metrics.json")
    failures = [*_failures(items, rows), *untrained]
    folder.write_failures(failures)
    edited = {f"{row.name}.edited": sum(item[row.name].edited for item in items) for row in rows}
    counts = {"images": len(items), "rows": len(rows), "failures": len(failures)}
    folder.finish({**counts, **edited}, report=None)


def _failures(items: Sequence[Mapping[str, Measured]], rows: Sequence[Row]) -> list[dict[str, str]]:
    return [
        {"row": row.name, "item": str(number), "reason": item[row.name].failure}
        for number, item in enumerate(items)
        for row in rows
        if item[row.name].failure
    ]


def _items_csv(
    row: Row, subjects: Subjects, items: Sequence[Mapping[str, Measured]], names: list[str]
) -> str:
    """A line per image, by its place in the sorted data set and, if it has one, published name:
    an original's own name may tell what its picture shows."""
    lines: list[list[object]] = [["item", "published_as", "resized", *names]]
    for number, (image_id, item) in enumerate(zip(subjects.image_ids, items, strict=True)):
        measured = item[row.name]
        published = row.outcomes[image_id].published_as if isinstance(row, RunRow) else None
        values = [measured.scores[name].values for name in names]
        means = [sum(found) / len(found) if found else "" for found in values]
        lines.append([number, published or "", int(measured.resized), *means])
    return as_csv(lines)

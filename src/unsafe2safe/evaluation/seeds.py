"""Runs that differ in their seed only: one more row, the mean of them.

A single run says nothing of what another seed would have given; the interval of this row does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from unsafe2safe.core.ledger import fingerprint, read_run
from unsafe2safe.core.randomness import generator
from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.comparisons import Items
from unsafe2safe.evaluation.results import RowResult
from unsafe2safe.evaluation.rows import Row, RunRow
from unsafe2safe.metrics.base import Metric, SetMetric
from unsafe2safe.metrics.statistics import exact_interval, seeds_interval

# what may differ between runs that are the same but for their seed
_APART = frozenset(
    ("seed", "output_dir", "triplets", "existing", "mode", "paths", "engine", "logger", "hydra")
)


def groups_of_seeds(rows: Sequence[Row]) -> list[list[RunRow]]:
    """Runs of ``rows`` whose settings differ in nothing but the seed, two or more together."""
    groups: dict[str, dict[object, RunRow]] = {}
    for row in rows:
        config = (read_run(row.folder) or {}).get("config") if isinstance(row, RunRow) else None
        if not isinstance(row, RunRow) or not isinstance(config, dict):
            continue
        same = {key: value for key, value in config.items() if key not in _APART}
        # the same run given twice is no second seed
        groups.setdefault(fingerprint(same), {}).setdefault(config.get("seed"), row)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def mean_rows(
    items: Items,
    rows: Sequence[Row],
    metrics: Mapping[str, Metric],
    results: Sequence[RowResult],
    *,
    samples: int,
    seed: int,
) -> list[RowResult]:
    """A row for each of :func:`groups_of_seeds`, named ``mean-of-seeds-1`` and so on.

    A value is the mean over all values of all seeds, its interval a bootstrap over seeds and
    images. Figures of the whole set are averaged over the seeds and have no interval.
    ``seeds`` and ``sd_of_seeds`` (the standard deviation of the seeds' values) are in the details.
    ``edited``, ``resized`` and ``unreadable`` are sums over the seeds.
    """
    by_name = {result.name: result for result in results}
    shared = [item for item in items if all(_has(item[row.name]) for row in rows)]
    found = []
    for number, group in enumerate(groups_of_seeds(rows), 1):
        each = [by_name[row.name] for row in group]
        names = [row.name for row in group]

        def figures(
            over: Items, of: Sequence[Mapping[str, MetricResult]], names: Sequence[str] = names
        ) -> dict[str, MetricResult]:
            return {
                name: _mean(name, metric, over, names, [one[name] for one in of], samples, seed)
                for name, metric in metrics.items()
            }

        held_back: dict[str, int] = {}
        for one in each:
            for reason, count in one.held_back.items():
                held_back[reason] = held_back.get(reason, 0) + count
        title = each[0].title.rpartition(" (")[0] or each[0].title
        found.append(
            RowResult(
                name=f"mean-of-seeds-{number}",
                title=f"{title}, mean of {len(group)} seeds",
                kind="run",
                edited=sum(one.edited for one in each),
                resized=sum(one.resized for one in each),
                unreadable=sum(one.unreadable for one in each),
                held_back=held_back,
                metrics=figures(items, [one.metrics for one in each]),
                metrics_on_common=figures(shared, [one.metrics_on_common for one in each]),
            )
        )
    return found


def _has(measured: object) -> bool:
    return bool(getattr(measured, "edited", False))


def _mean(
    name: str,
    metric: Metric,
    items: Items,
    rows: Sequence[str],
    of: Sequence[MetricResult],
    samples: int,
    seed: int,
) -> MetricResult:
    values = [one.value for one in of if one.value is not None]
    if not values:
        return of[0]
    details = {"seeds": float(len(values)), "sd_of_seeds": float(np.std(values))}
    result = MetricResult(
        float(np.mean(values)),
        n=sum(one.n for one in of),
        n_missing=sum(one.n_missing for one in of),
        n_not_applicable=sum(one.n_not_applicable for one in of),
        details=details,
    )
    if isinstance(metric, SetMetric):
        return result
    clusters = [[item[row].scores[name].values for item in items] for row in rows]
    pooled = [sum(image, ()) for image in zip(*clusters, strict=True)]
    interval = exact_interval(pooled) if metric.binary else None
    if interval is not None:
        details["exact_interval"] = 1.0
    else:
        rng = generator(seed, "", 0, f"bootstrap {name}")
        interval = seeds_interval(clusters, samples, rng)
    mean = float(np.mean([value for image in pooled for value in image]))
    return replace(result, value=mean, interval=interval)

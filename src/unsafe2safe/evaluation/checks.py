"""What the reference rows must give: checks of the measuring itself.

An evaluation whose identity row is not identical, or in which an attacker recognises people in
pictures of others, measures something else than it says.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.results import ReferenceCheck, RowResult
from unsafe2safe.metrics.base import Metric

log = logging.getLogger("unsafe2safe")

_EQUAL = 1e-6
_FEWEST = 10  # identities or texts from which chance is worth a check


def check_references(
    rows: Sequence[RowResult], metrics: Mapping[str, Metric]
) -> tuple[ReferenceCheck, ...]:
    """The checks of those references and metrics that are there and have a value.

    - ``identity`` gives what a metric says of equal pictures (``of_identity``), to 1e-6, and an
      attacker recognises it above chance.
    - ``blur`` is told from the identity by every metric that says what the identity gives.
    - ``unrelated`` is within the 95 % bound of chance for every attacker.

    What an attacker finds is checked from ten identities or texts on.

    Checks that fail are logged as warnings.
    """
    by_name = {row.name: row.metrics for row in rows if row.kind == "reference"}
    found: list[ReferenceCheck] = []
    for name, metric in metrics.items():
        result = {row: figures.get(name) for row, figures in by_name.items()}
        found += _of_identity(metric, result.get("identity"), result.get("blur"))
        found += _of_chance(metric, result.get("identity"), result.get("unrelated"))
    for check in found:
        if not check.passed:
            log.warning(
                "check of the references failed: %s is %.6g, expected %s",
                *(check.what, check.value, check.expected),
            )
    return tuple(found)


def _of_identity(
    metric: Metric, identity: MetricResult | None, blur: MetricResult | None
) -> list[ReferenceCheck]:
    due = metric.of_identity
    if due is None:
        return []
    found = []
    if identity is not None and identity.value is not None:
        passed = abs(identity.value - due) <= _EQUAL
        found.append(
            ReferenceCheck(f"identity: {metric.heading}", identity.value, f"{due:g}", passed)
        )
    # a detector may find the same faces and texts in a weak blur; nothing else survives it
    if metric.unit == "image" and blur is not None and blur.value is not None:
        passed = abs(blur.value - due) > _EQUAL
        what = f"blur: {metric.heading}"
        found.append(ReferenceCheck(what, blur.value, f"not {due:g}", passed))
    return found


def _of_chance(
    metric: Metric, identity: MetricResult | None, unrelated: MetricResult | None
) -> list[ReferenceCheck]:
    found = []
    if (bound := _chance(unrelated)) is not None:
        assert unrelated is not None
        value = unrelated.value or 0.0
        expected = f"at most {bound:.4g}, the 95 % bound of chance"
        what = f"unrelated: {metric.heading}"
        found.append(ReferenceCheck(what, value, expected, value <= bound + _EQUAL))
    if (bound := _chance(identity)) is not None:
        assert identity is not None
        value = identity.value or 0.0
        expected = f"more than {bound:.4g}, the 95 % bound of chance"
        what = f"identity: {metric.heading}"
        found.append(ReferenceCheck(what, value, expected, value > bound))
    return found


def _chance(result: MetricResult | None) -> float | None:
    if result is None or result.value is None or result.n < _FEWEST:
        return None
    return result.details.get("chance_high")

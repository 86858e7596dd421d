"""Privacy flags of a run of generate_triplets.py against what people said of the same images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from unsafe2safe.core.files import write_json
from unsafe2safe.core.randomness import generator
from unsafe2safe.core.records import MetricResult, PrivacyFlag, Triplet, TripletState
from unsafe2safe.data.truth import PrivacyTruth
from unsafe2safe.evaluation.results import as_csv
from unsafe2safe.metrics.flags import Confusion, flag_figures

SCHEMA_VERSION = 1
_DEFINITIONS = {
    "answered": "images whose flag the model gave",
    "fail_closed": (
        "all described images, each as it is used: what needs a review or failed counts as unsafe"
    ),
}


@dataclass(frozen=True)
class FlagRow:
    """One way of counting: its confusion matrix, its figures, recall by the truth's labels."""

    name: str
    definition: str
    confusion: Confusion
    figures: dict[str, MetricResult]
    recall_by_label: dict[str, MetricResult]


@dataclass(frozen=True)
class FlagEvaluation:
    """``unparsed`` counts images that need a review, whose flag was never told; ``failed`` those
    that could not be described; ``undescribed`` those with a truth but without a triplet."""

    dataset: str
    images: int
    unparsed: int
    failed: int
    undescribed: int
    seed: int
    bootstrap: int
    rows: tuple[FlagRow, ...]
    schema_version: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Write ``metrics.json``; equal results give equal bytes."""
        write_json(path, asdict(self))


def evaluate_flags(
    dataset: str,
    truths: Mapping[str, PrivacyTruth],
    triplets: Iterable[Triplet],
    *,
    samples: int,
    seed: int,
) -> FlagEvaluation:
    """Compare flags with ``truths``; triplets of images without a truth are left out."""
    known = [triplet for triplet in triplets if triplet.image_id in truths]
    answered = [triplet for triplet in known if triplet.state == TripletState.COMPLETE]
    states = [triplet.state for triplet in known]

    def row(name: str, counted: Sequence[Triplet]) -> FlagRow:
        flagged = {
            triplet.image_id: triplet.state != TripletState.COMPLETE
            or triplet.privacy_flag != PrivacyFlag.SAFE
            for triplet in counted
        }
        by_label: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
        for image_id, flag in flagged.items():
            if truths[image_id].unsafe:
                for label in truths[image_id].labels:
                    by_label[label].append((True, flag))

        def figures(stream: str, pairs: Iterable[tuple[bool, bool]]) -> dict[str, MetricResult]:
            rng = generator(seed, "", 0, f"bootstrap flags {stream}")
            return flag_figures(Confusion.of(pairs), samples, rng)

        pairs = [(truths[image_id].unsafe, flag) for image_id, flag in flagged.items()]
        recalls = {label: figures(label, by_label[label])["recall"] for label in sorted(by_label)}
        return FlagRow(name, _DEFINITIONS[name], Confusion.of(pairs), figures("", pairs), recalls)

    return FlagEvaluation(
        dataset=dataset,
        images=len(known),
        unparsed=states.count(TripletState.NEEDS_REVIEW),
        failed=states.count(TripletState.FAILED),
        undescribed=len(truths) - len(known),
        seed=seed,
        bootstrap=samples,
        rows=(row("answered", answered), row("fail_closed", known)),
    )


def flags_csv(evaluation: FlagEvaluation) -> str:
    """A line for each row and figure, and for each label's recall."""
    lines: list[list[object]] = [["row", "figure", "label", "value", "low", "high", "n"]]
    for row in evaluation.rows:
        named = [(name, "", result) for name, result in row.figures.items()]
        named += [("recall", label, result) for label, result in row.recall_by_label.items()]
        for figure, label, result in named:
            ends = result.interval or (None, None)
            lines.append([row.name, figure, label, result.value, *ends, result.n])
    return as_csv(lines)


def confusion_csv(evaluation: FlagEvaluation) -> str:
    """The confusion matrix of each row, a line per truth."""
    lines: list[list[object]] = [["row", "truth", "flagged_unsafe", "flagged_safe"]]
    for row in evaluation.rows:
        cells = row.confusion
        lines.append([row.name, "unsafe", cells.true_unsafe, cells.missed_unsafe])
        lines.append([row.name, "safe", cells.false_unsafe, cells.true_safe])
    return as_csv(lines)


def flags_headline(evaluation: FlagEvaluation) -> str:
    """What the terminal is told: a line per row."""
    lines = [
        f"{evaluation.images} images, {evaluation.unparsed} without a flag that could be read, "
        f"{evaluation.failed} failed"
    ]
    for row in evaluation.rows:
        told = ", ".join(f"{name} {_with_interval(result)}" for name, result in row.figures.items())
        lines.append(f"{row.name} ({row.confusion.images}): {told}")
    return "\n".join(lines)


def _with_interval(result: MetricResult) -> str:
    if result.value is None:
        return "not defined"
    if result.interval is None:
        return f"{result.value:.3f}"
    return f"{result.value:.3f} [{result.interval[0]:.3f}, {result.interval[1]:.3f}]"

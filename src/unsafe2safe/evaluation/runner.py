"""Every metric on every row, over the same images.

Work goes unit by unit, and within a unit a few images at a time: an original is decoded once, its
faces and texts are looked for once, and all rows and metrics share them. A unit's scores are
written when it is done, so that a run that was stopped goes on after its last whole unit. What
metrics of the whole set need of each image lies beside them in the run's private share.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors import numpy as tensors

from unsafe2safe.core.errors import UnreadableImage
from unsafe2safe.core.files import make_private, write_bytes, write_json
from unsafe2safe.core.ledger import RunSpec
from unsafe2safe.core.randomness import generator
from unsafe2safe.core.records import MetricResult, WorkUnit
from unsafe2safe.core.units import Shard, cut_units
from unsafe2safe.engines.local import run_units
from unsafe2safe.evaluation.results import RowResult
from unsafe2safe.evaluation.rows import MissingEditError, Row
from unsafe2safe.evaluation.stored_arrays import Opened, StoredArrays, open_tensors, stored_name
from unsafe2safe.evaluation.strata import kinds_of
from unsafe2safe.evaluation.subjects import BoolMask, Subjects
from unsafe2safe.metrics.base import Captions, ItemScore, Metric, PairSample, SceneTruth, SetMetric
from unsafe2safe.metrics.features import ImageFeatures, Memory
from unsafe2safe.vision.arrays import resized
from unsafe2safe.vision.perception import Perception

log = logging.getLogger("unsafe2safe")

_AT_ONCE = 4  # images in memory, with their edited ones
_FILES_OPEN = 4  # of arrays that figures are concluded from


@dataclass
class Measured:
    """The scores of one original's pair in one row, by metric."""

    edited: bool = False
    resized: bool = False
    failure: str = ""
    scores: dict[str, ItemScore] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What is measured: the run's folder, its subjects, and the rows."""

    spec: RunSpec
    subjects: Subjects
    rows: Sequence[Row]
    dataset: str
    originals: str  # tells which these are, whatever their edits: what is seen in them is kept so


@dataclass(frozen=True, eq=False)
class _Original:
    features: ImageFeatures
    mask: BoolMask
    truth: SceneTruth | None
    captions: Captions
    kinds: dict[str, str]


@dataclass
class UnitScores:
    """What ``units/part-*.json`` holds: for each image of the unit, in order, its rows, and what
    kind of image it is."""

    items: list[dict[str, Measured]]
    kinds: list[dict[str, str]]


_UNIT_SCORES = TypeAdapter(UnitScores)


class Runner:
    """Measures ``rows`` with ``metrics``, both by name, on the ``subjects``.

    Scores go to ``folder``, arrays of metrics of the whole set to ``private``.
    """

    def __init__(
        self,
        subjects: Subjects,
        rows: Sequence[Row],
        metrics: Mapping[str, Metric],
        perception: Perception,
        *,
        folder: Path,
        private: Path,
        unit_size: int,
        memory: Memory | None = None,
    ) -> None:
        self.subjects, self.rows, self.metrics = subjects, rows, metrics
        self.perception, self.memory = perception, memory
        self._folder, self._private = folder, private
        self.units = cut_units(list(subjects.image_ids), unit_size)

    def run(self, shard: Shard | None = None) -> int:
        """Measure all units, or those of ``shard``; how many these are."""
        dealt = [unit for unit in self.units if shard is None or shard.has(unit.index)]
        label = "evaluate" if shard is None else f"evaluate {shard}"
        run_units(dealt, lambda unit: self._read(unit) is not None, self._write, label)
        return len(dealt)

    def read(self) -> dict[int, UnitScores | None]:
        """The scores of all units by their index; None: nobody has measured that one yet."""
        opened = lru_cache(maxsize=_FILES_OPEN)(open_tensors)
        return {unit.index: self._read(unit, opened) for unit in self.units}

    def _path(self, unit: WorkUnit) -> Path:
        return self._folder / f"{unit.name}.json"

    def _read(self, unit: WorkUnit, opened: Opened = open_tensors) -> UnitScores | None:
        try:
            scores = _UNIT_SCORES.validate_json(self._path(unit).read_bytes())
        except (OSError, ValidationError):
            return None
        if not len(scores.items) == len(scores.kinds) == len(unit.image_ids):
            return None
        measured = (found.scores.keys() for item in scores.items for found in item.values())
        if not all(self.metrics.keys() <= names for names in measured):
            return None  # one of them was not available then
        return scores if self._restore(unit, scores.items, opened) else None

    def _restore(self, unit: WorkUnit, items: list[dict[str, Measured]], opened: Opened) -> bool:
        """Give the scores of ``items`` their arrays back; False where these are not all there."""
        owners = [name for name, metric in self.metrics.items() if isinstance(metric, SetMetric)]
        if not owners:
            return True
        path = self._arrays_path(unit)
        try:
            opened(path)
        except (OSError, SafetensorError):
            return False
        for index, item in enumerate(items):
            for row, measured in item.items():
                arrays = StoredArrays(path, index, row, opened)
                for owner in owners:
                    measured.scores[owner] = replace(measured.scores[owner], arrays=arrays)
        return True

    def _arrays_path(self, unit: WorkUnit) -> Path:
        return self._private / f"{unit.name}.safetensors"

    def _write(self, unit: WorkUnit, advance: Callable[[], None]) -> None:
        items: list[dict[str, Measured]] = []
        kinds: list[dict[str, str]] = []
        for row in self.rows:
            row.prepare(unit.image_ids)
        for start in range(0, len(unit.image_ids), _AT_ONCE):
            some = unit.image_ids[start : start + _AT_ONCE]
            originals = [self._original(image_id) for image_id in some]
            items.extend(self._measure(some, originals))
            kinds += [{} if isinstance(one, str) else one.kinds for one in originals]
            for _ in some:
                advance()
        self._keep_arrays(unit, items)  # first: scores without their arrays would count as none
        content = _UNIT_SCORES.dump_python(UnitScores(items, kinds), exclude_defaults=True)
        write_json(self._path(unit), content)

    def _keep_arrays(self, unit: WorkUnit, items: list[dict[str, Measured]]) -> None:
        """Write the arrays of the scores, and take them out of these."""
        kept: dict[str, NDArray[Any]] = {}
        for index, item in enumerate(items):
            for row, measured in item.items():
                for owner, score in measured.scores.items():
                    for name, array in score.arrays.items():
                        kept[stored_name(index, row, name)] = np.ascontiguousarray(array)
                    if score.arrays:
                        measured.scores[owner] = replace(score, arrays={})
        if any(isinstance(metric, SetMetric) for metric in self.metrics.values()):
            make_private(self._private)
            write_bytes(self._arrays_path(unit), tensors.save(kept), 0o600)

    def _measure(
        self, image_ids: Sequence[str], originals: Sequence[_Original | str]
    ) -> list[dict[str, Measured]]:
        found = [{row.name: Measured() for row in self.rows} for _ in image_ids]
        for row in self.rows:
            samples: list[PairSample] = []
            places: list[Measured] = []
            for image_id, original, rows in zip(image_ids, originals, found, strict=True):
                place = rows[row.name]
                if isinstance(original, str):
                    place.failure = original
                    place.scores = {name: ItemScore(missing=1) for name in self.metrics}
                    continue
                samples.append(self._pair(row, image_id, original, place))
                places.append(place)
            for name, metric in self.metrics.items():
                for place, score in zip(places, self._score(name, metric, samples), strict=True):
                    place.scores[name] = score or ItemScore(missing=1)
                    if score is None:
                        place.failure = f"{name} could not be measured"
        return found

    def _original(self, image_id: str) -> _Original | str:
        """What is known of an original, or why nothing is."""
        try:
            pixels = self.subjects.source.decode(self.subjects.record(image_id)).pixels
            features = ImageFeatures(pixels, self.perception, self.memory)
            regions = self.subjects.regions([image_id]).get(image_id)
            truth = self.subjects.truth(image_id)
            mask = self.subjects.mask(features, regions, truth)
            captions = self.subjects.captions(image_id)
            kinds = kinds_of(features, truth, captions.label)
            return _Original(features, mask, truth, captions, kinds)
        except UnreadableImage as error:
            log.warning("%s: original: %s", image_id, error.reason)
            return f"original: {error.reason}"
        except Exception as error:  # one bad image never ends a run; its message may quote it
            log.warning("%s: looking at the original raised %s", image_id, type(error).__name__)
            return f"looking at the original raised {type(error).__name__}"

    def _pair(
        self,
        row: Row,
        image_id: str,
        original: _Original,
        place: Measured,
    ) -> PairSample:
        before, mask, truth = original.features, original.mask, original.truth
        missing = PairSample(image_id, before, None, mask, truth=truth, captions=original.captions)
        try:
            pixels = row.edited(image_id, before.pixels, mask)
            height, width = before.size
            place.resized = pixels.shape != before.pixels.shape
            pixels = resized(pixels, height, width)
        except MissingEditError:
            return missing
        except Exception as error:
            reason = error.reason if isinstance(error, UnreadableImage) else type(error).__name__
            log.warning("%s: %s: %s", row.name, image_id, reason)
            place.failure = f"edited: {reason}"
            return missing
        place.edited = True
        same = np.array_equal(pixels, before.pixels)  # then what was seen in one holds for both
        edited = before if same else ImageFeatures(pixels, self.perception, self.memory)
        return replace(
            missing, edited=edited, resized=place.resized, edited_file=row.file(image_id)
        )

    def _score(
        self, name: str, metric: Metric, samples: list[PairSample]
    ) -> list[ItemScore | None]:
        """One score per sample; None where measuring it failed."""
        try:
            return list(metric.measure(samples))
        except Exception as error:
            if len(samples) != 1:
                return [self._score(name, metric, [sample])[0] for sample in samples]
            log.warning("%s: %s raised %s", samples[0].name, name, type(error).__name__)
            return [None]


def summarize(
    items: Sequence[Mapping[str, Measured]],
    image_ids: Sequence[str],
    rows: Sequence[Row],
    metrics: Mapping[str, Metric],
    unavailable: Mapping[str, str],
    *,
    samples: int,
    seed: int,
) -> tuple[int, list[RowResult]]:
    """How many images every row has, and the rows' figures with their intervals.

    ``unavailable`` says of some ``metrics`` why they were not measured. The draws behind an
    interval depend on the seed and the metric only: rows with the same images get the same draws.
    """
    shared = [item for item in items if all(item[row.name].edited for row in rows)]

    def figures(row: Row, over: Sequence[Mapping[str, Measured]]) -> dict[str, MetricResult]:
        return {
            name: MetricResult(None, 0, unavailable=unavailable[name])
            if name in unavailable
            else metric.aggregate(
                [item[row.name].scores[name] for item in over],
                samples,
                generator(seed, "", 0, f"bootstrap {name}"),
            )
            for name, metric in metrics.items()
        }

    results = []
    for row in rows:
        over_all = figures(row, items)
        results.append(
            RowResult(
                name=row.name,
                title=row.title,
                kind=row.kind,
                edited=sum(item[row.name].edited for item in items),
                resized=sum(item[row.name].resized for item in items),
                unreadable=sum(bool(item[row.name].failure) for item in items),
                held_back=row.held_back(image_ids),
                metrics=over_all,
                metrics_on_common=over_all if len(shared) == len(items) else figures(row, shared),
            )
        )
    return len(shared), results

"""COCO's mean average precision, kept image by image so that it can be bootstrapped.

pycocotools matches boxes within each image; its accumulation over images is done here over any
choice of images, and equals pycocotools' own over all of them.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.core.records import Box
from unsafe2safe.evaluation.utility.boxes import Annotated

_THRESHOLDS = 10  # IoU 0.50, 0.55 ... 0.95
_RECALLS = np.linspace(0.0, 1.0, 101)
_EPSILON = np.spacing(1)

Item = list[Any]


@dataclass(frozen=True)
class Detected:
    """What a detector says: a class by its number, a box in pixels, a score."""

    category: int
    box: Box
    score: float


def match(
    categories: Sequence[str],
    truth: Sequence[Sequence[Annotated]],
    found: Sequence[Sequence[Detected]],
) -> list[Item]:
    """For each image its classes with something to find or found: ``[class, objects, hits]``.

    A hit is ``[score, matched, ignored]``, the latter two with a bit for each IoU threshold.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [{"id": number} for number in range(len(truth))]
    listed = [{"id": number, "name": name} for number, name in enumerate(categories)]
    number_of = {name: number for number, name in enumerate(categories)}

    def told(objects: Sequence[tuple[int, dict[str, Any]]]) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset = {
                "images": images,
                "categories": listed,
                "annotations": [
                    {"id": index, "image_id": image, **each}
                    for index, (image, each) in enumerate(objects, start=1)
                ],
            }
            coco.createIndex()
        return coco

    def real(each: Annotated) -> dict[str, Any]:
        number = number_of[each.category]
        crowd = int(each.crowd)
        return {
            "category_id": number, "bbox": list(each.box), "area": each.area, "iscrowd": crowd,
        }  # fmt: skip

    def guess(each: Detected) -> dict[str, Any]:
        return {
            "category_id": each.category, "bbox": list(each.box), "area": each.box.area,
            "iscrowd": 0, "score": each.score,
        }  # fmt: skip

    before = told([(i, real(each)) for i, objects in enumerate(truth) for each in objects])
    after = told([(i, guess(each)) for i, objects in enumerate(found) for each in objects])
    evaluation = COCOeval(before, after, "bbox")
    evaluation.params.areaRng = evaluation.params.areaRng[:1]
    evaluation.params.areaRngLbl = ["all"]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    items: list[Item] = [[] for _ in truth]
    for each in evaluation.evalImgs:
        if each is None:
            continue
        objects = int(np.count_nonzero(np.asarray(each["gtIgnore"]) == 0))
        matched, ignored = (_bits(each[name]) for name in ("dtMatches", "dtIgnore"))
        hits = [
            [float(score), m, i]
            for score, m, i in zip(each["dtScores"], matched, ignored, strict=True)
        ]
        items[each["image_id"]].append([int(each["category_id"]), objects, hits])
    return items


def _bits(flags: NDArray[Any]) -> list[int]:
    """One number for each column of ``flags`` (thresholds, detections)."""
    weights = 1 << np.arange(_THRESHOLDS)
    return [int(each) for each in weights @ (np.asarray(flags) > 0).astype(np.int64)]


@dataclass(frozen=True, eq=False)
class _Class:
    """All hits of one class, the best score first, and its objects by image."""

    image: NDArray[np.int64]  # (D,)
    right: NDArray[np.float64]  # (T, D)
    wrong: NDArray[np.float64]  # (T, D)
    objects: NDArray[np.float64]  # (N,)


def pack(items: Sequence[Item]) -> tuple[int, list[_Class]]:
    """The number of images and the classes of ``items``, for :func:`average_precision`."""
    count = len(items)
    hits: dict[int, list[tuple[int, float, int, int]]] = {}
    objects: dict[int, NDArray[np.float64]] = {}
    for image, item in enumerate(items):
        for category, here, found in item:
            objects.setdefault(category, np.zeros(count))[image] += here
            hits.setdefault(category, []).extend((image, *hit) for hit in found)
    classes = []
    for category in sorted(objects):
        rows = np.array(hits[category], np.float64).reshape(-1, 4)
        rows = rows[np.argsort(-rows[:, 1], kind="mergesort")]
        bits = np.arange(_THRESHOLDS)[:, None]
        matched = (rows[:, 2].astype(np.int64)[None] >> bits) & 1
        counted = 1 - ((rows[:, 3].astype(np.int64)[None] >> bits) & 1)
        classes.append(
            _Class(
                rows[:, 0].astype(np.int64),
                (matched * counted).astype(np.float64),
                ((1 - matched) * counted).astype(np.float64),
                objects[category],
            )
        )
    return count, classes


def average_precision(
    packed: tuple[int, list[_Class]], chosen: NDArray[np.int64]
) -> tuple[float, float]:
    """MAP at IoU 0.50 to 0.95 and at 0.50, over the images ``chosen``; NaN without any object.

    An image chosen twice counts twice, as if it were two images.
    """
    count, classes = packed
    times = np.bincount(chosen, minlength=count).astype(np.float64)
    found = [
        _precision(each, times, total)
        for each in classes
        if (total := float(each.objects @ times)) > 0
    ]
    if not found:
        return float("nan"), float("nan")
    over = np.stack(found)
    return float(over.mean()), float(over[:, 0].mean())


def _precision(found: _Class, times: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """(T,) average precision of one class: the mean of 101 points of the curve's envelope."""
    weights = times[found.image]
    right = np.cumsum(found.right * weights, axis=1)
    wrong = np.cumsum(found.wrong * weights, axis=1)
    recall, precision = right / total, right / (right + wrong + _EPSILON)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    points = np.zeros((_THRESHOLDS, len(_RECALLS)))
    for row in range(_THRESHOLDS):
        places = np.searchsorted(recall[row], _RECALLS, side="left")
        reached = places < recall.shape[1]
        points[row, reached] = envelope[row, places[reached]]
    mean: NDArray[np.float64] = points.mean(axis=1)
    return mean

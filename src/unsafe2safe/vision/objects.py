"""The 80 classes of COCO (NanoDet)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from unsafe2safe.core.records import Box
from unsafe2safe.vision.arrays import FloatArray, RgbImage, resized
from unsafe2safe.vision.models import session
from unsafe2safe.vision.regions import clipped, suppress

_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,"
    "baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,"
    "knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,"
    "chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,"
    "cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,"
    "hair drier,toothbrush"
)
COCO_CLASSES = tuple(_NAMES.split(","))
VEHICLES = frozenset({"car", "motorcycle", "bus", "truck"})  # what carries a licence plate

_SIDE = 416
_BINS = 11
_MOST_IOU = 0.6
_MEAN = np.array([103.53, 116.28, 123.675], np.float32)  # of B, G, R
_DEVIATION = np.array([57.375, 57.12, 58.395], np.float32)
# Stride in pixels, then the outputs that hold scores and distances.
_LEVELS = (
    (8, "Identity", "Identity_3"),
    (16, "Identity_1", "Identity_4"),
    (32, "Identity_2", "Identity_5"),
)


@dataclass(frozen=True)
class DetectedObject:
    """An object of a COCO class with its box within the frame and its score in [0, 1]."""

    label: str
    box: Box
    score: float


class ObjectDetector:
    """Finds objects whose score is at least ``threshold``.

    The image is letterboxed into the middle of 416 x 416: squashed to a square, tall people
    score up to 0.14 less and a cat was taken for a person.
    """

    def __init__(self, threshold: float = 0.4, threads: int = 0) -> None:
        self.threshold = threshold
        self.threads = threads

    @cached_property
    def _session(self) -> Any:
        return session("nanodet", self.threads)

    def detect(self, images: Sequence[RgbImage]) -> list[list[DetectedObject]]:
        """Objects of each image (H, W, 3) uint8 RGB, best score first."""
        return [self._detect(image) for image in images]  # the model takes one image at a time

    def _detect(self, image: RgbImage) -> list[DetectedObject]:
        height, width = image.shape[:2]
        ratio = _SIDE / max(height, width)
        inner = max(1, round(height * ratio)), max(1, round(width * ratio))
        top, left = (_SIDE - inner[0]) // 2, (_SIDE - inner[1]) // 2
        canvas = np.zeros((_SIDE, _SIDE, 3), np.float32)
        canvas[top : top + inner[0], left : left + inner[1]] = resized(image, *inner)[..., ::-1]
        pixels = ((canvas - _MEAN) / _DEVIATION).transpose(2, 0, 1)[None]
        names = [name for level in _LEVELS for name in level[1:]]
        outputs = dict(zip(names, self._session.run(names, {"input_1": pixels}), strict=True))
        found: list[DetectedObject] = []
        for stride, scores_name, bins_name in _LEVELS:
            scores = outputs[scores_name][0]
            corners = _corners(outputs[bins_name][0], stride)
            corners = (corners - (left, top, left, top)) * (
                width / inner[1],
                height / inner[0],
                width / inner[1],
                height / inner[0],
            )
            for cell, label in np.argwhere(scores >= self.threshold):
                x0, y0, x1, y1 = map(float, corners[cell])
                box = clipped(Box(x0, y0, x1 - x0, y1 - y0), width, height)
                if box.area > 0:
                    score = float(scores[cell, label])
                    found.append(DetectedObject(COCO_CLASSES[label], box, score))
        return _merged(found)


def _corners(bins: FloatArray, stride: int) -> FloatArray:
    """Left, top, right, bottom (cells, 4) in network pixels from the distances' distributions."""
    side = _SIDE // stride
    logits = bins.reshape(-1, 4, _BINS)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    distances = weights @ np.arange(_BINS, dtype=np.float32) * stride
    rows, columns = np.divmod(np.arange(side * side), side)
    centres = (np.stack([columns, rows], axis=1) + 0.5) * stride
    corners = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
    return corners.astype(np.float32)


def _merged(found: list[DetectedObject]) -> list[DetectedObject]:
    """Class-wise non-maximum suppression."""
    kept: list[DetectedObject] = []
    for label in sorted({item.label for item in found}):
        same = [item for item in found if item.label == label]
        boxes, scores = [item.box for item in same], [item.score for item in same]
        kept.extend(same[index] for index in suppress(boxes, scores, _MOST_IOU))
    return sorted(kept, key=lambda item: -item.score)

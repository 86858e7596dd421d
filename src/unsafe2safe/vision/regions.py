"""Boxes and masks: growing, uniting, measuring overlap."""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from unsafe2safe.core.records import Box, Category
from unsafe2safe.vision.arrays import Mask


def clipped(box: Box, width: int, height: int) -> Box:
    """The part of ``box`` inside a frame of ``width`` x ``height``; zero-sized where outside."""
    left, top = min(max(box.x, 0.0), width), min(max(box.y, 0.0), height)
    right, bottom = min(max(box.right, left), width), min(max(box.bottom, top), height)
    return Box(left, top, right - left, bottom - top)


def grow(box: Box, margin: float, width: int, height: int) -> Box:
    """``box`` grown on each side by ``margin`` x its size, clipped to ``width`` x ``height``."""
    dx, dy = margin * box.width, margin * box.height
    return clipped(
        Box(box.x - dx, box.y - dy, box.width + 2 * dx, box.height + 2 * dy), width, height
    )


def grow_region(category: Category, box: Box, margin: float, width: int, height: int) -> Box:
    """``box`` grown by what its category needs; clipped to ``width`` x ``height``.

    A line of text is grown by ``margin`` x its height on every side: by its width it would smear
    far beyond what can be read. Everything else is grown as in :func:`grow`.
    """
    if category not in (Category.TEXT, Category.PLATE):
        return grow(box, margin, width, height)
    rim = margin * min(box.width, box.height)
    return clipped(
        Box(box.x - rim, box.y - rim, box.width + 2 * rim, box.height + 2 * rim), width, height
    )


def mask_of(boxes: Iterable[Box], height: int, width: int, feather: float = 0.0) -> Mask:
    """Union of ``boxes`` as a mask (height, width) in [0, 1].

    Each pixel that a box touches is 1. ``feather`` adds outside of that a rim which falls
    linearly to 0 over so many pixels; with 0 the mask holds 0 and 1 only.
    """
    mask = np.zeros((height, width), np.float32)
    for box in boxes:
        inside = clipped(box, width, height)
        if inside.area > 0:
            rows = slice(math.floor(inside.y), math.ceil(inside.bottom))
            mask[rows, math.floor(inside.x) : math.ceil(inside.right)] = 1.0
    if feather > 0 and mask.any():
        distance = ndimage.distance_transform_edt(mask == 0)
        mask = np.clip(1.0 - distance / feather, 0.0, 1.0).astype(np.float32)
    return mask


def overlap(box: Box, other: Box) -> float:
    """Area of the intersection, in square pixels."""
    width = min(box.right, other.right) - max(box.x, other.x)
    height = min(box.bottom, other.bottom) - max(box.y, other.y)
    return max(width, 0.0) * max(height, 0.0)


def iou(box: Box, other: Box) -> float:
    """Intersection over union, in [0, 1]; 0 when neither box has an area."""
    common = overlap(box, other)
    union = box.area + other.area - common
    return common / union if union > 0 else 0.0


def covered(box: Box, mask: Mask) -> float:
    """Share of the area of ``box`` (within the frame) that lies under ``mask`` > 0.5.

    Pixels that the box cuts count with the part inside. A box without area in the frame has
    nothing that could stay visible: 1.
    """
    height, width = mask.shape
    inside = clipped(box, width, height)
    columns = _lengths(inside.x, inside.right, width)
    rows = _lengths(inside.y, inside.bottom, height)
    area = float(rows.sum() * columns.sum())
    return float(rows @ (mask > 0.5) @ columns) / area if area > 0 else 1.0


def _lengths(start: float, end: float, size: int) -> npt.NDArray[np.float64]:
    """How much of each of the pixels [i, i + 1), i < ``size``, lies in [start, end]."""
    edges = np.arange(size, dtype=np.float64)
    lengths = np.minimum(edges + 1, end) - np.maximum(edges, start)
    return np.asarray(np.maximum(lengths, 0.0), np.float64)


def head_of(person: Box) -> Box:
    """The zone at the top of a person's box that holds the head.

    Full width, since arms reach out to either side, and as high as a quarter of a standing
    body or three quarters of the box's width (a half-length portrait), whichever is more. Of a
    person lying or bent, whose box is wide, it is the whole box.
    """
    height = min(person.height, max(0.25 * person.height, 0.75 * person.width))
    return Box(person.x, person.y, person.width, height)


def suppress(boxes: list[Box], scores: list[float], most_iou: float) -> list[int]:
    """Non-maximum suppression: indices of the kept boxes, best score first.

    Scores are more than 0; equal ones keep their order, so equal input gives equal output.
    """
    rectangles = [(box.x, box.y, box.width, box.height) for box in boxes]
    return [int(index) for index in cv2.dnn.NMSBoxes(rectangles, scores, 0.0, most_iou)]

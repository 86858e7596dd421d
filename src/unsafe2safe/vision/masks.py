"""Masks of large frames, made and taken apart window by window, so that memory stays small."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from unsafe2safe.core.records import Box
from unsafe2safe.vision.arrays import Mask, RgbImage
from unsafe2safe.vision.persons import PersonSegmenter
from unsafe2safe.vision.regions import clipped, grow

Support: TypeAlias = npt.NDArray[np.bool_]

_GRID = 1024  # cells along the long side in which connected parts are searched
_MOST_PARTS = 256  # more of them than that are grains, and are taken together
_ZONE = 0.1  # by which the segmenter looks beyond a person's box
_PERSON = 0.5  # alpha from which a pixel is the person's
_LEAST_OUTLINE = 0.2  # share of the box under which the segmenter has missed the person


@dataclass(frozen=True)
class Window:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a frame, ends left out."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def of(cls, box: Box, height: int, width: int) -> Window:
        """Every pixel of the frame that ``box`` touches; empty where it lies outside."""
        inside = clipped(box, width, height)
        if inside.area <= 0:
            return cls(0, 0, 0, 0)
        return cls(
            math.floor(inside.y),
            math.floor(inside.x),
            math.ceil(inside.bottom),
            math.ceil(inside.right),
        )

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)

    @property
    def box(self) -> Box:
        return Box(self.left, self.top, self.width, self.height)

    def widened(self, pixels: int, height: int, width: int) -> Window:
        """Larger by ``pixels`` on each side, within the frame."""
        return Window(
            max(self.top - pixels, 0),
            max(self.left - pixels, 0),
            min(self.bottom + pixels, height),
            min(self.right + pixels, width),
        )

    def meets(self, other: Window) -> bool:
        return (
            self.top < other.bottom
            and other.top < self.bottom
            and self.left < other.right
            and other.left < self.right
        )

    def joined(self, other: Window) -> Window:
        """The smallest window that holds both."""
        return Window(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def within(self, outer: Window) -> tuple[slice, slice]:
        """Rows and columns of this window as ``outer``, which holds it, counts them."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


@dataclass(frozen=True, eq=False)
class Shape:
    """Something in a frame: its window, and within it (h, w) which pixels are its own.

    ``support`` None: all of them.
    """

    window: Window
    support: Support | None = None

    @cached_property
    def own(self) -> Support:
        if self.support is not None:
            return self.support
        return np.ones((self.window.height, self.window.width), np.bool_)

    @property
    def shorter_side(self) -> int:
        return min(self.window.height, self.window.width)


def paint(mask: Mask, shape: Shape, growth: float = 0.0, feather: float = 0.0) -> None:
    """Add ``shape`` to ``mask`` (H, W), in place.

    The shape grown by ``growth`` pixels is 1. ``feather`` adds outside of that a rim which falls
    linearly to 0 over so many pixels. What ``mask`` holds already is never lowered.
    """
    if shape.window.height <= 0 or shape.window.width <= 0:
        return
    window = shape.window.widened(math.ceil(growth + feather), *mask.shape)
    target = mask[window.rows, window.columns]
    own = shape.window.within(window)
    if growth <= 0 and feather <= 0:
        np.maximum(target[own], shape.own, out=target[own])
        return
    distance = np.maximum(_distance(shape, window) - max(growth, 0.0), 0.0)
    alpha = 1.0 - distance / feather if feather > 0 else distance <= 0
    np.maximum(target, np.clip(alpha, 0.0, 1.0).astype(np.float32), out=target)


def _distance(shape: Shape, window: Window) -> npt.NDArray[np.float32]:
    """(h, w) of ``window``: distance of each pixel to the nearest one of ``shape``, in pixels."""
    if shape.support is None:
        rows = np.arange(window.top, window.bottom, dtype=np.float32)
        columns = np.arange(window.left, window.right, dtype=np.float32)
        own = shape.window
        down = np.maximum(np.maximum(own.top - rows, rows - (own.bottom - 1)), 0)
        across = np.maximum(np.maximum(own.left - columns, columns - (own.right - 1)), 0)
        return np.hypot(down[:, None], across[None, :])
    free = np.ones((window.height, window.width), np.uint8)
    free[shape.window.within(window)] = ~shape.support
    return np.asarray(cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def connected_shapes(mask: npt.NDArray[np.float32 | np.uint8]) -> list[Shape]:
    """The connected parts of what is more than 0 in ``mask`` (H, W), from top to bottom.

    In frames of more than 1024 pixels, parts that lie a few pixels apart count as one, and so do
    the grains of a mask in hundreds of parts.
    """
    masked = np.asarray(mask > 0)
    block = max(1, -(-max(masked.shape) // _GRID))
    while True:
        cells = _any_in_cells(masked, block)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(cells.astype(np.uint8))
        if count - 1 <= _MOST_PARTS:
            break
        block *= 2
    shapes = []
    for label in range(1, count):
        left, top, width, height = stats[label, :4].tolist()
        own = labels[top : top + height, left : left + width] == label
        rows, columns = top * block, left * block
        seen = masked[rows : rows + height * block, columns : columns + width * block]
        support = seen & _enlarged(own, block)[: seen.shape[0], : seen.shape[1]]
        shapes.append(_tight(support, rows, columns))
    return sorted(shapes, key=lambda shape: (shape.window.top, shape.window.left))


def _any_in_cells(masked: Support, block: int) -> Support:
    if block == 1:
        return masked
    height, width = masked.shape
    across_rows = np.logical_or.reduceat(masked, np.arange(0, height, block), axis=0)
    return np.asarray(np.logical_or.reduceat(across_rows, np.arange(0, width, block), axis=1))


def _enlarged(cells: Support, block: int) -> Support:
    return np.asarray(np.repeat(np.repeat(cells, block, axis=0), block, axis=1))


def _tight(support: Support, top: int, left: int) -> Shape:
    rows, columns = np.flatnonzero(support.any(axis=1)), np.flatnonzero(support.any(axis=0))
    cut = support[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    window = Window(
        top + int(rows[0]), left + int(columns[0]), top + int(rows[-1]) + 1,
        left + int(columns[-1]) + 1,
    )  # fmt: skip
    return Shape(window, cut)


def person_outline(image: RgbImage, box: Box, segmenter: PersonSegmenter) -> Shape | None:
    """The silhouette of the person in ``box``; None where the segmenter finds hardly anyone.

    It is as the segmenter sees it, and may reach a tenth beyond the box.
    """
    height, width = image.shape[:2]
    zone = Window.of(grow(box, _ZONE, width, height), height, width)
    if zone.height <= 0 or zone.width <= 0:
        return None
    moved = box.moved(-zone.left, -zone.top)
    support = segmenter.segment(image[zone.rows, zone.columns], moved) >= _PERSON
    if support.sum() < _LEAST_OUTLINE * clipped(box, width, height).area:
        return None
    return _tight(support, zone.top, zone.left)


def mask_of_shapes(shapes: Iterable[tuple[Shape, float, float]], height: int, width: int) -> Mask:
    """Union (height, width) of shapes, each with its growth and its feather in pixels."""
    mask: Mask = np.zeros((height, width), np.float32)
    for shape, growth, feather in shapes:
        paint(mask, shape, growth, feather)
    return mask

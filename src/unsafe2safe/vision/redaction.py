"""Redaction without a model: blur, mosaic, fill, inpaint.

All are pure functions of an image (H, W, 3) uint8 RGB and a mask (H, W) in [0, 1]. Where the mask
is 0 every pixel stays bit-identical, where it is 1 nothing of the source's fine structure is left,
and between (a feathered rim) the two are mixed. Each connected part of the mask is treated on its
own, with a strength relative to its own size, so that no face is too large for its blur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from unsafe2safe.vision.arrays import Mask, RgbImage, blended, resized

Method: TypeAlias = Literal["blur", "mosaic", "fill", "inpaint"]
_Support: TypeAlias = npt.NDArray[np.bool_]
_Window: TypeAlias = tuple[slice, slice]

_CELLS = 4.0  # across the shorter side of a region at strength 1: no letter, no pair of eyes
_RING = 8  # pixels around a region whose mean fills it
_GREY = 127  # of a region that nothing surrounds
_INPAINT_SIDE = 48  # shorter side at which a region is inpainted; the filling is smooth anyway


def redact(image: RgbImage, mask: Mask, method: Method, strength: float) -> RgbImage:
    """``image`` with everything under ``mask`` redacted.

    ``strength`` 1 leaves about four cells across the shorter side of each region, 2 leaves two,
    and so on; ``fill`` and ``inpaint`` use nothing of what is under the mask at any strength.

    Raises:
        ValueError: unknown method, strength not positive, or sizes that differ.
    """
    if strength <= 0:
        raise ValueError(f"strength must be positive, not {strength}")
    if method == "fill":
        return fill(image, mask)
    if method == "inpaint":
        return inpaint(image, mask)
    if method not in ("blur", "mosaic"):
        raise ValueError(f"unknown redaction {method!r}; choose blur, mosaic, fill or inpaint")
    coarsen = _blurred if method == "blur" else _pixelated

    def redacted(pixels: RgbImage, support: _Support) -> RgbImage:
        return coarsen(pixels, _shorter_side(support) / _CELLS * strength)

    return _apply(image, mask, redacted)


def blur(image: RgbImage, mask: Mask, sigma: float) -> RgbImage:
    """Blur by about ``sigma`` pixels.

    The region is first averaged over cells of ``sigma`` pixels and only then smoothed: a plain
    Gaussian can be undone in part by deconvolution, an average over cells cannot.
    """
    return _apply(image, mask, lambda pixels, _: _blurred(pixels, sigma))


def mosaic(image: RgbImage, mask: Mask, cell: float) -> RgbImage:
    """Replace by the means of square cells of about ``cell`` pixels."""
    return _apply(image, mask, lambda pixels, _: _pixelated(pixels, cell))


def fill(image: RgbImage, mask: Mask) -> RgbImage:
    """Fill each region with the mean colour of the pixels just around it.

    Of what surrounds, not of what is inside: the mean of a face is its skin's colour. A region
    that nothing surrounds becomes grey.
    """
    free = np.asarray(mask) == 0

    def filled(pixels: RgbImage, support: _Support, window: _Window) -> RgbImage:
        kernel = np.ones((2 * _RING + 1, 2 * _RING + 1), np.uint8)
        ring = (cv2.dilate(support.astype(np.uint8), kernel) > 0) & free[window]
        colour = pixels[ring].mean(axis=0) if ring.any() else np.full(3, _GREY)
        return np.broadcast_to(np.rint(colour), pixels.shape).astype(np.uint8)

    return _apply_in_window(image, mask, filled)


def inpaint(image: RgbImage, mask: Mask) -> RgbImage:
    """Continue the surroundings into each region (Telea's fast marching).

    Only pixels where the mask is 0 are used. A region that nothing surrounds becomes grey.
    """
    hidden = np.asarray(mask) > 0

    def inpainted(pixels: RgbImage, support: _Support, window: _Window) -> RgbImage:
        unknown = hidden[window]
        if unknown.all():
            return np.full_like(pixels, _GREY)
        ratio = min(1.0, _INPAINT_SIDE / _shorter_side(support))
        height, width = (max(2, round(side * ratio)) for side in unknown.shape)
        # Hidden pixels are blanked before anything is averaged: none may bleed into the known.
        blanked = np.where(unknown[..., None], 0, pixels).astype(np.float32)
        known = resized((~unknown).astype(np.float32), height, width)
        if not (known > 0).any():
            return np.full_like(pixels, _GREY)
        mean = resized(blanked, height, width) / np.maximum(known, 1e-6)[..., None]
        source = np.rint(np.clip(mean, 0, 255)).astype(np.uint8)
        holes = (known < 1e-3).astype(np.uint8)
        painted = cv2.inpaint(source, holes, 5, cv2.INPAINT_TELEA)
        if ratio < 1:
            painted = cv2.GaussianBlur(painted, (0, 0), 1.0)
        full = cv2.resize(painted, pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(full, np.uint8)

    return _apply_in_window(image, mask, inpainted)


def _blurred(pixels: RgbImage, sigma: float) -> RgbImage:
    small = _averaged(pixels, sigma)
    small = cv2.GaussianBlur(small, (0, 0), 1.0, borderType=cv2.BORDER_REPLICATE)
    height, width = pixels.shape[:2]
    enlarged = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.rint(np.clip(enlarged, 0, 255)), np.uint8)


def _pixelated(pixels: RgbImage, cell: float) -> RgbImage:
    small = np.rint(_averaged(pixels, cell)).astype(np.uint8)
    height, width = pixels.shape[:2]
    enlarged = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(enlarged, np.uint8)


def _averaged(pixels: RgbImage, cell: float) -> npt.NDArray[np.float32]:
    """Means over cells of at least ``cell`` pixels; fewer cells rather than smaller ones."""
    height, width = (max(1, int(side // max(cell, 1.0))) for side in pixels.shape[:2])
    return resized(pixels.astype(np.float32), height, width)


def _shorter_side(support: _Support) -> float:
    rows, columns = np.flatnonzero(support.any(axis=1)), np.flatnonzero(support.any(axis=0))
    return float(min(rows[-1] - rows[0], columns[-1] - columns[0]) + 1)


def _apply(
    image: RgbImage, mask: Mask, change: Callable[[RgbImage, _Support], RgbImage]
) -> RgbImage:
    """Change each connected part of the mask, seen through its bounding box."""
    result, alpha = _checked(image, mask)
    for rows, columns, support in _parts(alpha):
        changed = change(image[rows, columns], support)
        _mix(result[rows, columns], changed, alpha[rows, columns], support)
    return result


def _apply_in_window(
    image: RgbImage,
    mask: Mask,
    change: Callable[[RgbImage, _Support, _Window], RgbImage],
) -> RgbImage:
    """As :func:`_apply`, seen with the surroundings: half as much again on each side."""
    result, alpha = _checked(image, mask)
    for rows, columns, support in _parts(alpha):
        margin = max(2 * _RING, round(0.5 * max(support.shape)))
        window = tuple(
            slice(max(0, part.start - margin), min(side, part.stop + margin))
            for part, side in zip((rows, columns), alpha.shape, strict=True)
        )
        rows_in = slice(rows.start - window[0].start, rows.stop - window[0].start)
        columns_in = slice(columns.start - window[1].start, columns.stop - window[1].start)
        wide = np.zeros(alpha[window].shape, bool)
        wide[rows_in, columns_in] = support
        changed = change(image[window], wide, (window[0], window[1]))
        _mix(result[window], changed, alpha[window], wide)
    return result


def _checked(image: RgbImage, mask: Mask) -> tuple[RgbImage, Mask]:
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image {image.shape[:2]} and mask {mask.shape} differ in size")
    return image.copy(), np.clip(mask, 0.0, 1.0).astype(np.float32)


def _parts(alpha: Mask) -> Iterator[tuple[slice, slice, _Support]]:
    """Bounding rows and columns of each 8-connected part, and the part within them."""
    hidden = (alpha > 0).view(np.uint8)
    first_column, first_row, across, down = cv2.boundingRect(hidden)
    hidden = hidden[first_row : first_row + down, first_column : first_column + across]
    if not hidden.size:
        return
    count, labels, stats, _ = cv2.connectedComponentsWithStats(hidden)
    for label in range(1, count):
        left, top, width, height = stats[label, :4].tolist()
        support = labels[top : top + height, left : left + width] == label
        top, left = top + first_row, left + first_column
        yield slice(top, top + height), slice(left, left + width), support


def _mix(target: RgbImage, changed: RgbImage, alpha: Mask, support: _Support) -> None:
    """Blend ``changed`` into ``target`` in place, within ``support`` only."""
    target[...] = blended(target, changed, np.where(support, alpha, np.float32(0)))

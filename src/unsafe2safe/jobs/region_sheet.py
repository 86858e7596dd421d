"""A shipped photograph, the mask of its faces, the crops of an editor, and the redacted result.

    python -m unsafe2safe.jobs.region_sheet FILE.jpg [OVERRIDE of anonymize.py ...]

The faces are those that the photograph's labels tell of; the persons are in the public domain.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from unsafe2safe.anonymize.given_masks import NOTHING_GIVEN
from unsafe2safe.anonymize.mask_making import make_mask
from unsafe2safe.anonymize.region_editing import edit_regions, plan_crops
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.files import atomic_path
from unsafe2safe.core.records import Box, Category, Region
from unsafe2safe.data.samples import SamplesSource
from unsafe2safe.editors.base import Canvas, EditRequest, Pixels
from unsafe2safe.editors.redact import RedactEditor

_PHOTO = "portrait_wall.jpg"
_LONG_SIDE = 330
_CANVAS_SIDE = 96
_CANVAS = Canvas(_CANVAS_SIDE, 8, square=True)
_GAP = 8


def sheet(overrides: Sequence[str] = ()) -> Image.Image:
    """Photograph, mask and result beside one another, and the crops below."""
    config = load("anonymize", ["dataset=samples", "margin=0.1", "region=crops", *overrides])
    assert isinstance(config, Anonymize)
    source = SamplesSource()
    whole = Image.fromarray(source.decode(source.record(_PHOTO)).pixels)
    photo = whole.copy()
    photo.thumbnail((_LONG_SIDE, _LONG_SIDE), Image.Resampling.LANCZOS)
    image = np.asarray(photo)
    scale = photo.width / whole.width
    boxes = source.labels()[_PHOTO].face_boxes
    regions = tuple(
        Region(_PHOTO, Box(*(scale * number for number in box)), Category.FACE, 1.0, "labels")
        for box in boxes
    )
    height, width = image.shape[:2]
    mask = make_mask(regions, NOTHING_GIVEN, lambda _: None, (height, width), config.margin, config)
    request = EditRequest(image, mask, regions, "", "", config.seed)
    crops = plan_crops(mask, _CANVAS, config.crops.context)
    shown = [crop.request(request, _CANVAS).image for crop in crops]
    (result,) = edit_regions(RedactEditor(name="redact", method="mosaic"), [request], config)
    assert not isinstance(result, str)
    grey = np.repeat(np.rint(mask * 255).astype(np.uint8)[..., None], 3, axis=2)
    top = _row([image, grey, result])
    across = (top.shape[1] + _GAP) // (_CANVAS_SIDE + _GAP)
    rows = [_row(shown[start : start + across]) for start in range(0, len(shown), across)]
    return Image.fromarray(np.vstack([_widened(row, top.shape[1]) for row in (top, *rows)]))


def _row(pictures: Sequence[Pixels]) -> Pixels:
    gap = np.full((pictures[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.hstack([part for picture in pictures for part in (picture, gap)][:-1])


def _widened(row: Pixels, width: int) -> Pixels:
    """A row as wide as ``width``, and white below it."""
    return np.pad(row, [(0, _GAP), (0, width - row.shape[1]), (0, 0)], constant_values=255)


if __name__ == "__main__":
    with atomic_path(Path(sys.argv[1])) as temporary:
        sheet(sys.argv[2:]).save(temporary, "JPEG", quality=74, optimize=True)

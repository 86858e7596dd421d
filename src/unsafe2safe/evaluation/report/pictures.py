"""The report's gallery: publishable pictures only, the worst ones first."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image

from unsafe2safe.core.errors import UnreadableImage
from unsafe2safe.core.records import OutcomeState
from unsafe2safe.evaluation.report.per_image import ImageValues, badness
from unsafe2safe.evaluation.results import Definition
from unsafe2safe.evaluation.rows import Row, RunRow
from unsafe2safe.evaluation.subjects import BoolMask, Subjects
from unsafe2safe.vision.arrays import RgbImage, bounded

log = logging.getLogger("unsafe2safe")

_PICTURE_SIDE = 480  # pixels
_OUTLINE_TOLERANCE = 0.004  # of the long side


@dataclass(frozen=True)
class Picture:
    """A publishable picture as data URI, with its original where that was asked for.

    ``outline`` is the border of what was sensitive as the path of an SVG of ``width`` by
    ``height``, the original's pixels; "" where nothing was, or nobody told. ``values`` are its
    figures by metric.
    """

    name: str
    row: str
    index: int
    edited: str
    original: str | None
    touched: bool
    width: int
    height: int
    outline: str = ""
    values: dict[str, float] = field(default_factory=dict)


def pictures(
    rows: Sequence[Row],
    subjects: Subjects,
    values: ImageValues,
    order: Definition | None,
    *,
    most: int,
    originals: bool,
) -> list[Picture]:
    """At most ``most`` published pictures, shared out among the runs, edited ones first, and those
    with the worst values of ``order`` first of all.

    Read from the published files through their verified outcomes; what cannot be read or was not
    published is not shown.
    """
    runs = [(index, row) for index, row in enumerate(rows) if isinstance(row, RunRow)]
    places = {image_id: number for number, image_id in enumerate(subjects.image_ids)}
    found: list[Picture] = []
    for number, (index, row) in enumerate(runs):
        room = max((most - len(found)) // (len(runs) - number), 0)
        measured = {name: values.of(row.name, places[name]) for name in subjects.image_ids}
        for image_id in _worst_first(row, subjects, measured, order)[:room]:
            picture = _picture(index, row, image_id, subjects, measured[image_id], originals)
            if picture is not None:
                found.append(picture)
    if order is not None:
        found.sort(key=lambda p: (not p.touched, -badness(order, p.values.get(order.name))))
    return found


def _worst_first(
    row: RunRow,
    subjects: Subjects,
    measured: dict[str, dict[str, float]],
    order: Definition | None,
) -> list[str]:
    def rank(image_id: str) -> tuple[bool, float]:
        value = measured[image_id].get(order.name) if order else None
        untouched = row.outcomes[image_id].state != OutcomeState.ANONYMIZED
        return untouched, -badness(order, value) if order else 0.0

    return sorted(row.pictures(subjects.image_ids), key=rank)


def _picture(
    index: int,
    row: RunRow,
    image_id: str,
    subjects: Subjects,
    values: dict[str, float],
    originals: bool,
) -> Picture | None:
    outcome = row.outcomes[image_id]
    try:
        edited = row.published(image_id)
        source = _original(subjects, image_id)
        shape = (edited if source is None else source).shape[:2]
        mask = None if source is None else subjects.known_mask(image_id, *shape)
    except Exception as error:  # told among the failures of the measurement
        log.warning("%s is not shown: %s", image_id, type(error).__name__)
        return None
    return Picture(
        name=outcome.published_as or "",
        row=row.title,
        index=index,
        edited=data_uri(edited),
        original=data_uri(source) if originals and source is not None else None,
        touched=outcome.state == OutcomeState.ANONYMIZED,
        width=shape[1],
        height=shape[0],
        outline="" if mask is None else outline(mask),
        values={name: float(f"{value:.4g}") for name, value in values.items()},
    )


def _original(subjects: Subjects, image_id: str) -> RgbImage | None:
    """An original's pixels, whose size the outline needs too; None where it cannot be read."""
    try:
        return subjects.source.decode(subjects.record(image_id)).pixels
    except UnreadableImage:
        return None


def data_uri(pixels: RgbImage) -> str:
    """A small JPEG made of pixels alone: nothing of a file's metadata can come along."""
    buffer = io.BytesIO()
    Image.fromarray(bounded(pixels, _PICTURE_SIDE)).save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def outline(mask: BoolMask) -> str:
    """The border of ``mask`` (H, W) as the path of an SVG in its pixels."""
    borders, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    tolerance = _OUTLINE_TOLERANCE * max(mask.shape)
    parts = []
    for border in borders:
        places = cv2.approxPolyDP(border, tolerance, closed=True)[:, 0]
        if len(places) > 2:
            parts.append("M" + "L".join(f"{x} {y}" for x, y in places.tolist()) + "Z")
    return "".join(parts)

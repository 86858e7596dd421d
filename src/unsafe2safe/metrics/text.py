"""Whether the texts of the original can still be read."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import cv2
import numpy as np
from pydantic import Field
from rapidfuzz import fuzz

from unsafe2safe.core.config.components import component
from unsafe2safe.metrics.base import Metric, PairSample
from unsafe2safe.vision.arrays import RgbImage
from unsafe2safe.vision.matching import text_leaks
from unsafe2safe.vision.strokes import stroke_correlation
from unsafe2safe.vision.text import TextLine

_MODEL = "RapidOCR, PP-OCR models of its wheel"


def token_set_similarity(before: str, after: str) -> float:
    """``token_set_ratio`` of rapidfuzz / 100: 1 when one text's words are among the other's."""
    return fuzz.token_set_ratio(before, after) / 100.0


@component
class TextLeakRecall(Metric):
    """Share of the original's lines of text that can still be read.

    ``ratio``: similarity (0-100) from which a line counts as readable.
    """

    ratio: float = Field(
        default=80.0, ge=0, le=100, description="Similarity from which a string counts as read."
    )

    title = "Text read back"
    group = "privacy"
    direction = "down"
    unit = "text"
    model = _MODEL
    binary = True
    of_identity = 1.0
    definition = (
        "Share of the lines read in the original that are read again in the edited image, wherever "
        "they stand, whatever their case, small errors of reading allowed (at least 80 of 100 in "
        "similarity). Does not apply to images without text."
    )

    def expected(self, sample: PairSample) -> int:
        return len(sample.original.lines)

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            tuple(
                float(leaked)
                for leaked in text_leaks(
                    [line.text for line in sample.original.lines],
                    [line.text for line in sample.after.lines],
                    self.ratio,
                )
            )
            for sample in samples
        ]


@component
class TextStrokes(Metric):
    """How much of the original's letters can still be made out in their places."""

    title = "Strokes of letters kept"
    group = "privacy"
    direction = "down"
    unit = "text"
    model = _MODEL
    of_identity = 1.0
    definition = (
        "For each line read in the original: the correlation of its strokes with what stands in "
        "its place after the edit (differences of Gaussians at twice the strokes' own scale), 0 "
        "where it is negative or less than a twentieth of their strength is left. A reader of text "
        "gives up on blur that people read through: above 0.5 letters can be made out, other "
        "letters in the same place mostly stay below. Does not apply to images without text."
    )

    def expected(self, sample: PairSample) -> int:
        return len(sample.original.lines)

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            tuple(
                strokes_in_place(sample.original.pixels, sample.after.pixels, line)
                for line in sample.original.lines
            )
            for sample in samples
        ]


def strokes_in_place(before: RgbImage, after: RgbImage, line: TextLine) -> float:
    """:func:`stroke_correlation` of two (H, W, 3) images inside the outline of a line."""
    box = line.box
    rows = slice(max(int(box.y), 0), ceil(box.bottom))
    columns = slice(max(int(box.x), 0), ceil(box.right))
    window = before[rows, columns]
    inside = np.zeros(window.shape[:2], np.uint8)
    corners = np.round(line.polygon - [columns.start, rows.start]).astype(np.int32)
    cv2.fillPoly(inside, [corners], 1)
    return stroke_correlation(window, after[rows, columns], inside > 0)


@component
class TextSimPaper(Metric):
    """TextSim as the paper defines it, traps included."""

    title = "TextSim, paper's form"
    group = "privacy"
    direction = "down"
    unit = "image"
    model = _MODEL
    of_identity = 1.0
    definition = (
        "rapidfuzz token_set_ratio / 100 between all text read before and after the edit. A subset "
        "scores 1 ('STOP' against 'STOP main street 42') and case matters; see the corrected form. "
        "Does not apply to images without text."
    )

    def expected(self, sample: PairSample) -> int:
        return int(bool(sample.original.lines))

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        return [
            (
                token_set_similarity(
                    " ".join(line.text for line in sample.original.lines),
                    " ".join(line.text for line in sample.after.lines),
                ),
            )
            for sample in samples
        ]

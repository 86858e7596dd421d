"""Whether the texts of the original can still be read."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from rapidfuzz import fuzz

from unsafe2safe.core.config.components import component
from unsafe2safe.metrics.base import Metric, PairSample
from unsafe2safe.vision.matching import text_leaks

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

"""Matching of boxes between two images, and of strings between what was and what is readable."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from unsafe2safe.core.records import Box
from unsafe2safe.vision.regions import iou

_SHORT = 4  # under so many characters a string must be found exactly, as a word


def match_boxes(a: Sequence[Box], b: Sequence[Box], least_iou: float) -> list[tuple[int, int]]:
    """Pairs of indices (into ``a``, into ``b``), one to one, of the greatest summed IoU.

    A pair whose IoU is under ``least_iou``, or 0, is no pair, and never takes a box from another.
    """
    if not a or not b:
        return []
    table = np.array([[iou(box, other) for other in b] for box in a])
    usable = (table >= least_iou) & (table > 0)
    rows, columns = linear_sum_assignment(np.where(usable, table, 0.0), maximize=True)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(row, column) for row, column in pairs if usable[row, column]]


def normalize_text(text: str) -> str:
    """Letters and digits in words: case-folded, without accents, one space between words.

    Compatibility forms (full-width letters, ligatures) become plain ones.
    """
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    plain = (c for c in decomposed if not unicodedata.combining(c))
    return " ".join("".join(c if c.isalnum() else " " for c in plain).split())


def text_leaks(
    originals: Sequence[str], readable: Sequence[str], ratio: float = 80.0
) -> list[bool]:
    """For each original string, whether it can still be read in the lines ``readable``.

    Case, accents, spaces, punctuation and line breaks do not count. A string leaks when some
    stretch of what is readable is similar to it by ``ratio`` (0-100, Indel similarity); under
    four characters it must be there exactly as a word. A part of it is not the whole: "STOP" is
    readable in "STOP main street 42", but that is not readable where only "STOP" is.
    """
    lines = [normalize_text(line) for line in readable]
    texts = [line.replace(" ", "") for line in (*lines, " ".join(lines))]
    words = {word for line in lines for word in line.split()} | set(texts[:-1])
    return [_leaks(normalize_text(original), texts, words, ratio) for original in originals]


def _leaks(original: str, texts: Sequence[str], words: set[str], ratio: float) -> bool:
    from rapidfuzz import fuzz

    compact = original.replace(" ", "")
    if not compact:
        return False
    if len(compact) < _SHORT:
        return compact in words
    return any(
        # partial_ratio slides the shorter string along the longer one: it may only be ours.
        (fuzz.partial_ratio if len(text) > len(compact) else fuzz.ratio)(compact, text) >= ratio
        for text in texts
    )

"""Reading text (RapidOCR, PP-OCR models from its wheel)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from omegaconf import OmegaConf

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Box
from unsafe2safe.vision.arrays import FloatArray, RgbImage
from unsafe2safe.vision.masks import Window
from unsafe2safe.vision.models import open_session
from unsafe2safe.vision.regions import clipped, overlap

_log = logging.getLogger("unsafe2safe")
_LONE_CHARACTER_SCORE = 0.9  # the recogniser sees single characters in fur, cloth and foliage
_MOST_ENLARGED = 1600  # long side up to which an image is enlarged; beyond, only time is spent
_LEAST_SHORT_SIDE = 736  # to which the engine enlarges what is smaller, before it looks for lines
_SAME_LINE = 0.5  # share of the smaller box from which two readings are of the same line


@dataclass(frozen=True, eq=False)
class TextLine:
    """A line of text. ``polygon`` is (4, 2) float32, x and y in pixels, ``box`` its bounds."""

    text: str
    box: Box
    score: float
    polygon: FloatArray


@cache
def _engine(threads: int) -> Any:
    """RapidOCR with the models of its own wheel: named by path, it never looks for a download."""
    import rapidocr

    folder = resources.files(rapidocr) / "models"
    params: dict[str, Any] = {
        "Global.log_level": "critical",
        "Global.text_score": 0.0,  # each reader applies its own threshold
    }
    files: dict[str, Path] = {}
    for part in ("det", "rec", "cls"):
        paths = [p for p in folder.iterdir() if f"_{part}_" in p.name and p.name.endswith(".onnx")]
        if not paths:
            raise UsageError(f"rapidocr came without its {part} model; reinstall it from its wheel")
        file = Path(str(min(paths, key=lambda path: path.name)))
        files[part.capitalize()] = file
        params[f"{part.capitalize()}.model_path"] = str(file)
    logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
    engine = rapidocr.RapidOCR(params=params)
    # Its models load on first use, from sessions that the configuration may hold: its own would
    # let idle threads spin on the cores that other models need.
    engine.cfg = OmegaConf.create(engine.cfg, flags={"allow_objects": True})
    for part, file in files.items():
        engine.cfg[part].session = open_session(file, threads)
    _log.info("loaded model rapidocr (threads: %s)", threads or "automatic")
    return engine


def text_version() -> str:
    """The release that brought the models: they come in its wheel."""
    return metadata.version("rapidocr")


class TextReader:
    """Reads lines of text whose score is at least ``threshold``.

    Strings without a letter or two digits are dropped, and single characters under a score of
    0.9: what the recogniser sees in fur and fabric looks like that.
    """

    def __init__(self, threshold: float = 0.6, threads: int = 0) -> None:
        self.threshold = threshold
        self.threads = threads

    def read(self, image: RgbImage) -> list[TextLine]:
        """Lines of ``image`` (H, W, 3) uint8 RGB from top to bottom."""
        return self._read(image, 1.0)

    def read_scales(self, image: RgbImage, scales: Sequence[float] | None = None) -> list[TextLine]:
        """Lines found at any of ``scales``, for verification; None: as it is and, where its short
        side is over 368 pixels, enlarged twofold. The engine brings smaller ones to one size.

        Of a line read alike at several scales the best reading stays; different readings of one
        place all stay, since any of them may be what a person reads.
        """
        long_side = max(image.shape[:2])
        if scales is None:
            enlarged = 2 * min(image.shape[:2]) > _LEAST_SHORT_SIDE
            scales = (1.0, 2.0) if enlarged else (1.0,)
        sizes = dict.fromkeys(_bounded(scale, long_side) for scale in scales)
        lines = [line for scale in sizes for line in self._read(image, scale)]
        kept: list[TextLine] = []
        for line in sorted(lines, key=lambda line: -line.score):
            if not any(_same(line, other) for other in kept):
                kept.append(line)
        return sorted(kept, key=lambda line: (line.box.y, line.box.x))

    def read_in(self, image: RgbImage, windows: Sequence[Window]) -> list[TextLine]:
        """As :meth:`read_scales`, each part of an image by itself; boxes are of the whole one."""
        return [
            replace(
                line,
                box=line.box.moved(window.left, window.top),
                polygon=line.polygon + np.array([window.left, window.top], np.float32),
            )
            for window in windows
            for line in self.read_scales(image[window.rows, window.columns])
        ]

    def _read(self, image: RgbImage, scale: float) -> list[TextLine]:
        height, width = image.shape[:2]
        scale = _bounded(scale, max(height, width))
        pixels = image[..., ::-1]  # the models were trained on BGR
        if scale != 1.0:
            sides = max(1, round(width * scale)), max(1, round(height * scale))
            kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            pixels = cv2.resize(pixels, sides, interpolation=kernel)
        result = _engine(self.threads)(np.ascontiguousarray(pixels))
        if result.txts is None:
            return []
        unit = np.array([width / pixels.shape[1], height / pixels.shape[0]], np.float32)
        lines = []
        for text, score, corners in zip(result.txts, result.scores, result.boxes, strict=True):
            if self._counts(text, score):
                polygon = np.asarray(corners, np.float32) * unit
                (left, top), (right, bottom) = polygon.min(axis=0), polygon.max(axis=0)
                bounds = Box(*map(float, (left, top, right - left, bottom - top)))
                lines.append(TextLine(text, clipped(bounds, width, height), float(score), polygon))
        return lines

    def _counts(self, text: str, score: float) -> bool:
        characters = [character for character in text if character.isalnum()]
        letters = sum(character.isalpha() for character in characters)
        digits = len(characters) - letters
        least = self.threshold
        if len(characters) == 1:
            least = max(least, _LONE_CHARACTER_SCORE)
        return score >= least and (letters > 0 or digits >= 2)


def _bounded(scale: float, long_side: int) -> float:
    """``scale``, as far as it does not enlarge the image beyond what the engine gains from."""
    return min(scale, max(1.0, _MOST_ENLARGED / long_side))


def _same(line: TextLine, other: TextLine) -> bool:
    smaller = min(line.box.area, other.box.area)
    return (
        line.text.casefold() == other.text.casefold()
        and overlap(line.box, other.box) >= _SAME_LINE * smaller
    )

"""Text read back: an attacker who enlarges what was text and reads it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from unsafe2safe.core.config.components import component
from unsafe2safe.core.records import Box, Category, MetricResult
from unsafe2safe.evaluation.attackers.attack import Attacker, attacked, too_few
from unsafe2safe.metrics.base import Arrays, PairSample
from unsafe2safe.vision.attribute_reader import GLYPHS, board_texts
from unsafe2safe.vision.matching import text_leaks
from unsafe2safe.vision.regions import grow_region

_AROUND = 1.0  # of a line's height: the reader wants some surroundings


@component
class TextReadback(Attacker):
    """Reads lines of text where they stood, at several sizes."""

    scales: tuple[float, ...] = Field(
        default=(1.0, 2.0, 4.0), min_length=1, description="How many times crops are enlarged."
    )
    ratio: float = Field(
        default=80.0, ge=0, le=100, description="Similarity from which a string counts as read."
    )

    unit = "text"
    model = "RapidOCR, PP-OCR models of its wheel; of drawn scenes the packaged attribute reader"
    title = "Attack: text read back enlarged"
    definition = (
        "Share of the original's lines of text that are read again in the edited image around "
        "their place, enlarged by any of the factors given. Of drawn scenes: the share of the "
        "letters of signs, plates and tags that are read at their place. The floor of chance "
        "comes from reading other images' texts."
    )

    def expected(self, sample: PairSample) -> int:
        if sample.truth is not None:
            return len(_letters(sample)[0])
        return len(sample.original.lines)

    def arrays(self, samples: Sequence[PairSample]) -> list[Arrays]:
        return [self._arrays(sample) for sample in samples]

    def _arrays(self, sample: PairSample) -> Arrays:
        if sample.truth is not None:
            before, after = _letters(sample)
            return {"original.letters": before, "edited.letters": after}
        lines = sample.original.lines
        height, width = sample.original.size
        read: set[str] = set()
        for line in lines:
            box = grow_region(Category.TEXT, line.box, _AROUND, width, height)
            read |= set(self._read(sample, box))
        scales = "_".join(f"{scale:g}" for scale in self.scales)
        return {
            "original.lines": _packed([line.text for line in lines]),
            f"edited.lines_enlarged_{scales}": _packed(sorted(read)),
        }

    def _read(self, sample: PairSample, box: Box) -> list[str]:
        rows = slice(int(box.y), int(np.ceil(box.bottom)))
        columns = slice(int(box.x), int(np.ceil(box.right)))
        crop = sample.after.pixels[rows, columns]
        if not crop.size:
            return []
        reader = sample.original.perception.text
        return [line.text for line in reader.read_scales(crop, self.scales)]

    @override
    def conclude(
        self, found: Sequence[Arrays], samples: int, rng: np.random.Generator
    ) -> MetricResult:
        of_scenes = "original.letters" in found[0]
        counts = [
            len(arrays["original.letters"] if of_scenes else _unpacked(arrays["original.lines"]))
            for arrays in found
        ]
        found = self.chosen(found, counts, rng)
        hits = _letters_read(found) if of_scenes else self._lines_read(found)
        owners = np.repeat(np.arange(len(found)), [len(rows) for rows in hits])
        if len(owners) < 2:
            return too_few(len(owners))
        # hits[i][k, j]: is text k of image i read in (for letters: at a place of) image j?
        count = hits[0].shape[1]
        table = np.concatenate(hits).astype(np.float64)
        own = np.arange(count) if of_scenes else owners
        chances = np.empty(self.permutations)
        for draw in range(self.permutations):
            order = rng.permutation(count)
            chances[draw] = table[np.arange(len(table)), order[own]].mean()
        return attacked(table[np.arange(len(table)), own], owners, chances, samples, rng)

    def _lines_read(self, found: Sequence[Arrays]) -> list[NDArray[np.bool_]]:
        scales = "_".join(f"{scale:g}" for scale in self.scales)
        read = [_unpacked(arrays[f"edited.lines_enlarged_{scales}"]) for arrays in found]
        return [
            np.array(
                [text_leaks(_unpacked(arrays["original.lines"]), seen, self.ratio) for seen in read]
            ).T.reshape(-1, len(read))
            for arrays in found
        ]


def _letters_read(found: Sequence[Arrays]) -> list[NDArray[np.bool_]]:
    read = np.concatenate([arrays["edited.letters"] for arrays in found])
    return [arrays["original.letters"][:, None] == read[None] for arrays in found]


def _letters(sample: PairSample) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Places among ``GLYPHS`` of the letters of the original and of what is read there after."""
    assert sample.truth is not None
    before: list[int] = []
    after: list[int] = []
    for board, text in board_texts(sample.truth.redrawn.source).items():
        before += [GLYPHS.index(letter) for letter in text]
        if text and sample.edited is not None:
            after += sample.reading.boards[board].argmax(axis=1).tolist()
    return np.array(before, np.int16), np.array(after, np.int16)


def _packed(texts: Sequence[str]) -> NDArray[Any]:
    return np.frombuffer(json.dumps(list(texts)).encode(), np.uint8)


def _unpacked(array: NDArray[Any]) -> list[str]:
    return [str(text) for text in json.loads(array.tobytes())]

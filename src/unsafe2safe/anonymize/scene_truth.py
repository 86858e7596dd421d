"""Verification of drawn scenes, which detectors of photographs see now and then at best.

What stands at the places of what was private is read by the attribute reader, which knows the
scene's layout; none of the values that were to change may be read as they were in the source. It
is a check for data sets whose truth is known, and for measuring the loop itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.core.errors import ItemError
from unsafe2safe.core.records import Check
from unsafe2safe.data.synthetic import Redrawn, slot_mask
from unsafe2safe.data.synthetic.source import KnownEdit
from unsafe2safe.editors.base import Pixels
from unsafe2safe.vision.redaction import redact

if TYPE_CHECKING:
    from unsafe2safe.vision.attribute_reader import Reading

_SAME = 0.05  # nats within which what is read is what is read where nothing is left to read


@runtime_checkable
class KnowsEdits(Protocol):
    """A source that knows what an image's edit is to change."""

    def edit_of(self, image_id: str, seed: int) -> KnownEdit: ...


@dataclass(frozen=True)
class SceneTruth:
    """The truth about the scenes of ``source``."""

    source: KnowsEdits

    def checks(self, candidate: Candidate, published: Pixels) -> tuple[Check, ...]:
        """How many values of the source are still read from ``published`` (H, H, 3): none may be.

        A value counts only where the counterpart, which the instruction asks for, has another. It
        does not where the reader sees just what it sees in the source with all private places
        filled in: asked about nothing it has to guess, and often guesses right.

        Raises:
            ItemError: the instruction is not the data set's own, so what was to change is unknown.
        """
        from unsafe2safe.vision.attribute_reader import the_reader

        triplet = candidate.triplet
        known = self.source.edit_of(candidate.image_id, triplet.provenance.seed)
        if known.texts.edit_instruction != triplet.edit_instruction:
            reason = "verify.truth knows the instructions of stage1=oracle only"
            raise ItemError(candidate.image_id, reason)
        scene = known.redrawn.source
        mask = slot_mask(scene, published.shape[0]).astype(np.float32)
        nothing = redact(candidate.image.pixels, mask, "fill", 1.0)
        read, guessed = the_reader().read(np.stack([published, nothing]), [scene, scene])
        leaked = float(sum(_leaks(known.redrawn, read, guessed)))
        return (Check("truth_leaked", leaked, 0.0, passed=leaked == 0.0),)


def _leaks(redrawn: Redrawn, read: Reading, guessed: Reading) -> Iterator[bool]:
    """Of each value that was to change, whether it is read as it was."""
    from unsafe2safe.vision.attribute_reader import GLYPHS, PERSON_VALUES, board_texts

    sides = zip(redrawn.source.private.persons, redrawn.scene.private.persons, strict=True)
    for index, (old, new) in enumerate(sides):
        for name, values in PERSON_VALUES.items():
            hidden = name == "hair_style" and not (old.style_shows and new.style_shows)
            before = getattr(old, name)
            if before != getattr(new, name) and not hidden:
                logs, guess = read.persons[index][name], guessed.persons[index][name]
                yield _is_read(values.index(before), logs, guess)
    after = board_texts(redrawn.scene)
    for board, text in board_texts(redrawn.source).items():
        for place, letter in enumerate(text):
            if letter != (after[board][place] if after[board] else ""):
                logs, guess = read.boards[board][place], guessed.boards[board][place]
                yield _is_read(GLYPHS.index(letter), logs, guess)


def _is_read(place: int, logs: NDArray[np.float32], guess: NDArray[np.float32]) -> bool:
    return bool(logs.argmax() == place and np.abs(logs - guess).max() > _SAME)

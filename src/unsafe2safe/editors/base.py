"""What an editor is: it takes an image with its masks and texts and gives back an edited image.

An editor is a component: one file here and one YAML in ``configs/editor``. Its settings are its
annotated fields; models load lazily on the first :meth:`Editor.edit`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.records import Region

Pixels = NDArray[np.uint8]
Mask = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EditRequest:
    """One image to edit.

    ``image`` is (H, W, 3) uint8 RGB; ``mask`` is (H, W) float32 in [0, 1], 1 where something
    sensitive is. ``seed`` is all the randomness the edit may use. ``strength`` counts the
    rungs that this editor has climbed on the image before: the greater, the more a redaction should
    take away. ``text_guidance`` is how many times as strongly as its settings say an editor should
    follow the text. ``combined_caption`` is public caption and instruction in one text; empty where
    the triplet has none. ``private_caption`` is given to editors that declare to read it, and is
    not shown when a request is printed.
    """

    image: Pixels
    mask: Mask
    regions: tuple[Region, ...]
    public_caption: str
    edit_instruction: str
    seed: int
    strength: int = 0
    combined_caption: str = ""
    private_caption: str = field(default="", repr=False)
    text_guidance: float = 1.0

    @property
    def target_caption(self) -> str:
        """What the picture is to show: the combined caption, else public caption and instruction
        one after the other."""
        joined = f"{self.public_caption.strip()} {self.edit_instruction.strip()}"
        return self.combined_caption.strip() or joined.strip()


@dataclass(frozen=True)
class Canvas:
    """What an editor works on inside, whatever the size it is given.

    ``side`` is its longest side in pixels, None: the image's own. Sides are multiples of
    ``multiple``. ``square``: both are ``side``; the editor itself stretches what is not.
    """

    side: int | None = None
    multiple: int = 1
    square: bool = False


@component
class Editor(ABC):
    """Base of all editors."""

    name: str = Field(description="Name of the editor; part of the names of its run folders.")
    licence: str = Field(default="Apache-2.0", description="Licence of the base weights.")
    commercial: bool = Field(
        default=True, description="Whether that licence allows commercial use; told by the run."
    )
    adapter: Path | None = None  # set by the job from its own key ``adapter``

    # Whether the editor may draw new faces; if not, no face at all may be found after it.
    draws_faces: ClassVar[bool] = True
    # What rungs of the ladder change anything for it; masks with a margin grow for every editor.
    answers_to: ClassVar[frozenset[str]] = frozenset({"seed", "guidance"})
    # Whether train.py can fine-tune it.
    trainable_by_us: ClassVar[bool] = False
    # Whether the text embedding depends on the source image (part of a cache key).
    text_sees_source: ClassVar[bool] = False
    source_conditioning: ClassVar[Literal["channel", "token", "none"]] = "none"

    @property
    def reads_private_caption(self) -> bool:
        """Whether requests must hold the private caption; editors get it on no other ground."""
        return False

    @property
    def canvas(self) -> Canvas:
        """What its edits are made on; callers that cut images into crops fit them to it."""
        return Canvas()

    def weights_content(self) -> Mapping[str, str]:
        """``{"editor.weights": hash}`` of the files the base is loaded from, for run fingerprints:
        what they hold counts, not where they lie. Empty where the settings say all of it."""
        return {}

    @abstractmethod
    def edit(self, requests: Sequence[EditRequest]) -> list[Pixels]:
        """Edit a batch: one (H, W, 3) uint8 RGB image per request, each of its request's size; an
        empty array for one that could not be edited, where the others could."""

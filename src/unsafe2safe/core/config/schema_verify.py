"""The section ``verify`` of ``anonymize.py``: what is looked at, and what follows a failure.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from unsafe2safe.core.config.components import Strict, nearest
from unsafe2safe.core.config.schema_common import Component

_STEP = 0.5  # what a rung adds that says no number
_CHANGES: Mapping[str, Any] = {"seed": True, "guidance": _STEP, "margin": _STEP, "redact": True}


class Rung(Strict):
    """What an attempt changes after the one before it failed. What earlier rungs changed stays.

    Written as a word (``seed``, ``guidance``, ``margin``, ``redact``) or as a mapping of several.
    """

    seed: bool = Field(default=False, description="Draw other noise.")
    guidance: PositiveFloat | None = Field(
        default=None, description="So many times the editor's own text guidance is added to it."
    )
    margin: PositiveFloat | None = Field(
        default=None, description="So many times `margin` is added to the masks' margin."
    )
    editor: str | None = Field(
        default=None, description="Edit with this choice of the group `editor` from here on."
    )
    adapter: Path | None = Field(default=None, description="Its adapter: a run folder of train.py.")
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Its settings that differ from its YAML, by their keys."
    )
    redact: bool = Field(default=False, description="Redact from here on.")

    @model_validator(mode="before")
    @classmethod
    def _of_a_word(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        if given not in _CHANGES:
            hint = nearest(given, [*_CHANGES, "{editor: NAME}"])
            raise ValueError(f"{given!r} is no rung of the ladder{hint}")
        return {given: _CHANGES[given]}

    @model_validator(mode="after")
    def _changes_something(self) -> Rung:
        if self.editor and self.redact:
            raise ValueError("a rung changes to another editor or to redaction, not to both")
        if not self.editor and (self.adapter or self.overrides):
            raise ValueError("adapter and overrides belong to a rung's editor")
        if not (self.seed or self.guidance or self.margin or self.editor or self.redact):
            raise ValueError("a rung that changes nothing")
        return self


class Chosen(Strict):
    """A choice of a configuration group by its name, with settings of it that differ."""

    name: str = Field(description="Name of the choice.")
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Its settings that differ from its YAML, by their keys."
    )

    @model_validator(mode="before")
    @classmethod
    def _of_a_word(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given


class Verify(Strict):
    max_attempts: PositiveInt = Field(
        description="Edits tried per image, on all rungs together, before it is held back."
    )
    ladder: tuple[Rung, ...] = Field(
        description=(
            "What each attempt after the first changes: `seed`, `guidance`, `margin`, "
            "`{editor: NAME, adapter: DIR, overrides: {key: value}}`, `redact`; several at once as "
            "`{seed: true, margin: 0.5}`. Rungs that change nothing for the editor are left out."
        )
    )
    redact: bool = Field(
        description=(
            "false: the ladder ends before its rung `redact`, and what the editors could not "
            "make private is held back."
        )
    )
    max_region_retries: NonNegativeInt = Field(
        description=(
            "How often, per image, a rung is tried again because all that was wrong are regions "
            "that the first look had missed; they are added to the masks."
        )
    )
    look: Literal["whole", "edited"] = Field(
        description=(
            "`whole`: the strict detectors look at all of an edited image. `edited`: the face "
            "detector of Stage 1 looks at what was edited, and text is read where some was masked: "
            "many times as fast, but what Stage 1 has missed elsewhere is not found."
        )
    )
    faces: Literal["editor", "absent", "identity"] = Field(
        description=(
            "`absent`: no face may be found in the edited image. `identity`: faces may stay if "
            "none is near its source. `editor`: as the editor declares."
        )
    )
    identity_distance: PositiveFloat = Field(
        description="Least distance (L2) of an edited face from the face it replaces."
    )
    leak_ratio: float = Field(
        ge=0, le=100, description="A source string counts as readable from this similarity on."
    )
    plate_leak_ratio: float = Field(
        ge=0,
        le=100,
        description="The same for plates, where most of the characters tell which it is.",
    )
    letters_alike: float = Field(
        ge=0,
        le=1,
        description=(
            "Greatest correlation of a text's or plate's strokes with the source's: above, letters "
            "that are blurred so that no reader reads them can still be made out."
        ),
    )
    min_outside_ssim: float = Field(
        ge=-1, le=1, description="Least SSIM with the source outside the masks."
    )
    min_contrast: PositiveFloat = Field(
        description="Least standard deviation of the luma (0-255): below, the image is constant."
    )
    max_noise: PositiveFloat = Field(
        description="Greatest noise inside the masks, as a multiple of the source image's own."
    )
    detectors: tuple[Chosen | Component, ...] = Field(
        description=(
            "Detectors that look beside the strict ones: choices of the group `detector`, as names "
            "or `{name: NAME, overrides: {key: value}}`."
        )
    )
    judge: Chosen | Component | None = Field(
        description=(
            "A vision-language model that is asked, last, whether an edit still shows what was "
            "private: a choice of `stage1/vlm`, as a name or `{name: NAME, overrides: {...}}`."
        )
    )
    truth: Literal["none", "also", "only"] = Field(
        description=(
            "`dataset=synthetic`: the values that were to change, read at their places by the "
            "attribute reader, must not be the source's; `only`: no detector looks beside it."
        )
    )

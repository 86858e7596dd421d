"""Redaction: blur, mosaic, fill or inpaint inside the mask. No model, no new content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.editors.base import Editor, EditRequest, Pixels
from unsafe2safe.vision.redaction import redact

# What an attempt falls back to once its method has failed twice: nothing of the source is left.
_LAST_RESORT: Literal["fill"] = "fill"
_ATTEMPTS_WITH_METHOD = 2


@component
class RedactEditor(Editor):
    """Redacts the masked pixels and leaves every other pixel as it is."""

    method: Literal["blur", "mosaic", "fill", "inpaint"] = Field(
        default="blur", description="How masked pixels are redacted."
    )
    strength: float = Field(
        default=1.0, gt=0, description="Strength of blur and mosaic, relative to the region's size."
    )

    draws_faces: ClassVar[bool] = False
    answers_to: ClassVar[frozenset[str]] = frozenset({"margin"})  # with each it grows stronger

    def edit(self, requests: Sequence[EditRequest]) -> list[Pixels]:
        """Redact each request's mask; each further attempt is half as strong again."""
        return [self._edit(request) for request in requests]

    def _edit(self, request: EditRequest) -> Pixels:
        method = self.method if request.strength < _ATTEMPTS_WITH_METHOD else _LAST_RESORT
        strength = self.strength * (1.0 + 0.5 * request.strength)
        return redact(request.image, request.mask, method, strength)

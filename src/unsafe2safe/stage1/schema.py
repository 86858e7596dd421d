"""What a model has to answer: pydantic models that check it, JSON schemas that enforce it.

Every string has a length bound: during constrained decoding a weak model would otherwise fill an
open string up to the token limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from unsafe2safe.core.records import PrivacyFlag

MAX_CAPTION_WORDS = 50
MAX_INSTRUCTION_WORDS = 45
MAX_REVIEW = 5
MAX_CHANGES = 8
_CAPTION = 320  # characters: 50 English words with their spaces
_REVIEWED = 80
_CHANGE = 40

JsonSchema = Mapping[str, Any]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReviewItem(_Answer):
    """One private thing in a picture: what is seen, why it is sensitive, its category's name."""

    what: str = Field(min_length=1, max_length=_REVIEWED)
    why: str = Field(max_length=_REVIEWED)
    category: str = Field(min_length=1, max_length=40)


class Captions(_Answer):
    """The caption pass of ``passes=paper``."""

    review: tuple[ReviewItem, ...] = Field(max_length=MAX_REVIEW)
    private_caption: str = Field(min_length=1, max_length=_CAPTION)
    public_caption: str = Field(min_length=1, max_length=_CAPTION)


class Record(Captions):
    """All of one picture in one answer (``passes=single``)."""

    flag: PrivacyFlag


def record_schema(categories: Sequence[str]) -> JsonSchema:
    """Review, flag, private and public caption, in this order: the flag follows its reasons."""
    flag = {"flag": _flag()}
    return _object({**_review(categories), **flag, **_captions()})


def captions_schema(categories: Sequence[str]) -> JsonSchema:
    return _object({**_review(categories), **_captions()})


def flag_schema() -> JsonSchema:
    return _object({"flag": _flag()})


def public_caption_schema() -> JsonSchema:
    return _object({"public_caption": _string(_CAPTION)})


def instruction_schema(own_plan: bool = False) -> JsonSchema:
    """The edit instruction; with ``own_plan`` the model first declares the changes it chose."""
    changes = {"type": "array", "maxItems": MAX_CHANGES, "items": _string(_CHANGE)}
    instruction = {"instruction": _string(_CAPTION)}
    return _object({"changes": changes, **instruction} if own_plan else instruction)


def combined_schema() -> JsonSchema:
    return _object({"combined_caption": _string(_CAPTION)})


def _review(categories: Sequence[str]) -> dict[str, Any]:
    item = _object(
        {
            "what": _string(_REVIEWED),
            "why": _string(_REVIEWED),
            "category": {"type": "string", "enum": list(categories)},
        }
    )
    return {"review": {"type": "array", "maxItems": MAX_REVIEW, "items": item}}


def _captions() -> dict[str, Any]:
    return {"private_caption": _string(_CAPTION), "public_caption": _string(_CAPTION)}


def _flag() -> dict[str, Any]:
    return {"type": "string", "enum": [flag.value for flag in PrivacyFlag]}


def _string(most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }

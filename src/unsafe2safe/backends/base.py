"""What a vision-language model or a language model is to us: it answers requests, in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unsafe2safe.core.config.components import component


@dataclass(frozen=True, eq=False)
class ChatRequest:
    """One question, with an image where the model sees images.

    ``image`` is (H, W, 3) uint8 RGB. ``schema`` is the JSON Schema that the answer has to satisfy;
    a model that cannot enforce it answers freely and says so (``ChatAnswer.constrained``).
    ``history`` holds earlier (question, answer) turns of the same conversation, for a repair turn.
    """

    prompt: str
    system: str = ""
    image: NDArray[np.uint8] | None = None
    schema: Mapping[str, Any] | None = None
    max_new_tokens: int = 512
    seed: int = 0
    history: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ChatAnswer:
    """``finished`` is False when the token limit ended the answer; ``constrained`` is True when the
    schema was enforced during decoding; ``error`` is a short public reason when there is no answer
    (never the model's or server's own message, which may quote the request)."""

    text: str
    finished: bool = True
    constrained: bool = False
    error: str = ""


@component
class ChatModel(ABC):
    """Base of all backends. Weights load, and servers are probed, on the first use."""

    name: str = Field(description="Short name of the model; part of the provenance.")
    model: str = Field(description="Hub id, local folder, or the name a server knows.")
    revision: str = Field(default="", description="Revision of the model; empty: its newest.")
    batch_size: int = Field(default=8, ge=1, description="Requests answered together.")

    @abstractmethod
    def answer(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """One answer per request, in order. Errors of single requests become ``error`` answers."""

"""What is sent to an OpenAI-compatible server, and how its answer is read."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from unsafe2safe.backends.base import ChatAnswer, ChatRequest
from unsafe2safe.data.encode import encode

ImageFormat = Literal["JPEG", "PNG"]

# No model says this by chance, and the question never names it: only a server that enforces the
# schema answers with it.
_PROBE_WORD = "u2s-7f3a9c41e2d85b06"
_PROBE_SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "string", "enum": [_PROBE_WORD]}},
    "required": ["capital"],
    "additionalProperties": False,
}
PROBE = ChatRequest(
    system="Answer with one plain word, without JSON and without quotation marks.",
    prompt="What is the capital of France?",
    schema=_PROBE_SCHEMA,
    max_new_tokens=256,
)


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


def data_url(
    pixels: NDArray[np.uint8], long_side: int, image_format: ImageFormat, quality: int
) -> str:
    """``pixels`` (H, W, 3), made smaller where a side is longer than ``long_side``; no metadata."""
    height, width = pixels.shape[:2]
    scale = long_side / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    content = base64.b64encode(encode(pixels, image_format, quality=quality)).decode()
    return f"data:image/{image_format.lower()};base64,{content}"


def messages(request: ChatRequest, image_url: str = "") -> list[dict[str, Any]]:
    """The turns of one conversation; the image stands with the first question."""
    turns: list[dict[str, Any]] = []
    if request.system:
        turns.append({"role": "system", "content": request.system})
    questions = [question for question, _ in request.history] + [request.prompt]
    for index, question in enumerate(questions):
        content: Any = question
        if image_url and index == 0:
            content = [
                {"type": "image_url", "image_url": {"url": image_url}},
                {"type": "text", "text": question},
            ]
        turns.append({"role": "user", "content": content})
        if index < len(request.history):
            turns.append({"role": "assistant", "content": request.history[index][1]})
    return turns


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "record", "schema": dict(schema), "strict": True},
    }


def read_answer(body: str, schema: Mapping[str, Any] | None, enforced: bool) -> ChatAnswer:
    """The answer in a completion's ``body``; ``enforced``: this server has kept a schema before.

    Only ``finish_reason`` "stop" is a finished answer. An answer that is not of the schema's shape
    was not constrained, whatever the probe found (a replica may run with other options).

    Raises:
        ValueError: ``body`` is no chat completion.
    """
    choice = _Completion.model_validate_json(body).choices[0]
    text = choice.message.content or ""
    if choice.message.refusal or choice.finish_reason == "content_filter":
        return ChatAnswer("", finished=False, error="refused by the server")
    finished = choice.finish_reason == "stop"
    if not text and finished:
        return ChatAnswer("", finished=False, error="empty answer")
    constrained = enforced and schema is not None and (not finished or _of_shape(text, schema))
    return ChatAnswer(text, finished=finished, constrained=constrained)


def passes_probe(answer: ChatAnswer) -> bool:
    """Whether the probe's only legal answer came back, and nothing else."""
    return answer.finished and _parsed(answer.text) == {"capital": _PROBE_WORD}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _of_shape(text: str, schema: Mapping[str, Any]) -> bool:
    value = _parsed(text)
    if schema.get("type") != "object":
        return value is not None
    if not isinstance(value, dict) or not set(schema.get("required", ())) <= set(value):
        return False
    closed = schema.get("additionalProperties") is False
    return not closed or set(value) <= set(schema.get("properties", ()))

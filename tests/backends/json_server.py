"""A small server that keeps JSON schemas, and that fails in every way a test asks for.

It answers from a script (a generator of conforming JSON) or through a ``ChatModel`` of ours.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

from unsafe2safe.backends.base import ChatModel, ChatRequest

PATIENCE = 60.0  # a test that would wait longer has failed


@dataclass(frozen=True)
class Say:
    """One completion."""

    text: str | None
    finish_reason: str | None = "stop"


@dataclass(frozen=True)
class Status:
    """A status, with a message that quotes what must never be seen."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Body:
    """Status 200 with any body."""

    content: bytes
    media_type: str = "application/json"


@dataclass(frozen=True)
class Reset:
    """The connection ends without an answer."""


@dataclass(frozen=True)
class Hang:
    """No answer until the server is stopped."""


Step = Say | Status | Body | Reset | Hang
#: What to do with the n-th question that is no probe; the body is the request as it came.
Script = Callable[[int, dict[str, Any]], Step]


def conforming(schema: Mapping[str, Any]) -> Any:
    """Some value that ``schema`` allows."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {key: conforming(part) for key, part in schema.get("properties", {}).items()}
        case "array":
            return [conforming(schema["items"])] * schema.get("minItems", 0)
        case "boolean":
            return False
        case "integer" | "number":
            return schema.get("minimum", 0)
        case _:
            return "x" * schema.get("minLength", 1)


def schema_of(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    wanted = body.get("response_format") or {}
    return wanted.get("json_schema", {}).get("schema")


def keeps_schemas(_: int, body: Mapping[str, Any]) -> Step:
    """The script of a server that works: conforming JSON, or the question said again."""
    schema = schema_of(body)
    if schema is None:
        return Say(question(body))
    return Say(json.dumps(conforming(schema)))


def first(*steps: Step) -> Script:
    """The given steps for the first questions, then a server that works."""
    return lambda index, body: steps[index] if index < len(steps) else keeps_schemas(index, body)


def on(prompt: str, step: Step) -> Script:
    """``step`` for the question ``prompt``, a server that works for all others."""
    return lambda index, body: step if question(body) == prompt else keeps_schemas(index, body)


def answers_by(model: ChatModel) -> Script:
    """The script of a server around one of our own backends."""
    lock = threading.Lock()

    def script(_: int, body: dict[str, Any]) -> Step:
        with lock:
            answer = model.answer([chat_request(body)])[0]
        if answer.error:
            return Status(500)
        return Say(answer.text, "stop" if answer.finished else "length")

    return script


def question(body: Mapping[str, Any]) -> str:
    return texts(body["messages"][-1])


def texts(message: Mapping[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def image_of(body: Mapping[str, Any]) -> Image.Image | None:
    """The picture that came with a request, from its data URL."""
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "image_url":
                content = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                return Image.open(io.BytesIO(content))
    return None


def chat_request(body: Mapping[str, Any]) -> ChatRequest:
    """A request as our backends know it, from one that came over HTTP."""
    turns = list(body["messages"])
    system = texts(turns.pop(0)) if turns[0]["role"] == "system" else ""
    spoken = [texts(turn) for turn in turns]
    image = image_of(body)
    return ChatRequest(
        prompt=spoken[-1],
        system=system,
        image=None if image is None else np.asarray(image.convert("RGB")),
        schema=schema_of(body),
        max_new_tokens=body["max_tokens"],
        seed=body["seed"],
        history=tuple(zip(spoken[:-1:2], spoken[1:-1:2], strict=True)),
    )


class JsonServer:
    """The app and what it has seen. ``probe`` answers the probe, ``script`` all other questions."""

    def __init__(
        self,
        script: Script = keeps_schemas,
        probe: Script = keeps_schemas,
        api_key: str = "",
    ) -> None:
        self.base_url = ""
        self.script = script
        self.probe = probe
        self.api_key = api_key
        self.probes: list[dict[str, Any]] = []
        self.questions: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_parallel = 0
        self.stopping = threading.Event()
        self._parallel = 0
        self._lock = threading.Lock()
        self.app = FastAPI()
        self.app.get("/v1/models")(self._models)
        self.app.post("/v1/chat/completions")(self._complete)

    def _models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "scripted", "object": "model"}]}

    def _complete(self, body: dict[str, Any], request: Request) -> Response:
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return _refusal(Status(401), body)
        with self._lock:
            self.headers.append(dict(request.headers))
            probing = "capital of France" in question(body)
            seen = self.probes if probing else self.questions
            index = len(seen)
            seen.append(body)
            self._parallel += not probing
            self.most_parallel = max(self.most_parallel, self._parallel)
        try:
            step = (self.probe if probing else self.script)(index, body)
            return self._respond(step, body, request)
        finally:
            with self._lock:
                self._parallel -= not probing

    def _respond(self, step: Step, body: dict[str, Any], request: Request) -> Response:
        match step:
            case Say(text, finish_reason):
                return JSONResponse(_completion(text, finish_reason))
            case Status():
                return _refusal(step, body)
            case Body(content, media_type):
                return Response(content, media_type=media_type)
            case Hang():
                self.stopping.wait(PATIENCE)
                return Response(status_code=503)
            case Reset():
                return _Cut()


def _completion(text: str | None, finish_reason: str | None) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "scripted",
        "choices": [choice],
    }  # fmt: skip


def _refusal(step: Status, body: dict[str, Any]) -> Response:
    """Servers quote the request in their messages; so does this one."""
    content = {"error": {"message": f"cannot do {json.dumps(body)}", "type": "invalid"}}
    return JSONResponse(content, step.code, headers=dict(step.headers))


class _Cut(Response):
    """Starts an answer and drops the connection in the middle of it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/json"), (b"content-length", b"999")],
            }
        )
        await send({"type": "http.response.body", "body": b'{"id"', "more_body": True})
        raise ConnectionResetError

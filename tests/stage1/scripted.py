"""A chat model that answers from a table, and remembers what it was asked."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from unsafe2safe.backends.base import ChatAnswer, ChatModel, ChatRequest
from unsafe2safe.core.config.components import build, component
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_common import Vision
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.decode import DecodedImage
from unsafe2safe.stage1.base import Described
from unsafe2safe.stage1.model_stage1 import ModelStage1
from unsafe2safe.vision.objects import DetectedObject
from unsafe2safe.vision.perception import Perception

Script = Callable[[ChatRequest, int], ChatAnswer | str]
PLAN_ATTRIBUTES = load("generate_triplets").stage1["attributes"]


@component
class Scripted(ChatModel):
    """``answers(request, number of requests before it of this kind)``; kinds are schemas' keys."""

    scripts: ClassVar[dict[str, Script]] = {}
    asked: ClassVar[dict[str, list[ChatRequest]]] = {}

    def answer(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        asked = self.asked.setdefault(self.name, [])
        answers = []
        for request in requests:
            said = self.scripts[self.name](request, len(asked))
            asked.append(request)
            answers.append(ChatAnswer(said) if isinstance(said, str) else said)
        return answers


def record(flag="unsafe", private="A person.", public="A person on a bench.", review=()):
    items = [{"what": w, "why": "identifies somebody", "category": c} for w, c in review]
    return json.dumps(
        {"review": items, "flag": flag, "private_caption": private, "public_caption": public}
    )


def wanted(request: ChatRequest) -> tuple[str, ...]:
    """The keys that a request asks for."""
    assert request.schema is not None
    return tuple(request.schema["properties"])


def obedient(request: ChatRequest, _number: int) -> str:
    """An instructor that says its plan word for word, and a combiner that joins."""
    if wanted(request) == ("combined_caption",):
        said = dict(line.split(": ", 1) for line in request.prompt.splitlines()[:2] if ": " in line)
        return json.dumps({"combined_caption": " ".join(said.values())})
    if wanted(request) == ("changes", "instruction"):
        return json.dumps({"changes": ["a green hat"], "instruction": "Add a green hat."})
    lines = [line[2:] for line in request.prompt.splitlines() if line.startswith("- ")]
    return json.dumps({"instruction": f"Please {'; '.join(lines)}."})


class NothingSeen:
    """Detectors that find what they are told to: faces none, objects and lines as given."""

    def __init__(self, objects=(), lines=()):
        self.found: dict[str, Sequence[object]] = defaultdict(list, objects=objects, lines=lines)

    def perception(self) -> Perception:
        perception = Perception(Vision(**load("generate_triplets").vision.model_dump()), 1)
        found = self.found

        class Faces:
            def detect(self, images):
                return [[] for _ in images]

        class Objects:
            def detect(self, images) -> list[Sequence[DetectedObject]]:
                return [found["objects"] for _ in images]

        class Text:
            def read(self, image):
                return found["lines"]

        perception.__dict__.update(faces=Faces(), objects=Objects(), text=Text())
        return perception


def picture(image_id="a.jpg", label=None, has_location=False):
    pixels = np.zeros((100, 120, 3), np.uint8)
    decoded = DecodedImage(pixels, "JPEG", has_location, (), None, None, b"")
    return ImageRecord(image_id, __file__, label=label), decoded


class Run:
    """Stage 1 with two scripted models; what they were asked stays readable."""

    def __init__(
        self, sees: Script | str, instructs: Script = obedient, model="scripted/model", **settings
    ):
        def constant(request: ChatRequest, number: int) -> str:
            assert isinstance(sees, str)
            return sees

        Scripted.scripts.update(vlm=constant if isinstance(sees, str) else sees, llm=instructs)
        Scripted.asked.clear()
        target = f"{Scripted.__module__}.Scripted"
        common = {"_target_": target, "model": model}
        self.stage1 = build(
            {
                "_target_": "unsafe2safe.stage1.model_stage1.ModelStage1",
                "name": "scripted",
                "vlm": {**common, "name": "vlm"},
                "llm": {**common, "name": "llm"},
                "attributes": PLAN_ATTRIBUTES,
                **settings,
            },
            "stage1",
            ModelStage1,
        )

    @property
    def to_vlm(self) -> list[ChatRequest]:
        return Scripted.asked.get("vlm", [])

    @property
    def to_llm(self) -> list[ChatRequest]:
        return Scripted.asked.get("llm", [])

    def describe(self, *pictures, seen: NothingSeen | None = None) -> list[Described]:
        perception = (seen or NothingSeen()).perception()
        return self.stage1.describe(list(pictures) or [picture()], perception, 0)

    def one(self, *pictures, seen: NothingSeen | None = None) -> Described:
        return self.describe(*pictures, seen=seen)[0]

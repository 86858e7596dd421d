"""Detectors and judges that lie, break or keep silent, named by ``_target_`` in configurations."""

from __future__ import annotations

import json

from unsafe2safe.backends.base import ChatAnswer, ChatModel
from unsafe2safe.core.config.components import component
from unsafe2safe.core.records import Box, Category
from unsafe2safe.vision.detectors import Detection, Detector

HERE = "injected_witnesses"
SECRET = "Anna Weber"
ASKED: list[str] = []  # prompts that scripted judges were given


@component
class RaisingDetector(Detector):
    name: str = "raises"

    def detect(self, image):
        raise RuntimeError(SECRET)


@component
class OneBox(Detector):
    """Finds a face at one place, whatever the image."""

    name: str = "one_box"
    box: tuple[float, float, float, float] = (0, 0, 40, 40)

    def detect(self, image):
        return [Detection(Box(*self.box), Category.FACE, 1.0)]


@component
class ScriptedJudge(ChatModel):
    """Answers with ``says``, whole or cut off."""

    name: str = "scripted"
    model: str = "none"
    says: str = json.dumps({"still_shown": False, "linkable": False})
    finished: bool = True
    error: str = ""

    def answer(self, requests):
        ASKED.extend(request.prompt for request in requests)
        return [ChatAnswer(self.says, self.finished, False, self.error) for _ in requests]


@component
class RaisingJudge(ChatModel):
    name: str = "raises"
    model: str = "none"

    def answer(self, requests):
        raise RuntimeError(requests[0].prompt)

"""The VLM's look at a picture: one generation for everything, or the paper's two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.backends.base import ChatModel, ChatRequest
from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.core.records import PrivacyFlag
from unsafe2safe.stage1.asking import Reading, Reply, ask
from unsafe2safe.stage1.parsing import Answered, parse_flag, parse_record
from unsafe2safe.stage1.prompting import Questions, prompt_text
from unsafe2safe.stage1.schema import (
    JsonSchema,
    ReviewItem,
    captions_schema,
    flag_schema,
    record_schema,
)

Passes = Literal["single", "paper"]


@dataclass(frozen=True, eq=False)
class View:
    """A picture as the VLM gets it: (H, W, 3) uint8 RGB, and what it is told beside it."""

    image_id: str
    pixels: NDArray[np.uint8]
    label: str | None = None
    hints: str = ""


@dataclass(frozen=True)
class Look:
    """What a VLM said of one picture.

    ``flag`` is safe only when every answer was read and finished, none said unsafe and the review
    is empty. ``problem`` is the public reason why the picture needs a person's review.
    """

    flag: PrivacyFlag
    review: tuple[ReviewItem, ...] = ()
    private_caption: str = ""
    public_caption: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Viewer:
    """A VLM with its questions."""

    model: ChatModel
    questions: Questions
    passes: Passes
    caption_tokens: int
    flag_tokens: int
    repair_turns: int
    seed: int

    def look(self, views: Sequence[View]) -> list[Look]:
        """One look per picture, in order."""
        categories = self.questions.categories
        if self.passes == "single":
            schema = record_schema(categories)
            replies = self._ask(views, "single", schema, self.caption_tokens)
            return [_look(reply, (reply,)) for reply in replies]
        captions = self._ask(views, "caption", captions_schema(categories), self.caption_tokens)
        flags = self._ask(views, "flag", flag_schema(), self.flag_tokens)
        return [
            _look(caption, (caption, flag)) for caption, flag in zip(captions, flags, strict=True)
        ]

    def _ask(
        self, views: Sequence[View], name: str, schema: JsonSchema, tokens: int
    ) -> list[Reply[Answered]]:
        requests = [
            ChatRequest(
                prompt=self.questions.ask(name, view.label, view.hints),
                system=prompt_text("system.txt"),
                image=view.pixels,
                schema=schema,
                max_new_tokens=tokens,
                seed=torch_seed(self.seed, view.image_id, stream=f"vlm/{name}"),
            )
            for view in views
        ]

        def read(text: str, prompt: str) -> Reading[Answered]:
            if name == "flag":
                return _complete(Answered(flag=parse_flag(text, prompt)), ("flag",))
            answered = parse_record(text, self.questions.categories, prompt)
            wanted = ("flag",) if name == "single" else ()
            return _complete(answered, (*wanted, "private_caption", "public_caption"))

        return ask(self.model, requests, read, self.repair_turns)


def _complete(answered: Answered, wanted: Sequence[str]) -> Reading[Answered]:
    missing = [name for name in wanted if not getattr(answered, name)]
    told = f"{', '.join(missing)} missing" if missing else ""
    return Reading(answered, told)


def _look(captions: Reply[Answered], replies: Sequence[Reply[Answered]]) -> Look:
    said = [
        answered
        for reply in replies
        for answered in (*reply.earlier, reply.value)
        if answered is not None
    ]
    problem = next((reply.problem for reply in replies if reply.problem), "")
    reviews = [answered.review for answered in said if answered.review]
    flags = {answered.flag for answered in said}
    safe = PrivacyFlag.SAFE in flags and PrivacyFlag.UNSAFE not in flags
    flag = PrivacyFlag.SAFE if safe and not reviews and not problem else PrivacyFlag.UNSAFE
    value = captions.value or Answered()
    review = value.review or (reviews[-1] if reviews else ())
    return Look(flag, review, value.private_caption, value.public_caption, problem)

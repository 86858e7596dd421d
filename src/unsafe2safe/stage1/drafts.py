"""Public texts from models, each accepted only when the leak guard finds nothing in it.

A caption that leaks goes back to the VLM, which holds the picture anyway, with the terms named.
The instructor is never told a term: it sees a public caption and a plan, and tries again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.backends.base import ChatModel, ChatRequest
from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.stage1.asking import Reading, ask
from unsafe2safe.stage1.guard import PrivateSide, find_leaks
from unsafe2safe.stage1.instruct import (
    NEUTRAL_INSTRUCTION,
    Plan,
    edit_instruction,
    plan_values,
    planned_words,
    says_plan,
)
from unsafe2safe.stage1.parsing import parse_list, parse_text
from unsafe2safe.stage1.prompting import fill, instruction_prompt, leak_prompt, prompt_text
from unsafe2safe.stage1.schema import (
    MAX_CAPTION_WORDS,
    MAX_INSTRUCTION_WORDS,
    combined_schema,
    instruction_schema,
    public_caption_schema,
)

NEUTRAL_CAPTION = "A photo."
_RETRIES = 2  # of a leaking text, before a neutral one takes its place


@dataclass(eq=False)
class Draft:
    """The public texts of one picture while they are made, beside what they must not say.

    ``leaks`` counts what the guard held back, by kind; no term is kept.
    """

    image_id: str
    pixels: NDArray[np.uint8]
    private: PrivateSide
    caption: str
    fallback: str  # a caption made without a model
    plan: Plan = ()
    has_text: bool = False
    instruction: str = ""
    combined: str | None = None
    allowed: tuple[str, ...] = ()
    problem: str = ""
    leaks: Counter[str] = field(default_factory=Counter)

    def terms(self, text: str, allowed: Collection[str] = ()) -> tuple[str, ...]:
        """What ``text`` gives away, counted; private."""
        found = find_leaks(text, self.private, allowed)
        self.leaks.update(leak.kind for leak in found)
        return tuple(sorted({leak.term for leak in found}))


def guard_captions(
    vlm: ChatModel, drafts: Sequence[Draft], max_new_tokens: int, seed: int, repair_turns: int
) -> None:
    """Replace each leaking caption by one of the VLM's that does not leak, or by a neutral one."""
    leaking = {draft: terms for draft in drafts if (terms := draft.terms(draft.caption))}
    for retry in range(1, _RETRIES + 1):
        if not leaking:
            return
        requests = [
            ChatRequest(
                prompt=leak_prompt(draft.caption, terms),
                system=prompt_text("system.txt"),
                image=draft.pixels,
                schema=public_caption_schema(),
                max_new_tokens=max_new_tokens,
                seed=torch_seed(seed, draft.image_id, retry, "vlm/leak"),
            )
            for draft, terms in leaking.items()
        ]
        replies = ask(vlm, requests, _read_caption, repair_turns)
        for draft, reply in zip(list(leaking), replies, strict=True):
            if reply.problem or not reply.value:
                continue
            draft.caption = " ".join(reply.value.split()[:MAX_CAPTION_WORDS])
            if terms := draft.terms(draft.caption):
                leaking[draft] = terms
            else:
                del leaking[draft]
    for draft in leaking:
        draft.caption = NEUTRAL_CAPTION if draft.terms(draft.fallback) else draft.fallback


@dataclass(frozen=True)
class Instructor:
    """The LLM. What it is told of a picture is in the signature of :meth:`request`."""

    model: ChatModel
    instruction_tokens: int
    caption_tokens: int
    repair_turns: int
    seed: int
    own_plans: bool  # replacement_plan=none

    def request(
        self, image_id: str, public_caption: str, plan: Plan | None, has_text: bool, draft: int
    ) -> ChatRequest:
        """The ``image_id`` goes into the seed only."""
        return ChatRequest(
            prompt=instruction_prompt(public_caption, plan, has_text, draft),
            system=prompt_text("instruct_system.txt"),
            schema=instruction_schema(own_plan=plan is None),
            max_new_tokens=self.instruction_tokens,
            seed=torch_seed(self.seed, image_id, draft, "llm/instruct"),
        )

    def instruct(self, drafts: Sequence[Draft]) -> None:
        """Set the instruction of each draft, and the words that its plan allows it to say."""
        pending = list(drafts)
        for attempt in range(_RETRIES + 1):
            if not pending:
                return
            plans = [self._plan(draft) for draft in pending]
            requests = [
                self.request(draft.image_id, draft.caption, plan, draft.has_text, attempt)
                for draft, plan in zip(pending, plans, strict=True)
            ]
            replies = ask(self.model, requests, _read_instruction, self.repair_turns)
            leaking = []
            for draft, plan, reply in zip(pending, plans, replies, strict=True):
                if reply.problem.startswith("model error"):
                    draft.problem = reply.problem
                said, changes = ("", ()) if reply.problem or not reply.value else reply.value
                draft.allowed = changes if plan is None else plan_values(plan)
                if not _keeps_to(draft, plan, said):
                    said = self._template(draft)
                if draft.terms(said, draft.allowed):
                    leaking.append(draft)
                draft.instruction = said
            pending = leaking
        for draft in pending:
            draft.instruction, draft.allowed = NEUTRAL_INSTRUCTION, ()

    def combine(self, drafts: Sequence[Draft]) -> None:
        """Set the combined caption: what the picture shows after the edit, in one text."""
        requests = [
            ChatRequest(
                prompt=fill("combine", caption=draft.caption, instruction=draft.instruction),
                system=prompt_text("instruct_system.txt"),
                schema=combined_schema(),
                max_new_tokens=self.caption_tokens,
                seed=torch_seed(self.seed, draft.image_id, stream="llm/combine"),
            )
            for draft in drafts
        ]
        replies = ask(self.model, requests, _read_combined, self.repair_turns)
        for draft, reply in zip(drafts, replies, strict=True):
            said = "" if reply.problem else reply.value or ""
            plain = joined(draft.caption, draft.instruction)
            tried = [said] if 0 < len(said.split()) < MAX_CAPTION_WORDS else []
            neutral = joined(NEUTRAL_CAPTION, NEUTRAL_INSTRUCTION)
            draft.combined = next(
                (text for text in (*tried, plain) if not draft.terms(text, draft.allowed)), neutral
            )

    def _plan(self, draft: Draft) -> Plan | None:
        """None where the model has to choose: as configured, or where no plan says anything."""
        if self.own_plans or not planned_words(draft.caption, draft.plan, draft.has_text):
            return None
        return draft.plan

    def _template(self, draft: Draft) -> str:
        plan = self._plan(draft)
        if plan is None:
            return NEUTRAL_INSTRUCTION
        return edit_instruction(draft.caption, plan, draft.has_text)


def joined(caption: str, instruction: str) -> str:
    return f"{caption} {instruction}"


def _keeps_to(draft: Draft, plan: Plan | None, said: str) -> bool:
    if not 0 < len(said.split()) <= MAX_INSTRUCTION_WORDS:
        return False
    return plan is None or says_plan(said, draft.caption, plan, draft.has_text)


def _read_caption(text: str, _prompt: str) -> Reading[str]:
    return _text(text, "public_caption")


def _read_combined(text: str, _prompt: str) -> Reading[str]:
    return _text(text, "combined_caption")


def _text(text: str, name: str) -> Reading[str]:
    found = parse_text(text, name)  # a text may repeat its prompt's caption: the guard judges it
    return Reading(found, "" if found else f"{name} missing")


def _read_instruction(text: str, _prompt: str) -> Reading[tuple[str, tuple[str, ...]]]:
    said = parse_text(text, "instruction")
    changes = parse_list(text, "changes")
    return Reading((said, changes), "" if said else "instruction missing")

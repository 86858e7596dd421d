"""Asking a model in batches, with a repair turn, until each answer is read or given up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from unsafe2safe.backends.base import ChatAnswer, ChatModel, ChatRequest
from unsafe2safe.stage1.prompting import fill

CUT_OFF = "the answer hit the token limit"
UNREAD = "the answer could not be read"

Read = TypeVar("Read")


@dataclass(frozen=True)
class Reading(Generic[Read]):
    """What one answer says; ``missing`` names in public words what it should have said too."""

    value: Read
    missing: str = ""


@dataclass(frozen=True)
class Reply(Generic[Read]):
    """The last reading, and every earlier one: an earlier ``unsafe`` still counts.

    ``problem`` is a public reason, empty exactly when the last answer was finished and read.
    """

    value: Read | None
    problem: str
    earlier: tuple[Read, ...] = ()


def ask(
    model: ChatModel,
    requests: Sequence[ChatRequest],
    read: Callable[[str, str], Reading[Read]],
    repair_turns: int,
) -> list[Reply[Read]]:
    """One reply per request, in order. ``read`` takes an answer and the prompt it answers.

    An answer that the token limit ended is not asked for again: what is cut off once would be cut
    off twice, at full price. An unreadable one is, with what it lacks.
    """
    replies: list[Reply[Read]] = [Reply(None, UNREAD) for _ in requests]
    turns = list(requests)
    pending = list(range(len(requests)))
    for turn in range(repair_turns + 1):
        if not pending:
            break
        answers = model.answer([turns[index] for index in pending])
        again = []
        for index, answer in zip(pending, answers, strict=True):
            reply = _reply(answer, requests[index].prompt, read, replies[index])
            replies[index] = reply
            if reply.problem == UNREAD and turn < repair_turns:
                turns[index] = _repair(turns[index], answer, read, requests[index].prompt)
                again.append(index)
        pending = again
    return replies


def _reply(
    answer: ChatAnswer,
    prompt: str,
    read: Callable[[str, str], Reading[Read]],
    before: Reply[Read],
) -> Reply[Read]:
    earlier = before.earlier if before.value is None else (*before.earlier, before.value)
    if answer.error:
        return Reply(None, f"model error: {answer.error}", earlier)
    reading = read(answer.text, prompt)
    if not answer.finished:
        return Reply(None, CUT_OFF, (*earlier, reading.value))
    return Reply(reading.value, UNREAD if reading.missing else "", earlier)


def _repair(
    request: ChatRequest,
    answer: ChatAnswer,
    read: Callable[[str, str], Reading[Read]],
    prompt: str,
) -> ChatRequest:
    missing = read(answer.text, prompt).missing
    history = (*request.history, (request.prompt, answer.text))
    return replace(request, prompt=fill("repair", missing=missing), history=history)

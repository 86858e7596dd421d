"""OK-VQA's files, and its accuracy: what people answered, and how answers are made alike."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as parsed

from unsafe2safe.core.errors import UsageError

Parsed = TypeVar("Parsed")

_NEEDED = 3  # people who say the same make an answer wholly right
_DIGITS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_DIGITS.split())} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))
# Cut out, or made a space where it stands between two words without one.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am "
    "mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't shan't she'd've "
    "should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've "
    "someone'll someone's something'd something'd've something'll that's there'd there'd've "
    "there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've "
    "you'd you'd've you'll you're you've"
)


def _spellings(word: str) -> list[str]:
    """``word`` with each of its apostrophes there or not, but for all of them there."""
    parts = word.split("'")
    found = [parts[0]]
    for part in parts[1:]:
        found = [before + mark + part for before in found for mark in ("'", "")]
    return [each for each in found if each != word]


_CONTRACTIONS = {spelling: word for word in _CONTRACTED.split() for spelling in _spellings(word)}


def normalized(answer: str) -> str:
    """``answer`` as VQA's evaluation compares it: no punctuation, numbers as digits, no articles,
    contractions with their apostrophes, lower case."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    thousands = _THOUSANDS.search(text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        apart = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if apart or thousands else " ")
    cleaned = _PERIOD.sub("", cleaned)
    words = [_NUMBERS.get(word, word) for word in cleaned.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def okvqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """min(people who say the same / 3, 1)."""
    told = normalized(answer)
    return min(sum(normalized(each) == told for each in people) / _NEEDED, 1.0)


def official_accuracy(answer: str, people: Sequence[str]) -> float:
    """The same, as VQA's evaluation has it: the mean over leaving each of the people out."""
    told = normalized(answer)
    same = [normalized(each) == told for each in people]
    total = sum(same)
    return sum(min((total - each) / _NEEDED, 1.0) for each in same) / len(same)


@dataclass(frozen=True)
class Question:
    """A question about an image and what people answered, the most frequent answer first."""

    text: str
    answers: tuple[str, ...]

    @property
    def likeliest(self) -> str:
        """What most people say; of several, the one said first."""
        return max(self.answers, key=self.answers.count)


@parsed(frozen=True)
class _Asked:
    question_id: int
    image_id: int
    question: str


@parsed(frozen=True)
class _Questions:
    questions: list[_Asked]


@parsed(frozen=True)
class _Answer:
    answer: str


@parsed(frozen=True)
class _Answered:
    question_id: int
    answers: list[_Answer]


@parsed(frozen=True)
class _Annotations:
    annotations: list[_Answered]


def read_questions(questions: Path, annotations: Path) -> dict[int, list[Question]]:
    """Questions by COCO's number of the image, in the order of their ids.

    Raises:
        UsageError: a file is missing, or has not OK-VQA's format.
    """
    asked = _parse(questions, "questions", _Questions)
    answered = _parse(annotations, "annotations", _Annotations)
    answers = {
        a.question_id: tuple(each.answer for each in a.answers) for a in answered.annotations
    }
    found: dict[int, list[Question]] = defaultdict(list)
    for question in sorted(asked.questions, key=lambda each: each.question_id):
        if people := answers.get(question.question_id):
            found[question.image_id].append(Question(question.question, people))
    return dict(found)


def number_of(image_id: str) -> int | None:
    """COCO's number of an image, the digits that end its name; None: it has none."""
    found = re.search(r"(\d+)$", PurePosixPath(image_id).stem)
    return int(found[1]) if found else None


def _parse(path: Path, key: str, kind: type[Parsed]) -> Parsed:
    try:
        return TypeAdapter(kind).validate_json(path.expanduser().read_bytes())
    except OSError as error:
        raise UsageError(f"utility.vqa.{key}={path.name}: {error.strerror}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise UsageError(
            f"utility.vqa.{key}={path.name} has not OK-VQA's format ({where}: {fault['msg']})"
        ) from None

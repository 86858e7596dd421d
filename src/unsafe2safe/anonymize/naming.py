"""What a published file may be called: names that tell something are hashed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import PurePosixPath

from unsafe2safe.stage1.lexicon import person_names, plain, words
from unsafe2safe.vision.matching import text_leaks

_SHORTEST_LEAK = 4  # characters
_SHORTEST_NAME = 4  # letters from which on a given name counts in small letters, too
_YEAR = r"(?:19|20)\d\d"
_MONTHS = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    "oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
_DATES = (
    # 2020-01-31, 20200131, 2020/01/31, with or without a time glued to it
    re.compile(
        rf"(?<!\d){_YEAR}([-_. /]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
        r"(?:\d{4}|\d{6}|\d{9})?(?!\d)"
    ),
    # 31.01.2020, 1-31-2020
    re.compile(rf"(?<!\d)(?:0?[1-9]|[12]\d|3[01])([-_. ])(?:0?[1-9]|[12]\d|3[01])\1{_YEAR}(?!\d)"),
    # 31 January 2020, jan_2020
    re.compile(rf"(?i)(?<![a-z])(?:{_MONTHS})[-_. ,]*(?:\d{{1,2}}[-_. ,]+)?{_YEAR}(?!\d)"),
)


def tells_something(path: str, private_texts: Sequence[str] = ()) -> bool:
    """Whether a file's path holds a date, a person's name, or one of ``private_texts``."""
    return tells_date(path) or tells_person(path) or _repeats(path, private_texts)


def tells_date(text: str) -> bool:
    """Whether a day, or a month with its year, stands in ``text``; a year alone is none."""
    return any(pattern.search(text) for pattern in _DATES)


def tells_person(text: str) -> bool:
    """Whether a given name, or a given and a family name side by side, stands in ``text``.

    Names that are plain words, too ("Mark Smith"), count in pairs with capitals only.
    """
    return any(_names(part) for part in PurePosixPath(text).parts)


@lru_cache(maxsize=4096)  # folders come again with each of their files
def _names(part: str) -> bool:
    given, family = person_names()
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain(part))
    written = re.findall(r"[^\W\d_]+", apart)
    words_told = [(word.casefold(), word[0].isupper()) for word in written]
    if any(
        word in given and (capital or len(word) >= _SHORTEST_NAME) for word, capital in words_told
    ):
        return True
    ambiguous = words("plain_names")  # "mark", "smith": names and plain words as well
    return any(
        (first in given | ambiguous and second in family)
        or (first in family and second in given | ambiguous)
        or (capital and capitals and first in ambiguous and second in ambiguous)
        for (first, capital), (second, capitals) in pairwise(words_told)
    )


def _repeats(path: str, private_texts: Sequence[str]) -> bool:
    told = [re.sub(r"[-_.]+", " ", part) for part in PurePosixPath(path).with_suffix("").parts]
    long_enough = [text for text in private_texts if len(text.strip()) >= _SHORTEST_LEAK]
    return any(text_leaks(long_enough, told, 90.0))

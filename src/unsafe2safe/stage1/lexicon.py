"""Word lists of what a public text must not tell, and the rules that find their words in it.

The lists are in ``lexicons/``, one file per class, and files of context that tell an ordinary use
of a word from a revealing one. Names of persons come from Faker's lists of many languages.
"""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.resources import files

NAME_LANGUAGES = (
    "cs_CZ", "da_DK", "de_DE", "en_GB", "en_IE", "en_IN", "en_US", "es_ES", "fi_FI", "fr_FR",
    "hr_HR", "hu_HU", "id_ID", "it_IT", "nl_NL", "no_NO", "pl_PL", "pt_BR", "pt_PT", "ro_RO",
    "sv_SE", "tr_TR", "vi_VN",
)  # fmt: skip

_SENTENCE = frozenset('.!?:;\n"“”«»(')  # between two words: a capital after it tells nothing
_BREAK = frozenset(',.!?:;\n"“”«»()')
_CHESS = frozenset({"bishop", "king", "queen"})
_SKIN = frozenset({"skin", "skinned", "complexion", "complexioned"})
_PRONOUNS = frozenset({"he", "she", "him", "her", "his", "hers", "himself", "herself"})


class Rule(Enum):
    ALWAYS = "always"
    NEAR_PERSON = "beside a word for a person"
    WITH_PERSON = "with a word for a person anywhere in the text"
    ORIGIN = "unless a thing follows that has its name from there"


@dataclass(frozen=True)
class Entry:
    """A word or phrase of a class; ``cased`` when only the capital makes it one of the class."""

    words: tuple[str, ...]
    kind: str
    rule: Rule
    cased: bool


@dataclass(frozen=True, slots=True)
class Token:
    """A run of letters and digits: as written, folded, where, and what stands before it."""

    raw: str
    word: str
    start: int
    end: int
    gap: str

    @property
    def capital(self) -> bool:
        return self.raw[0].isupper()


@dataclass(frozen=True)
class Match:
    """Tokens ``first`` to ``last`` (exclusive) tell something of a class."""

    kind: str
    first: int
    last: int


_CLASSES = (
    ("demographic", "demographic", Rule.ALWAYS),
    ("demographic_near_person", "demographic", Rule.NEAR_PERSON),
    ("people", "demographic", Rule.ORIGIN),
    ("religion", "religion", Rule.ALWAYS),
    ("religion_with_person", "religion", Rule.WITH_PERSON),
    ("health", "health", Rule.ALWAYS),
    ("health_near_person", "health", Rule.NEAR_PERSON),
    ("politics", "politics", Rule.ALWAYS),
    ("brand", "brand", Rule.ALWAYS),
    ("place", "place", Rule.ALWAYS),
)


def plain(text: str) -> str:
    """Without accents, compatibility forms and invisible characters; case is kept."""
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text))
    return "".join(
        c for c in decomposed if not unicodedata.combining(c) and unicodedata.category(c) != "Cf"
    )


def tokenize(text: str) -> list[Token]:
    """The words of a text that went through ``plain``."""
    tokens, end = [], 0
    for found in re.finditer(r"[^\W_]+", text):
        raw, start = found.group(), found.start()
        tokens.append(Token(raw, raw.casefold(), start, found.end(), text[end:start]))
        end = found.end()
    return tokens


def words_of(text: str) -> tuple[str, ...]:
    return tuple(token.word for token in tokenize(plain(text)))


@cache
def entries(name: str) -> tuple[str, ...]:
    """Entries of a word list, as written there."""
    text = (files(__package__) / "lexicons" / f"{name}.txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return tuple(entry.strip() for line in lines for entry in line.split(",") if entry.strip())


@cache
def words(name: str) -> frozenset[str]:
    return frozenset(entry.casefold() for entry in entries(name))


@cache
def class_entries() -> dict[str, tuple[Entry, ...]]:
    """Entries of all classes by their first word."""
    index: dict[str, list[Entry]] = {}
    for name, kind, rule in _CLASSES:
        for written in entries(name):
            entry = Entry(words_of(written), kind, rule, written[0].isupper())
            index.setdefault(entry.words[0], []).append(entry)
    return {first: tuple(found) for first, found in index.items()}


@cache
def safe_phrases() -> dict[str, tuple[tuple[str, ...], ...]]:
    index: dict[str, list[tuple[str, ...]]] = {}
    for written in entries("safe_phrases"):
        phrase = words_of(written)
        index.setdefault(phrase[0], []).append(phrase)
    return {first: tuple(found) for first, found in index.items()}


@cache
def person_names() -> tuple[frozenset[str], frozenset[str]]:
    """Given names and family names, folded, without those that are plain words as well."""
    given: set[str] = set()
    family: set[str] = set()
    for language in NAME_LANGUAGES:
        provider = importlib.import_module(f"faker.providers.person.{language}").Provider
        for attribute in dir(provider):
            into = given if "first_name" in attribute else family
            if "first_name" in attribute or "last_name" in attribute:
                listed = getattr(provider, attribute)
                if not callable(listed):
                    into.update(word for name in listed for word in words_of(name))
    ordinary = frozenset().union(
        *map(words, ("plain_names", "common", "objects", "animals", "persons", "capitalized"))
    )
    return (
        frozenset(name for name in given - ordinary if len(name) > 2),
        frozenset(name for name in family - ordinary if len(name) > 2),
    )


def singulars(word: str) -> Iterator[str]:
    """The word, and what it may be the plural of."""
    yield word
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        yield word[:-1]
        if word.endswith("es"):
            yield word[:-2]
        if word.endswith("ies"):
            yield word[:-3] + "y"


class Reading:
    """A text in words, with what the rules ask of it."""

    def __init__(self, text: str) -> None:
        self.text = plain(text)
        self.tokens = tokenize(self.text)
        self.words = [token.word for token in self.tokens]
        present = set(self.words)
        self.has_person = not present.isdisjoint(words("persons"))
        self.has_animal = not present.isdisjoint(words("animals"))
        self.has_chess = "chess" in present
        long = [token for token in self.tokens if len(token.raw) > 3]
        capitals = sum(token.capital for token in long)
        # in a title or in capitals throughout, a capital tells nothing
        self.case_tells = not (capitals >= 3 and capitals > 0.6 * len(long))
        self.safe = self.marked(phrase for phrase in self._safe_phrases())

    def starts_sentence(self, index: int) -> bool:
        return index == 0 or not _SENTENCE.isdisjoint(self.tokens[index].gap)

    def joined(self, first: int, last: int) -> bool:
        """Whether no punctuation parts the tokens ``first`` to ``last`` (exclusive)."""
        if first < 0 or last > len(self.tokens):
            return False
        return all(_BREAK.isdisjoint(self.tokens[i].gap) for i in range(first + 1, last))

    def marked(self, spans: Iterable[tuple[int, int]]) -> list[bool]:
        marks = [False] * len(self.tokens)
        for first, last in spans:
            marks[first:last] = [True] * (last - first)
        return marks

    def occurrences(self, phrase: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Where exactly these words stand."""
        size, sought = len(phrase), list(phrase)
        for first in range(len(self.words) - size + 1 if size else 0):
            if self.words[first : first + size] == sought:
                yield first, first + size

    def capital_tells(self, index: int) -> bool:
        """Whether the token has a capital that the place in its sentence does not explain."""
        token = self.tokens[index]
        return self.case_tells and token.capital and not self.starts_sentence(index)

    def _safe_phrases(self) -> Iterator[tuple[int, int]]:
        index = safe_phrases()
        for first, word in enumerate(self.words):
            for phrase in index.get(word, ()):
                last = first + len(phrase)
                if tuple(self.words[first:last]) == phrase and self.joined(first, last):
                    yield first, last


def class_matches(reading: Reading) -> Iterator[Match]:
    """Words of the classes, where their use gives something away."""
    for first, last, entry in _listed(reading):
        if all(reading.safe[first:last]) or not reading.joined(first, last):
            continue
        if _reveals(reading, first, last, entry):
            yield Match(entry.kind, first, last)
    yield from _skin(reading)
    yield from _age(reading)


def _listed(reading: Reading) -> Iterator[tuple[int, int, Entry]]:
    index = class_entries()
    for first, word in enumerate(reading.words):
        for form in singulars(word):
            for entry in index.get(form, ()):
                last = first + len(entry.words)
                if len(entry.words) == 1:
                    yield first, last, entry
                elif form == word and last <= len(reading.words):
                    if tuple(reading.words[first + 1 : last - 1]) != entry.words[1:-1]:
                        continue
                    if entry.words[-1] in singulars(reading.words[last - 1]):
                        yield first, last, entry


def _reveals(reading: Reading, first: int, last: int, entry: Entry) -> bool:
    word = reading.words[first]
    if word in words("demographic_of_animals") and _of_an_animal(reading, first, last):
        return False
    if reading.has_chess and entry.words[0] in _CHESS:
        return False
    if entry.cased and not _meant_as_name(reading, first, last, entry):
        return False
    match entry.rule:
        case Rule.NEAR_PERSON:
            return _beside_person(reading, first, last)
        case Rule.WITH_PERSON:
            return reading.has_person
        case Rule.ORIGIN:
            return not _names_a_thing(reading, last)
        case Rule.ALWAYS:
            return True


def _of_an_animal(reading: Reading, first: int, last: int) -> bool:
    following = reading.words[last : last + 2]
    owner = reading.words[first] in _PRONOUNS  # "her dog" tells of the owner
    if not owner and not words("animals").isdisjoint(following) and reading.joined(first, last + 1):
        return True
    return reading.has_animal and words("persons").isdisjoint(
        set(reading.words) - words("demographic_of_animals")
    )


def _meant_as_name(reading: Reading, first: int, last: int, entry: Entry) -> bool:
    if reading.capital_tells(first):
        return True
    around = {*reading.words[max(first - 1, 0) : first], *reading.words[last : last + 1]}
    if entry.kind == "brand":
        return not around.isdisjoint(words("products")) and reading.joined(first, last + 1)
    if not (reading.tokens[first].capital and reading.case_tells) or last >= len(reading.tokens):
        return False
    return reading.tokens[last].capital or not around.isdisjoint(words("persons"))


def _beside_person(reading: Reading, first: int, last: int) -> bool:
    persons = words("persons")
    for index in range(last, min(last + 3, len(reading.words))):
        if not _BREAK.isdisjoint(reading.tokens[index].gap):
            break
        if reading.words[index] in persons:
            return True
        if reading.words[index] in words("function_words") - {"and", "or"}:
            break
    before = reading.words[max(first - 4, 0) : first]
    is_said = not words("copulas").isdisjoint(before[-2:]) and not persons.isdisjoint(before)
    return is_said and reading.joined(first - len(before), last)


def _names_a_thing(reading: Reading, last: int) -> bool:
    for index in range(last, min(last + 2, len(reading.words))):
        if not reading.joined(index - 1, index + 1) or reading.words[index] in words("persons"):
            return False
        if reading.words[index] in words("things_with_origin"):
            return True
    return False


def _skin(reading: Reading) -> Iterator[Match]:
    """Phrases of skin colour ("dark brown skin", "fair-skinned", "skin is pale")."""
    if reading.has_animal and not reading.has_person:
        return
    for index, word in enumerate(reading.words):
        if word not in _SKIN:
            continue
        first = index
        while first and reading.words[first - 1] in words("skin_tones"):
            first -= 1
        if first < index and reading.joined(first, index + 1):
            yield Match("demographic", first, index + 1)
        after = reading.words[index + 1 : index + 4]
        tones = [at for at, other in enumerate(after) if other in words("skin_tones")]
        if tones and not words("copulas").isdisjoint(after[: tones[0]]):
            yield Match("demographic", index, index + 2 + tones[0])


def _age(reading: Reading) -> Iterator[Match]:
    """Ages in years, unless of a thing ("a 100-year-old house")."""
    for index, word in enumerate(reading.words):
        counted = index > 1 and reading.words[index - 1] in ("year", "years", "month", "months")
        following = reading.words[index + 1 : index + 2]
        if counted and word in ("old", "olds"):
            if words("animals").isdisjoint(following) and words("objects").isdisjoint(following):
                yield Match("demographic", index - 2, index + 1)
        elif word == "aged" and following and following[0].isdigit():
            yield Match("demographic", index, index + 2)


def name_matches(reading: Reading, taken: Sequence[bool]) -> Iterator[Match]:
    """Names of persons, and every capital inside a sentence that no rule explains.

    ``taken`` marks the tokens that another class explains.
    """
    given, family = person_names()
    neutral = words("capitalized") | words("people")
    for index, token in enumerate(reading.tokens):
        if taken[index] or reading.safe[index]:
            continue
        if index and _is_title(reading, index - 1) and token.capital and token.raw.isalpha():
            yield Match("name", index, index + 1)
        elif token.word in neutral or len(token.raw) == 1:
            continue
        elif reading.capital_tells(index) and not token.raw[-1].isdigit():
            in_capitals = len(token.raw) > 2 and token.raw.isupper()
            kind = "text" if in_capitals and token.word not in given else "name"
            yield Match(kind, index, index + 1)
        elif token.word in given or (token.word in family and token.capital):
            if token.capital or _in_full_name(reading, index, family):
                yield Match("name", index, index + 1)
        elif index and reading.words[index - 1] == "named" and reading.joined(index - 1, index + 1):
            yield Match("name", index, index + 1)


def _is_title(reading: Reading, index: int) -> bool:
    following = reading.tokens[index + 1].gap
    return reading.words[index] in words("honorifics") and following.strip() in ("", ".")


def _in_full_name(reading: Reading, index: int, family: frozenset[str]) -> bool:
    following = reading.words[index + 1 : index + 2]
    return bool(following) and following[0] in family and reading.joined(index, index + 2)

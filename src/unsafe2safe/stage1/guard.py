"""The leak guard: what is private must not stand in a public text.

Two things are searched: words of the private side itself (readings, findings, names), however
they are spelled, and what a public text may never tell whoever it is about: names, contact data,
places and times, demographic, religious, political and health words, brands. Doubt is a leak: the
caller asks for another text or falls back to a neutral one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rapidfuzz.distance import Levenshtein

from unsafe2safe.core.records import Category, Finding
from unsafe2safe.stage1.lexicon import (
    Match,
    Reading,
    class_matches,
    name_matches,
    person_names,
    singulars,
    words,
    words_of,
)

_SHORTEST = 3  # a one- or two-character reading would match everywhere
_GLUED = 6  # from so many characters on, a term is found inside of a longer word
_READINGS = frozenset({Category.TEXT, Category.PLATE})
_CONFUSABLE = str.maketrans("01l58", "oiisb")  # and "3" for "e", as one edit


@dataclass(frozen=True)
class PrivateSide:
    """All that is known of an image and must not be told."""

    findings: Sequence[Finding]
    private_caption: str


@dataclass(frozen=True)
class Leak:
    """Private: ``term`` is what leaked, and never goes public; ``kind`` may be counted."""

    kind: str
    term: str


@dataclass(frozen=True)
class _Term:
    kind: str
    spelled: str  # folded, without spaces
    seen: str  # the same with confusable characters made one
    edits: int  # so many changed characters still show it


def find_leaks(text: str, private: PrivateSide, allowed: Collection[str] = ()) -> tuple[Leak, ...]:
    """Leaks of ``text``, in the order they stand; none where a phrase of ``allowed`` stands.

    ``allowed`` are the phrases of the replacement plan, which is drawn without looking at the
    image: exactly these words may stand, a word more beside them is judged as ever.
    Kinds: text, contact, name, place, demographic, religion, health, brand, politics, finding.
    """
    reading = Reading(text)
    if not reading.tokens:
        return ()
    permitted = reading.marked(
        span for phrase in allowed for span in reading.occurrences(words_of(phrase))
    )
    matches = [*_private_matches(reading, private), *_contacts(reading), *class_matches(reading)]
    taken = reading.marked((match.first, match.last) for match in matches)
    matches += name_matches(reading, taken)
    leaks_found = {
        Leak(match.kind, _written(reading, match)): None
        for match in sorted(matches, key=lambda match: (match.first, match.last, match.kind))
        if not all(permitted[match.first : match.last])
    }
    return tuple(leaks_found)


def leaks(public_text: str, findings: Iterable[Finding]) -> bool:
    """Whether ``public_text`` repeats what a finding says. The classes are not searched: for texts
    of our own templates."""
    private = PrivateSide(tuple(findings), "")
    return next(_private_matches(Reading(public_text), private), None) is not None


def _written(reading: Reading, match: Match) -> str:
    return reading.text[reading.tokens[match.first].start : reading.tokens[match.last - 1].end]


# The private side ------------------------------------------------------------------------------


def _private_matches(reading: Reading, private: PrivateSide) -> Iterator[Match]:
    terms = set(_terms(private))
    if terms:
        yield from _spelled(reading, terms)
    for finding in private.findings:
        if finding.category not in _READINGS and finding.text:
            yield from _phrases(reading, finding.text)


def _terms(private: PrivateSide) -> Iterator[_Term]:
    objects, common = words("objects"), words("common")
    for finding in private.findings:
        parts = words_of(finding.text)
        kind = "text" if finding.category in _READINGS else "finding"
        if not all(part in objects for part in parts):
            yield from _term(kind, "".join(parts))
        for part in parts:
            if not any(form in objects or form in common for form in singulars(part)):
                yield from _term(kind, part)
    for kind, part in _told(private.private_caption):
        if not any(form in objects or form in common for form in singulars(part)):
            yield from _term(kind, part)


def _term(kind: str, spelled: str) -> Iterator[_Term]:
    size = len(spelled)
    if size < _SHORTEST or (spelled.isdigit() and size < 3) or spelled in words("function_words"):
        return
    edits = 0 if size < 5 or spelled.isdigit() else 1 if size < 10 else 2 if size < 16 else 3
    yield _Term(kind, spelled, _confused(spelled), edits)


@lru_cache(maxsize=64)
def _told(private_caption: str) -> tuple[tuple[str, str], ...]:
    """Names and quoted words of the private caption, which may be told nowhere else."""
    reading = Reading(private_caption)
    given, family = person_names()
    named = [
        ("name", token.word)
        for index, token in enumerate(reading.tokens)
        if len(token.raw) > 2
        and token.word not in words("capitalized")
        and not reading.safe[index]
        and (
            reading.capital_tells(index)
            or (token.capital and (token.word in given or token.word in family))
        )
    ]
    quoted = [
        ("text", word) for found in _QUOTED.finditer(reading.text) for word in words_of(found[0])
    ]
    return (*named, *quoted)


def _confused(spelled: str) -> str:
    """Characters that are read for one another become one."""
    return spelled.translate(_CONFUSABLE).replace("rn", "m").replace("vv", "w")


def _spelled(reading: Reading, terms: Collection[_Term]) -> Iterator[Match]:
    ordinary = words("common") | words("objects")
    longest = max(len(term.spelled) + term.edits for term in terms)
    exactly = {term.seen: term for term in sorted(terms, key=lambda term: term.kind)}
    glued = [term for term in terms if len(term.seen) >= _GLUED]
    by_size: dict[int, list[_Term]] = {}
    for term in terms:
        if term.edits:
            for size in range(len(term.seen) - term.edits, len(term.spelled) + term.edits + 1):
                by_size.setdefault(size, []).append(term)
    for first in range(len(reading.words)):
        written = ""
        for last in range(first + 1, len(reading.words) + 1):
            written += reading.words[last - 1]
            single = last == first + 1
            if len(written) > longest and not single:
                break
            run = _confused(written)
            exact = exactly.get(run)
            if exact is not None:
                if not (single and reading.safe[first]):  # "stop sign" is the thing, not its text
                    yield Match(exact.kind, first, last)
            elif not (single and written in ordinary):
                near = by_size.get(len(written), ())
                inside = glued if single and len(run) > _GLUED else ()
                alike = (term for term in near if _near(written, term) or _near(run, term))
                within = (term for term in inside if term.seen in run)
                yield from (Match(term.kind, first, last) for term in (*alike, *within))


def _near(written: str, term: _Term) -> bool:
    return any(
        Levenshtein.distance(written, form, score_cutoff=term.edits) <= term.edits
        for form in (term.spelled, term.seen)
    )


def _phrases(reading: Reading, told: str) -> Iterator[Match]:
    """Two words or more of a finding that stand together in the text, unless both are plain;
    three or more even then."""
    parts, plain_words = words_of(told), words("common") | words("objects") | words("persons")
    for run in _runs(parts):
        for size in (2, 3):
            for start in range(len(run) - size + 1):
                phrase = run[start : start + size]
                if size == 2 and all(_plain(word, plain_words) for word in phrase):
                    continue
                for first, last in reading.occurrences(phrase):
                    yield Match("finding", first, last)


def _runs(parts: Sequence[str]) -> list[list[str]]:
    runs: list[list[str]] = [[]]
    for part in parts:
        if part in words("function_words"):
            runs.append([])
        else:
            runs[-1].append(part)
    return runs


def _plain(word: str, plain_words: frozenset[str]) -> bool:
    return any(form in plain_words for form in singulars(word))


# Patterns --------------------------------------------------------------------------------------

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"
)
_WAY = r"(?:street|avenue|ave|road|rd|lane|boulevard|blvd|terrace|crescent)"
_QUOTES = r"\"\u201c\u201d\u201e«»"
_QUOTED = re.compile(
    rf"[{_QUOTES}][^{_QUOTES}]*\w[^{_QUOTES}]*[{_QUOTES}]|(?<!\w)['\u2018]\w[^'\u2019]{{1,40}}['\u2019](?!\w)"
)
_PATTERNS: tuple[tuple[str, str], ...] = (
    # e-mail, web, users
    ("contact", r"(?i)[\w.+-]+\s?(?:@|\(at\)|\[at\])\s?[\w-]+(?:\s?\.\s?[\w-]+)*"),
    ("contact", r"(?i)[\w.+-]+ at [\w-]+ ?(?:dot|\.) ?(?:com|org|net|edu|de|fr|uk|io)\b"),
    ("contact", r"(?i)\b(?:https?\s?:\s?/|www\s?\.)\s?\S+"),
    ("contact", r"(?i)\b[\w-]+\s?\.\s?(?:com|org|net)\b"),
    ("contact", r"(?i)\b[\w-]+\.(?:edu|gov|io|de|fr|it|es|nl|pl|eu|co|uk|ch|at|info|app|me)\b"),
    ("contact", r"(?i)\b[\w-]+ dot (?:com|org|net|edu)\b"),
    ("contact", r"(?<!\w)[@#]\s?\w+"),
    ("contact", r"(?i)\b(?:username|user name|handle|screen name)s?:? (?:is |of )?\w*[\d_]\w*"),
    ("contact", r"\b[^\W\d_]+_\w+\b"),
    # telephone and other long numbers, GPS
    ("contact", r"(?<!\w)\+?\(?\d(?:[\s().\-/]{0,2}\d){6,}(?!\w)"),
    ("contact", r"(?<!\w)\d{5,}(?!\w)"),
    ("contact", r"(?<!\w)\d{3}[-. ]\d{4}(?!\w)"),
    ("contact", r"-?\d{1,3}\.\d{3,}\s?°?\s?[NSEW]?\s?,?\s*-?\d{1,3}\.\d{3,}\s?°?"),
    ("contact", r"\d{1,3}(?:\.\d+)?\s?°\s?(?:\d{1,2}\s?['\u2019\u2032].{0,8})?[NSEW]\b"),
    # dates and times
    ("contact", r"(?<!\d)\d{1,4}\s?[-/.]\s?\d{1,2}\s?[-/.]\s?\d{2,4}(?!\d)"),
    ("contact", rf"(?i)\b{_MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?\b(?:,? \d{{4}})?"),
    ("contact", rf"(?i)\b\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH}\b"),
    ("contact", rf"(?i)\b{_MONTH},? (?:19|20)\d\d\b"),
    ("contact", rf"\b(?:in|of|since|until|during|last|next|on|this) {_MONTH}\b"),
    ("contact", r"\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?\b"),
    ("contact", r"(?<![\d,.$])(?:19|20)\d\d(?![\ds,.]\d|\d|s)"),
    ("contact", r"(?i)(?<![\d:])\d{1,2}[:.]\d{2}(?::\d{2})?\s?(?:am|pm|a\.m|p\.m|h|o'clock)\b"),
    ("contact", r"(?<![\d:])\d{1,2}:\d{2}(?::\d{2})?(?![\d:])"),
    ("contact", r"(?i)\b\d{1,2}\s?(?:am|pm|a\.m|p\.m|o['\u2019]?\s?clock)\b"),
    # addresses, numbered places
    ("contact", rf"(?i)\b\d{{1,5}}[a-z]?,? (?:[^\W\d_]+ ){{1,3}}?{_WAY}\b"),
    ("contact", r"(?i)\b[^\W\d_]+(?:strasse|straße|weg|platz|gasse|allee)\s\d+"),
    ("contact", r"(?i)\b(?:rue|via|calle|avenida|avenue|ulica|ul\.) (?:[\w']+ ){1,3}\d+"),
    ("contact", r"(?i)\b(?:p\.?\s?o\.? box|zip code|postcode|postal code)\s\w*\d\w*"),
    ("contact", r"(?i)\b(?:number|no\.|nr\.|room|flight|gate|route|apartment|suite|unit) #?\d+\b"),
    ("place", rf"\b[A-Z]\w+ (?i:{_WAY}|square|bridge|airport|university|college|hospital)\b"),
    # plates
    ("contact", r"(?i)\b(?=\w*\d\w*\d)(?=\w*[a-z]\w*[a-z])(?!\d+(?:st|nd|rd|th|mm|cm|km|kg|ml|px"
                r"|mph|kmh|gb|mb|am|pm)\b)[a-z0-9]{5,9}\b"),
    ("contact", r"\b(?=[A-Z0-9 ·-]*\d[ ·-]?[A-Z0-9 ·-]*\d)(?=[A-Z0-9 ·-]*[A-Z])(?!A \d)"
                r"[A-Z0-9]{1,4}(?:[ ·-]{1,3}[A-Z0-9]{1,5}){1,3}\b"),
    ("contact", r"(?i)\bplates? (?:number )?(?:reads?|reading|says|is|of)? ?(?=\w*\d)[a-z0-9-]+"
                r"(?: (?=\w*\d)[a-z0-9-]+)*"),
    # what is quoted is read
    ("text", _QUOTED.pattern),
    ("text", r"\b(?:reads?|reading|says|saying|spells?|spelling|labell?ed|titled|captioned"
             r"|inscribed|lettered):? [\"']?[A-Z0-9]\w+"),
    ("name", r"\b(?:[Nn]amed|[Cc]alled|[Nn]ametag|[Nn]ame tag|signed by) [A-Z]\w+"),
)  # fmt: skip
_COMPILED = tuple((kind, re.compile(pattern)) for kind, pattern in _PATTERNS)


def _contacts(reading: Reading) -> Iterator[Match]:
    starts = {token.start: index for index, token in enumerate(reading.tokens)}
    for kind, pattern in _COMPILED:
        for found in pattern.finditer(reading.text):
            inside = [
                index
                for start, index in starts.items()
                if found.start() < reading.tokens[index].end and start < found.end()
            ]
            if inside:
                yield Match(kind, inside[0], inside[-1] + 1)

"""Reading what a model wrote when nothing forced it to write JSON.

Wanted things are looked for tolerantly, with one asymmetry: ``unsafe`` is believed in any form,
``safe`` only when it stands alone as the value of the flag and nothing else in the answer says
otherwise. Templates and instructions that the model repeats are not answers.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from unsafe2safe.core.records import PrivacyFlag
from unsafe2safe.stage1.schema import MAX_CAPTION_WORDS, MAX_REVIEW, ReviewItem
from unsafe2safe.vision.matching import normalize_text

_LONGEST = 20_000  # characters; a longer answer is no answer
_LONGEST_VALUE = 200
_DEEPEST = 6
_MOST_BROKEN = 16  # objects that cannot be read; the rest of the text then counts as prose
_ECHO_WORDS = 4  # a line of so many words that stands in the prompt is an echo of it
UNSPECIFIED = "unspecified"

_DECORATION = " \t\r\n*_`\"'<>[](){}#.,;:!=|~-\u2013\u2014\u2192\u2018\u2019\u201c\u201d"
_UNSAFE_WORDS = frozenset({"unsafe", "true", "yes", "1"})
_SAFE_WORDS = frozenset({"safe", "false"})
_LABEL = re.compile(
    r"(?P<start>(?m:^)(?:[^\w\n]|[\d_])*)?"
    r"(?P<name>privacy[\s_*`-]{0,4}flag|(?<![^\W_])flag)\b"
    r"(?P<close>[\s*_`\"'\u201d]{0,6})(?P<separator>(?:is\b|->|[:=\u2192\u2013\u2014-])?)",
    re.IGNORECASE,
)
_CHOICE = re.compile(
    r"\b(?:(?:true|unsafe)\W{0,4}(?:or|[/|,])\W{0,4}(?:false|safe)|"
    r"(?:false|safe)\W{0,4}(?:or|[/|,])\W{0,4}(?:true|unsafe))\b",
    re.IGNORECASE,
)
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")
_BULLET = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*\u2022])\s+")
_NOTHING = frozenset({"", "none", "nothing", "n a", "na", "no", "null", "nothing private"})
_SECTIONS = {
    "review": r"privacy[\s_-]*review|review",
    "private_caption": r"private[\s_-]*(?:caption|description)|full[\s_-]*(?:caption|description)",
    "public_caption": (
        r"public[\s_-]*(?:caption|description)|privacy[\s_-]*preserving[\s_-]*"
        r"(?:caption|description)|safe[\s_-]*(?:caption|description)"
    ),
    "flag": r"privacy[\s_-]*flag|flag",
    "instruction": r"(?:edit(?:ing)?[\s_-]*)?instruction",
    "combined_caption": r"combined[\s_-]*caption",
    "changes": r"changes",
}
_HEADING = re.compile(
    r"^[\W\d_]*(?:" + "|".join(f"(?P<{k}>{v})" for k, v in _SECTIONS.items()) + r")"
    r"[*_`\"'\s]*(?:[:=]+|$)[*_`]*(?P<rest>.*)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Answered:
    """What could be read of an answer; None and '' for what could not."""

    flag: PrivacyFlag | None = None
    review: tuple[ReviewItem, ...] = ()
    private_caption: str = ""
    public_caption: str = ""


class _Evidence(Enum):
    SAFE = 1
    UNSAFE = 2
    DOUBT = 3


def parse_record(text: str, categories: Sequence[str], prompt: str = "") -> Answered:
    """Read review, flag and captions from an answer to ``prompt``. Never raises."""
    if len(text) > _LONGEST:
        return Answered()
    fields = _fields(text, prompt)
    return Answered(
        parse_flag(text, prompt),
        _review(fields.get("review"), categories),
        _caption(fields.get("private_caption"), prompt),
        _caption(fields.get("public_caption"), prompt),
    )


def parse_text(text: str, name: str, prompt: str = "") -> str:
    """The one string that an answer is asked for, such as ``instruction``; '' for none."""
    if len(text) > _LONGEST:
        return ""
    found = _fields(text, prompt).get(name)
    return _line(found) if isinstance(found, str) and not _is_echo(found, prompt) else ""


def parse_list(text: str, name: str, prompt: str = "") -> tuple[str, ...]:
    """A list of strings, such as the ``changes`` an instructor declares."""
    if len(text) > _LONGEST:
        return ()
    found = _fields(text, prompt).get(name)
    if isinstance(found, str):
        found = [line.strip(_DECORATION) for line in found.splitlines()]
    if not isinstance(found, list):
        return ()
    return tuple(_line(item) for item in found if isinstance(item, str) and _line(item))


def parse_flag(text: str, prompt: str = "") -> PrivacyFlag | None:
    """The privacy flag; TRUE means privacy-sensitive, as in the paper. Never raises.

    Contradictions are ``unsafe`` when one side says so plainly, and None when in doubt.
    """
    if len(text) > _LONGEST:
        return None
    found: set[_Evidence] = set()
    outside = _without_choices(_without_echoes(_prose(text), prompt))
    records = [
        record for record in _objects(text) if set(record) & {*_SECTIONS, "privacy_flag"} - {"flag"}
    ]
    answers = records or _objects(text)
    for answer in answers:
        found.update(_flag_values(answer))
    found.update(_labelled(outside))
    bare = normalize_text(outside)
    if bare in _SAFE_WORDS | {"unsafe", "true"} and not answers:
        found.add(_Evidence.SAFE if bare in _SAFE_WORDS else _Evidence.UNSAFE)
    if _Evidence.UNSAFE in found:
        return PrivacyFlag.UNSAFE
    if found != {_Evidence.SAFE} or _says_unsafe(outside):
        return None
    return PrivacyFlag.SAFE


def _flag_values(answer: Mapping[str, Any]) -> Iterator[_Evidence]:
    for key in ("flag", "privacy_flag"):
        for value in answer.get(f"{key}*", [answer[key]] if key in answer else []):
            if isinstance(value, bool):
                yield _Evidence.UNSAFE if value else _Evidence.SAFE
            elif isinstance(value, str):
                yield _value(value)
            elif not isinstance(value, dict):  # a dict is a schema that was repeated
                yield _Evidence.DOUBT


def _value(written: str) -> _Evidence:
    word = " ".join(written.strip(_DECORATION).casefold().split())
    if word in _SAFE_WORDS:
        return _Evidence.SAFE
    words = set(normalize_text(written).split())
    if word in _UNSAFE_WORDS or (words & {"unsafe", "true"} and not _hedged(words)):
        return _Evidence.UNSAFE
    return _Evidence.DOUBT


def _hedged(words: set[str]) -> bool:
    return bool(words & {*_SAFE_WORDS, "not", "no", "if", "or", "when", "unless", "otherwise"})


def _without_choices(text: str) -> str:
    """Without lines such as ``PRIVACY_FLAG: <TRUE or FALSE>``: a template, not an answer."""
    kept = []
    for line in text.splitlines():
        rest, choices = _CHOICE.subn(" ", line)
        if not choices or {*normalize_text(rest).split()} - {"privacy", "flag"}:
            kept.append(line)
    return "\n".join(kept)


def _says_unsafe(text: str) -> bool:
    """Whether text that holds a safe flag also speaks of unsafe, however it is spelled."""
    letters = re.sub(r"[\W\d_]", "", text.casefold())
    return any(word in letters for word in ("unsafe", "notsafe", "true"))


def _labelled(text: str) -> Iterator[_Evidence]:
    """Evidence of each ``PRIVACY_FLAG: ...`` in ``text``, the value beside or under its label."""
    for label in _LABEL.finditer(text):
        names_privacy = label["name"].casefold().startswith("privacy")
        if not label["separator"] and not (label["start"] is not None and names_privacy):
            if names_privacy:
                yield _Evidence.DOUBT
            continue
        written = _beside(text, label.end(), quoted='"' in label["close"])
        evidence = _value(written)
        if evidence == _Evidence.SAFE and label["start"] is None and '"' not in label["close"]:
            evidence = _Evidence.DOUBT  # in running text it may be a quotation
        yield evidence


def _beside(text: str, start: int, quoted: bool) -> str:
    """The rest of the line, or the next line that says something; in JSON the value alone."""
    for line in text[start : start + 2 * _LONGEST_VALUE].splitlines()[:4]:
        if not line.strip(_DECORATION):
            continue
        if len(line) > _LONGEST_VALUE and not quoted:
            return f"{line[:_LONGEST_VALUE]} and more"
        return re.split(r"[,}]", line, maxsplit=1)[0] if quoted else line
    return ""


def _prose(text: str) -> str:
    """What is written around the JSON objects of an answer."""
    kept: list[str] = []
    position = 0
    for start, end, _ in _decoded(text):
        kept.append(text[position:start])
        position = end
    return "\n".join([*kept, text[position:]])


def _objects(text: str) -> list[dict[str, Any]]:
    """All objects of the JSON values in ``text``, nested ones included."""
    found: list[dict[str, Any]] = []
    for _, _, value in _decoded(text):
        _collect(value, found, 0)
    return found


def _collect(value: Any, found: list[dict[str, Any]], depth: int) -> None:
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        found.append(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in list(inner):
        _collect(item, found, depth + 1)


@lru_cache(maxsize=8)
def _decoded(text: str) -> tuple[tuple[int, int, Any], ...]:
    """Start, end and value of each JSON or Python object in ``text``, from left to right."""
    decoder = json.JSONDecoder(object_pairs_hook=_pairs, strict=False)
    found: list[tuple[int, int, Any]] = []
    position, broken = text.find("{"), 0
    while position >= 0 and broken < _MOST_BROKEN:
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            value, end = _lenient(text, position)
        if value is None:
            broken, end = broken + 1, position + 1
        else:
            found.append((position, end, value))
        position = text.find("{", end)
    return tuple(found)


def _lenient(text: str, start: int) -> tuple[Any, int]:
    """An object with trailing commas or in Python's spelling, up to its last possible brace."""
    end = text.rfind("}") + 1
    if end <= start:
        return None, start
    written = _TRAILING_COMMA.sub(r"\1", text[start:end])
    try:
        return json.loads(written, object_pairs_hook=_pairs, strict=False), end
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(written)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None, start
    if not isinstance(value, dict):
        return None, start
    return _pairs([(str(key), item) for key, item in value.items()]), end


def _pairs(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object with plain keys; ``key*`` keeps every value of a key that is given twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        name = re.sub(r"[\W_]+", "_", key.strip().casefold()).strip("_")
        found[name] = value
        found.setdefault(f"{name}*", []).append(value)
    return found


def _fields(text: str, prompt: str) -> dict[str, Any]:
    """Wanted fields by name: from JSON where there is some, else from labelled sections."""
    found: dict[str, Any] = dict(_sections(_without_echoes(text, prompt)))
    for record in _objects(text):
        usable = {k: v for k, v in record.items() if k in _SECTIONS and not isinstance(v, dict)}
        found.update(usable)
    return found


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """``**PUBLIC_CAPTION:** ...``: what follows each heading, up to the next one."""
    name, lines = "", [""]
    for line in text.splitlines():
        heading = _HEADING.match(line)
        if heading is None:
            lines.append(line)
            continue
        if name and _said(lines):
            yield name, _said(lines)
        name = next(key for key in _SECTIONS if heading[key] is not None)
        lines = [heading["rest"]]
    if name and _said(lines):
        yield name, _said(lines)


def _said(lines: Sequence[str]) -> str:
    return "\n".join(lines).strip().removesuffix("```").strip()


def _without_echoes(text: str, prompt: str) -> str:
    return "\n".join(line for line in text.splitlines() if not _is_echo(line, prompt))


def _is_echo(written: str, prompt: str) -> bool:
    words = normalize_text(written)
    return len(words.split()) >= _ECHO_WORDS and words in normalize_text(prompt)


def _line(written: str) -> str:
    """One line without wrapping quotes; '' for a placeholder such as ``<at most 50 words>``."""
    line = " ".join(written.split())
    while len(line) > 1 and (line[0], line[-1]) in {('"', '"'), ("'", "'"), ("“", "”"), ("*", "*")}:
        line = line[1:-1].strip()
    line = line.removesuffix('",').strip().removeprefix('"').strip()
    placeholder = re.fullmatch(r"<.*>|\[.*\]|\.{2,}|…|\$\w+", line)
    return "" if placeholder or not normalize_text(line) else line


def _caption(found: Any, prompt: str) -> str:
    if not isinstance(found, str) or _is_echo(found, prompt):
        return ""
    return " ".join(_line(found).split()[:MAX_CAPTION_WORDS])


def _review(found: Any, categories: Sequence[str]) -> tuple[ReviewItem, ...]:
    """Up to five items; those that say "none" are none."""
    if isinstance(found, str):
        lines = (_BULLET.sub("", line) for line in found.splitlines())
        found = [line for line in lines if line.strip(_DECORATION)]
    if not isinstance(found, list):
        return ()
    items = [_item(entry, categories) for entry in found]
    return tuple(item for item in items if item is not None)[:MAX_REVIEW]


def _item(entry: Any, categories: Sequence[str]) -> ReviewItem | None:
    if isinstance(entry, dict):
        parts = [str(entry.get(key) or "") for key in ("what", "why", "category")]
        what, why, category = (" ".join(part.split()) for part in parts)
    elif isinstance(entry, str):
        what, _, why = (part.strip(_DECORATION) for part in entry.partition(":"))
        category = ""
    else:
        return None
    if normalize_text(what) in _NOTHING:
        return None
    known = normalize_text(category).replace(" ", "_")
    name = known if known in categories else UNSPECIFIED
    return ReviewItem(what=what[:80], why=why[:80], category=name)

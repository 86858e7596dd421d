"""Captions from what the detectors saw: a private one (everything) and a public one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from unsafe2safe.core.records import Box, Category, Finding
from unsafe2safe.stage1.inspect import Inspection

_NUMBERS = ("no", "one", "two", "three", "four", "five")
_IRREGULAR = {"knife": "knives", "mouse": "mice", "sheep": "sheep", "skis": "skis"}


def public_caption(seen: Inspection) -> str:
    """Scene and objects, without anything that a finding names beyond "a person"."""
    things = _things(seen)
    if not things:
        return f"A {_shape(seen)} photo without a recognized object."
    return f"A {_shape(seen)} photo of {_listed(things)}."


def private_caption(seen: Inspection) -> str:
    """The public caption and every finding with its place and its text."""
    details = [_detail(finding, seen) for finding in seen.findings]
    return " ".join([public_caption(seen), *details])


def place(box: Box, width: int, height: int) -> str:
    """Where a box lies, in words."""
    x = (box.x + box.width / 2) / max(width, 1)
    y = (box.y + box.height / 2) / max(height, 1)
    column = "on the left" if x < 1 / 3 else "on the right" if x > 2 / 3 else "in the middle"
    row = " at the top" if y < 1 / 4 else " at the bottom" if y > 3 / 4 else ""
    return column + row


def _things(seen: Inspection) -> list[str]:
    things = []
    if seen.persons:
        things.append("a person" if seen.persons == 1 else f"{_number(seen.persons)} people")
    labels = Counter(item.label for item in seen.objects)
    for label, count in sorted(labels.items(), key=lambda pair: (-pair[1], pair[0])):
        if count > 1:
            things.append(f"{_number(count)} {_plural(label)}")
            continue
        box = next(item.box for item in seen.objects if item.label == label)
        things.append(f"{_article(label)} {label} {place(box, seen.width, seen.height)}")
    return things


def _detail(finding: Finding, seen: Inspection) -> str:
    if finding.box is None:
        return "The file's metadata tells where it was taken."
    where = place(finding.box, seen.width, seen.height)
    match finding.category:
        case Category.TEXT:
            return f'The text "{finding.text}" is readable {where}.'
        case Category.PLATE:
            return f'A plate reads "{finding.text}" {where}.'
        case Category.FACE:
            return f"A face is visible {where}."
        case Category.HEAD:
            return f"A person whose face is not visible is {where}."
        case _:
            return f"A person is {where}."


def _shape(seen: Inspection) -> str:
    ratio = seen.width / max(seen.height, 1)
    return "wide" if ratio > 1.15 else "tall" if ratio < 1 / 1.15 else "square"


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else "several"


def _plural(label: str) -> str:
    if label in _IRREGULAR:
        return _IRREGULAR[label]
    return label + ("es" if label.endswith(("s", "ch", "sh", "x")) else "s")


def _article(label: str) -> str:
    return "an" if label[:1] in "aeiou" else "a"


def _listed(things: Sequence[str]) -> str:
    if len(things) == 1:
        return things[0]
    return ", ".join(things[:-1]) + " and " + things[-1]

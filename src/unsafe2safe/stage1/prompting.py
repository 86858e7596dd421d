"""Prompts and criteria: texts from ``prompts/``, filled in and versioned by their hash."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from string import Template

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from unsafe2safe.core.errors import ConfigError
from unsafe2safe.core.records import Category
from unsafe2safe.stage1.caption import place
from unsafe2safe.stage1.inspect import Inspection
from unsafe2safe.stage1.instruct import Plan, planned_words

_FILES = resources.files("unsafe2safe.stage1.prompts")
_MOST_HINTS = 12
_LONGEST_HINT = 60
_DETECTED = {str(category) for category in Category}


class Criterion(BaseModel):
    """One thing that makes a picture private. The name is public: it becomes a triplet's reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{1,39}$")
    description: str = Field(min_length=3, max_length=400)


_CRITERIA = TypeAdapter(tuple[Criterion, ...])


@cache
def prompt_text(name: str) -> str:
    return (_FILES / name).read_text("utf-8").strip()


def fill(name: str, **values: str) -> str:
    """The prompt ``name`` with every ``$placeholder`` filled in."""
    return Template(prompt_text(f"{name}.txt")).substitute(values)


def builtin_criteria() -> tuple[Criterion, ...]:
    """The nine categories of the package."""
    return _CRITERIA.validate_python(yaml.safe_load(prompt_text("categories.yaml")))


def read_criteria(path: Path) -> tuple[Criterion, ...]:
    """A user's own criteria: a YAML list of ``name`` and ``description``.

    Raises:
        ConfigError: the file cannot be read, or an entry is not as it should be.
    """
    section = f"stage1.criteria={path}"
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{section} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"{section} is not a YAML file") from None
    if not isinstance(content, list) or not content:
        raise ConfigError(f"{section} is no list of entries with a name and a description")
    try:
        criteria = _CRITERIA.validate_python(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"][1:]) or "entry"
        message = fault["msg"][:1].lower() + fault["msg"][1:]
        raise ConfigError(f"{section}: entry {fault['loc'][0]}: {where}: {message}") from None
    names = [criterion.name for criterion in criteria]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{section} names {name!r} twice")
        # A reason "location" means: nothing but the file's metadata. No model may say that.
        if name in _DETECTED - {"text"}:
            raise ConfigError(f"{section}: {name!r} is what the detectors call theirs; rename it")
    return criteria


class Questions:
    """What the VLM is asked about a picture, for one set of criteria.

    With criteria of the user's own the package's list of what is always private is left out.
    """

    def __init__(self, criteria: Path | None) -> None:
        self.criteria = read_criteria(criteria) if criteria else builtin_criteria()
        self.categories = tuple(criterion.name for criterion in self.criteria)
        self._listed = "\n".join(f"- {c.name}: {c.description}" for c in self.criteria)
        self._always = "" if criteria else f"\n{prompt_text('always.txt')}\n"

    @property
    def hash(self) -> str:
        """Changes with any word of any prompt or criterion."""
        texts = {
            file.name: prompt_text(file.name)
            for file in _FILES.iterdir()
            if file.name.endswith((".txt", ".yaml"))
        }
        content = json.dumps([sorted(texts.items()), self._listed, self._always])
        return blake2b(content.encode(), digest_size=8).hexdigest()

    def ask(self, name: str, label: str | None, hints: str) -> str:
        """The prompt ``name`` (``single``, ``caption``, ``flag``) for one picture."""
        told = f"\nThe data set files the picture under: {label}\n" if label else ""
        return fill(name, criteria=self._listed, always=self._always, label=told, hints=hints)


def hints_of(seen: Inspection) -> str:
    """What the detectors found, for a VLM that looks at the same picture; '' for nothing."""
    lines = []
    for finding in seen.findings[:_MOST_HINTS]:
        if finding.box is None:
            continue
        read = f": {json.dumps(finding.text[:_LONGEST_HINT])}" if finding.text else ""
        lines.append(f"- {finding.category}, {place(finding.box, seen.width, seen.height)}{read}")
    if not lines:
        return ""
    return "\nDetectors, which also err, point at:\n" + "\n".join(lines) + "\n"


def instruction_prompt(public_caption: str, plan: Plan | None, has_text: bool, draft: int) -> str:
    """What the instructor reads: the public caption and the plan, nothing else of the picture.

    ``plan=None`` leaves the choice of changes to it. ``draft`` counts earlier attempts; it is not
    told what was wrong with them.
    """
    again = f" Draft {draft + 1}: word it unlike an obvious first draft." if draft else ""
    if plan is None:
        text = " Replace all text with plain unreadable strokes." if has_text else ""
        return fill("instruct_free", caption=public_caption, text=text, draft=again)
    lines = "\n".join(f"- {line}" for line in planned_words(public_caption, plan, has_text))
    return fill("instruct_plan", caption=public_caption, plan=lines, draft=again)


def leak_prompt(caption: str, terms: Sequence[str]) -> str:
    """Asks the VLM, which holds the picture, for a caption without ``terms``."""
    return fill("leak", caption=caption, terms="; ".join(json.dumps(t) for t in terms))

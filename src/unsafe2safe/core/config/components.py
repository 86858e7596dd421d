"""Components: parts of the configuration that name the class they configure by ``_target_``.

A component class is a frozen pydantic dataclass (see :func:`component`), so its annotated fields
are its configuration schema: an unknown key or a wrong type is an error that names the nearest
right key. A new editor, data set or metric is thereby one file and one YAML.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, dataclass_transform

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from unsafe2safe.core.errors import ConfigError

Built = TypeVar("Built")

_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


class Strict(BaseModel):
    """Base of the configuration's own sections: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def component(cls: type[Built]) -> type[Built]:
    """Make ``cls`` a frozen keyword-only dataclass whose fields are validated configuration."""
    return pydantic_dataclass(cls, frozen=True, kw_only=True, config=_STRICT)  # type: ignore[return-value]


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint ``; did you mean 'x'?``, or the list of what is known when nothing is near."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if len(names) <= 12 else ""


def explain(error: ValidationError, section: str, known: Iterable[str]) -> ConfigError:
    """One line for the first fault pydantic found in ``section``."""
    fault = error.errors(include_url=False)[0]
    parts = [str(part) for part in fault["loc"] if part not in ("args", "kwargs")]
    key = ".".join([section, *parts] if section else parts)
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return ConfigError(f"unknown key {key!r}{nearest(parts[-1] if parts else '', known)}")
    message = fault["msg"][:1].lower() + fault["msg"][1:]
    if fault["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return ConfigError(f"{key} is not set")
    return ConfigError(f"{key}={fault['input']!r}: {message}")


def target_class(settings: Mapping[str, Any], section: str) -> type[Any]:
    """The class that ``settings['_target_']`` names.

    Raises:
        ConfigError: when there is no ``_target_`` or it cannot be imported.
    """
    target = settings.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{section} names no component (its _target_ is {target!r})")
    module_name, _, class_name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{section}._target_={target}: {error}") from None
    if not isinstance(found, type):
        raise ConfigError(f"{section}._target_={target} is not a class")
    return found


def build(settings: Mapping[str, Any], section: str, expected: type[Built]) -> Built:
    """Construct the component that ``settings`` describes, checked against its class's fields.

    Raises:
        ConfigError: unknown key, wrong type, or a class that is not an ``expected``.
    """
    cls = target_class(settings, section)
    fields = {key: value for key, value in settings.items() if key != "_target_"}
    known = set(getattr(cls, "__dataclass_fields__", {}))
    try:
        built = TypeAdapter(cls).validate_python(fields)
    except ValidationError as error:
        raise explain(error, section, known) from None
    if not isinstance(built, expected):
        raise ConfigError(f"{section}._target_ is no {expected.__name__}")
    return built

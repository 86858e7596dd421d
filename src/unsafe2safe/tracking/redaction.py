"""The configuration as a tracker may see it: without any place of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "<redacted>"

# Keys that always name places, whatever their value looks like.
_PLACES = (
    *("paths", "output_dir", "pairs", "triplets", "adapter"),
    *("runs", "originals", "edited", "evaluations"),
)
_PLACE_ENDINGS = ("pairs", "root", "weights", "adapter", "folder", "path", "dir")
# A path from a root, a home, a drive or a share, anywhere in a text; or one that climbs.
_ABSOLUTE = re.compile(
    r"(^|[\s'\"=,:(\[])(/|~|\\\\)[^\s]|[A-Za-z]:[\\/]|file://|(^|[\\/])\.\.([\\/]|$)"
)


def redact_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with every place of this machine replaced.

    Replaced are the values of keys that name places (``paths.*``, ``output_dir``,
    ``dataset.root``, inputs, weights) and any text that holds an absolute or climbing path.
    """
    return {
        str(key): _redact(value, str(key) in _PLACES, str(key)) for key, value in config.items()
    }


def _redact(value: Any, is_place: bool, key: str) -> Any:
    place = is_place or any(key == end or key.endswith(f"_{end}") for end in _PLACE_ENDINGS)
    if isinstance(value, Mapping):
        return {str(k): _redact(v, place, str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_redact(item, place, key) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return REDACTED if place or _ABSOLUTE.search(text) else text

"""Length bounds of JSON strings, kept beside the grammar.

A grammar that counts to 320 costs xgrammar about ten seconds to compile at 150,000 tokens, and time
at every token; counting the characters of the one open string costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Shorter strings are counted by the grammar itself, at little cost. A token that closes one
#: string and opens the next is far shorter than this, so no string begins beyond its bound.
COUNTED_FROM = 32

_QUOTE, _ESCAPE = ord('"'), ord("\\")


def counted_here(schema: Any) -> dict[str, int]:
    """The bound of each property whose string, or list of strings, has one of at least 32.

    A name that stands for different bounds in different places is left to the grammar, and so is
    whatever is not of this form (references, alternatives).
    """
    found: dict[str, set[int]] = {}
    _collect(schema, found)
    return {
        name: bound
        for name, bounds in found.items()
        if len(bounds) == 1 and (bound := next(iter(bounds))) >= COUNTED_FROM
    }


def _collect(schema: Any, found: dict[str, set[int]]) -> None:
    if isinstance(schema, list):
        for part in schema:
            _collect(part, found)
    if not isinstance(schema, dict):
        return
    properties = schema.get("properties")
    for name, value in properties.items() if isinstance(properties, dict) else ():
        found.setdefault(name, set()).add(bound_of(value))
    for part in schema.values():
        _collect(part, found)


def bound_of(value: Any) -> int:
    """The bound of a free string or a list of such; 0 for anything else."""
    if isinstance(value, dict) and value.get("type") == "array":
        value = value.get("items")
    if not isinstance(value, dict) or not is_free_string(value):
        return 0
    return int(value.get("maxLength", 0))


def is_free_string(schema: Mapping[str, Any]) -> bool:
    """A string that the schema bounds in length at most."""
    taken = {"enum", "const", "pattern", "format"} & schema.keys()
    return schema.get("type") == "string" and not taken


class OpenString:
    """Reads JSON text as it grows, and knows how many characters its open string may still get."""

    def __init__(self, bounds: Mapping[str, int]) -> None:
        self._bounds = bounds
        self._open = False
        self._escaped = False
        self._characters = 0
        self._text = bytearray()
        self._containers: list[int] = []
        self._key = ""
        self._key_follows = False

    def read(self, spelled: bytes) -> None:
        """Read the bytes of the next token, which may end within a character."""
        for byte in spelled:
            if self._open:
                self._read_inside(byte)
            else:
                self._read_outside(byte)

    def room(self) -> int | None:
        """Characters that the open string may still get; None where no bound is counted here."""
        if not self._open or self._key_follows or self._key not in self._bounds:
            return None
        return max(0, self._bounds[self._key] - self._characters)

    def _read_inside(self, byte: int) -> None:
        if byte == _QUOTE and not self._escaped:
            self._open = False
            if self._key_follows:
                self._key = self._text.decode("utf-8", "replace")
                self._key_follows = False
            return
        self._escaped = byte == _ESCAPE and not self._escaped
        self._text.append(byte)
        self._characters += not _continues(byte)

    def _read_outside(self, byte: int) -> None:
        if byte == _QUOTE:
            self._open, self._escaped, self._characters = True, False, 0
            self._text.clear()
        elif byte in b"{[":
            self._containers.append(byte)
            self._key_follows = byte == ord("{")
        elif byte in b"}]":
            if self._containers:
                self._containers.pop()
            self._key_follows = False
        elif byte == ord(","):
            self._key_follows = self._containers[-1:] == [ord("{")]


def characters_before_quote(spelled: bytes) -> int:
    """How many characters a token adds to an open string: those up to its first quote."""
    return sum(not _continues(byte) for byte in spelled.split(b'"', 1)[0])


def _continues(byte: int) -> bool:
    """Whether a UTF-8 byte goes on with a character that an earlier byte began."""
    return byte & 0xC0 == 0x80

"""The leak guard: no string of a finding may stand in a public text."""

from __future__ import annotations

from collections.abc import Iterable

from unsafe2safe.core.records import Finding
from unsafe2safe.vision.matching import text_leaks

# A weak match is still a leak: better a neutral caption than a name in public.
LEAK_RATIO = 85.0
_SHORTEST = 3  # a one- or two-character reading would match everywhere


def leaks(public_text: str, findings: Iterable[Finding]) -> bool:
    """Whether ``public_text`` repeats a text that was read in the image."""
    private = [f.text for f in findings if len(f.text.strip()) >= _SHORTEST]
    return any(text_leaks(private, [public_text], LEAK_RATIO))

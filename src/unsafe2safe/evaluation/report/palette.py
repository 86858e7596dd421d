"""The report's colours in light and in dark, for the page and for what Plotly draws.

Text and marks keep the contrasts that WCAG 2.2 AA asks for: 4.5 for text, 3 for what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Colour(NamedTuple):
    """The same colour on a light and on a dark page."""

    light: str
    dark: str


PALETTE = {
    "page": Colour("#faf9f7", "#13151a"),
    "card": Colour("#ffffff", "#1b1e25"),
    "raised": Colour("#f3f2ee", "#242832"),
    "ink": Colour("#1b1f27", "#e8eaef"),
    "soft": Colour("#565e6c", "#a4acba"),
    "line": Colour("#e3e1dc", "#2f343e"),
    "edge": Colour("#8a8f99", "#6d7686"),
    "accent": Colour("#0a675a", "#5fd0bb"),
    "wash": Colour("#e3f1ed", "#17332e"),
    "area": Colour("#eef6f4", "#182a29"),
    "good": Colour("#1b6b3a", "#71d49a"),
    "bad": Colour("#a8261c", "#ff9a8f"),
    "c0": Colour("#0a675b", "#5fd0bc"),
    "c1": Colour("#a2460f", "#f2a36b"),
    "c2": Colour("#4a3fa8", "#b0a6ff"),
    "c3": Colour("#9c1f5c", "#f58fc0"),
    "c4": Colour("#1c5fa8", "#84bdf7"),
    "c5": Colour("#6b6400", "#d8cf5a"),
    "reference": Colour("#6a7280", "#9aa3b2"),
}
SERIES = tuple(name for name in PALETTE if name.startswith("c") and name[1:].isdigit())


def series(index: int, kind: str) -> str:
    """Which colour row number ``index`` has: references share a grey."""
    return "reference" if kind == "reference" else SERIES[index % len(SERIES)]


def css() -> str:
    """The colours as custom properties that follow ``color-scheme``."""
    return "\n".join(
        f"  --{name}: light-dark({colour.light}, {colour.dark});"
        for name, colour in PALETTE.items()
    )


def dark_of_light() -> dict[str, str]:
    """What the script exchanges in a figure on a dark page; no light colour stands for two."""
    return {colour.light: colour.dark for colour in PALETTE.values()}


def contrast(first: str, second: str) -> float:
    """Contrast of two colours (``#rrggbb``) as WCAG defines it, from 1 to 21."""
    high, low = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels: Sequence[float] = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

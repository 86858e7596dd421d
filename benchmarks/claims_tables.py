"""The tables of the claims, from their committed results into the pages of the docs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "docs" / "claims"
PAGES = (
    REPOSITORY / "docs" / "tiny_editor.md",
    REPOSITORY / "src" / "unsafe2safe" / "assets" / "tiny" / "README.md",
)

_COLUMNS = {
    "followed": "followed",
    "followed_glasses": "glasses",
    "leaked": "leaked",
    "leaked_letters": "letters leaked",
    "reidentified": "rank 1",
    "outside_ssim": "SSIM outside",
    "outside_psnr": "PSNR outside",
}


def tables(name: str) -> str:
    """The tables of a claim as Markdown, from its committed result."""
    result = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    lines: list[str] = []
    if result["bars"]:
        lines += ["| asked | found | bound | |", "|---|---|---|---|"]
        for bar in result["bars"]:
            sign = "at least" if bar["least"] else "at most"
            met = "met" if bar["met"] else "**missed**"
            value, bound = _told(bar["value"]), _told(bar["bound"])
            lines.append(f"| {bar['what']} | {value} | {sign} {bound} | {met} |")
        lines.append("")
    for measured, rows in sorted(result["measured"].items()):
        lines.append(f"| {measured} | {' | '.join(_COLUMNS.values())} |")
        lines.append("|---" * (len(_COLUMNS) + 1) + "|")
        for row, figures in rows.items():
            cells = (_cell(figures[name]) for name in _COLUMNS)
            lines.append(f"| {row} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    told = _told(figure["value"])
    if not figure["interval"] or figure["interval"][0] == figure["interval"][1]:
        return told
    low, high = figure["interval"]
    return f"{told} ({_told(low)} to {_told(high)})"


def _told(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def write_tables() -> None:
    """Put the tables of all results into the pages, between their marks."""
    for page in PAGES:
        page.write_text(with_tables(page.read_text("utf-8")), "utf-8")


def with_tables(page: str) -> str:
    """``page`` with what stands between ``<!-- NAME -->`` and ``<!-- end -->`` made anew."""
    for result in sorted(RESULTS.glob("*.json")):
        name = result.stem
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        if begin not in page:
            continue
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}{tables(name)}{end}{rest.partition(end)[2]}"
    return page

"""A page as its readers open it: headless Chromium, from the file system, with the network cut."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
_NEEDS_NO_NETWORK = ("file:", "data:", "blob:", "about:")


@dataclass
class Opened:
    """A page, what its console said, and what it asked for beyond itself."""

    page: Any
    said: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless browser with a profile of its own.

    Skips the test where Chromium is not installed (a failure with CI=1).
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("chromium is not installed (Debian: chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield started
        finally:
            started.close()


@contextmanager
def opened(
    started: Any,
    path: Path,
    *,
    width: int = 1400,
    scheme: Literal["light", "dark"] = "light",
    before: str = "",
) -> Iterator[Opened]:
    """``path`` in a window of its own, once its drawings stand; ``before`` is run ahead of it."""
    context = started.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    try:
        found = Opened(context.new_page())
        found.page.on("console", lambda message: found.said.append(message.text))
        found.page.on("pageerror", lambda error: found.said.append(str(error)))
        found.page.on("request", lambda request: _note(found, request.url))
        if before:
            found.page.add_init_script(before)
        found.page.goto(path.as_uri())
        found.page.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
        yield found
    finally:
        context.close()


def _note(found: Opened, address: str) -> None:
    if not address.startswith(_NEEDS_NO_NETWORK):
        found.fetched.append(address)

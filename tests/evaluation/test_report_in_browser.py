"""The report in a real browser: by mouse and keyboard, in the dark, on a phone, on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Opened, browser, opened
from evaluation.full_report import full_evaluation, full_shown, settings

from unsafe2safe.evaluation.report.page import render
from unsafe2safe.evaluation.report.palette import PALETTE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report") / "report.html"
    shown = full_shown(originals=True)
    place.write_text(render(full_evaluation(), shown, settings(include_originals=True)))
    return place


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def shared(chromium: Any, path: Path) -> Iterator[Opened]:
    with opened(chromium, path) as found:
        yield found


@pytest.fixture
def page(shared: Opened) -> Any:
    shared.page.keyboard.press("Escape")
    shared.page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    return shared.page


@pytest.fixture(autouse=True)
def silence(shared: Opened) -> Iterator[None]:
    """Whatever a test does: no error, and nothing asked for."""
    yield
    assert shared.said == []
    assert shared.fetched == []


def style(page: Any, selector: str, name: str) -> str:
    return str(page.eval_on_selector(selector, f"e => getComputedStyle(e).{name}"))


def test_the_slider_moves_by_mouse_and_by_keyboard(page: Any) -> None:
    slider = page.locator(".slider").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    dragged = int(slider.input_value())
    assert 70 <= dragged <= 90
    assert f"{dragged}%" in style(page, ".after", "clipPath")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert int(slider.input_value()) == dragged - 2
    assert slider.get_attribute("aria-valuetext") == f"{dragged - 2} % original"
    page.keyboard.press("Home")
    assert "0%" in style(page, ".after", "clipPath")
    assert style(page, ".frame:has(.slider:focus-visible)", "outlineStyle") == "solid"


def test_the_theme_turns_with_its_drawings_by_mouse_and_by_keyboard(page: Any) -> None:
    def seen() -> tuple[str, str, str | None]:
        drawn = "#tradeoff .plot:not([hidden]) .main-svg"
        pressed = page.get_attribute("#theme", "aria-pressed")
        return (
            style(page, "body", "backgroundColor"),
            style(page, drawn, "backgroundColor"),
            pressed,
        )

    def as_rgb(colour: str) -> str:
        return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"

    light, dark = (
        (as_rgb(PALETTE["page"][i]), as_rgb(PALETTE["card"][i]), told)
        for i, told in ((0, "false"), (1, "true"))
    )
    assert seen() == light
    page.click("#theme")
    assert seen() == dark
    page.focus("#theme")
    page.keyboard.press("Space")
    assert seen() == light
    page.keyboard.press("Enter")
    page.reload()
    page.wait_for_selector("html[data-drawn]", state="attached")
    assert seen() == dark  # kept
    page.click("#theme")
    assert seen() == light


def test_the_theme_turns_where_nothing_may_be_stored(chromium: Any, path: Path) -> None:
    refuse = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no'); }})"
    with opened(chromium, path, before=refuse) as found:
        found.page.click("#theme")
        assert found.page.get_attribute("#theme", "aria-pressed") == "true"
        assert found.said == []


def test_tabs_turn_by_arrows_and_show_one_group_at_a_time(page: Any) -> None:
    def open_panels() -> list[str]:
        return [p.get_attribute("id") for p in page.locator("[role=tabpanel]:visible").all()]

    page.click("#tab-privacy")
    assert open_panels() == ["panel-privacy"]
    for key, group in (
        ("ArrowRight", "cheating"), ("End", "utility"), ("ArrowRight", "privacy"),
        ("ArrowLeft", "utility"), ("Home", "privacy"),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert open_panels() == [f"panel-{group}"]
        assert page.evaluate("document.activeElement.id") == f"tab-{group}"
    assert page.locator("[role=tab][tabindex='-1']").count() == 3  # one stop for all of them


def test_the_keyboard_skips_to_the_figures_and_each_of_its_stops_is_seen(
    chromium: Any, path: Path
) -> None:
    with opened(chromium, path) as found:
        page = found.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.locator(".skip").bounding_box()["x"] >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#headline"
        stops, unseen = 0, []
        while stops < 300:
            page.keyboard.press("Tab")
            kind, ring, told = page.evaluate(
                """() => { const e = document.activeElement, s = getComputedStyle(e);
                const frame = e.closest('.frame'), f = frame && getComputedStyle(frame);
                const ring = s.outlineStyle !== 'none' || (f && f.outlineStyle !== 'none');
                return [e.tagName, ring, e.outerHTML.slice(0, 80)]; }"""
            )
            if kind == "BODY":  # once around
                break
            stops += 1
            if not ring:
                unseen.append(told)
        assert 30 < stops < 300
        assert unseen == []


def test_drawings_follow_what_is_chosen(page: Any) -> None:
    drawn = "#tradeoff .plot:not([hidden])"
    assert page.locator(f"{drawn} .scatterlayer .trace").count() == 9  # 7 rows, area, front
    page.select_option("#plane-choice", index=1)
    assert page.locator(drawn).get_attribute("id") == "plane-text_leak_recall.ssim_outside"
    assert "Text read back" in page.locator(f"{drawn} .ytitle").text_content()
    page.check("#close-up")
    assert page.eval_on_selector(drawn, "e => e.layout.xaxis.range[0]") > 0.8
    page.uncheck("#close-up")
    page.select_option("#spread-metric", "ssim_outside")
    assert page.locator("#spread-plot .violinlayer .trace").count() == 7
    page.check("[name=spread-form][value=ecdf]")
    assert page.locator("#spread-plot .scatterlayer .trace").count() == 7
    steps = page.eval_on_selector("#spread-plot", "e => [e.data[0].y.at(0), e.data[0].y.at(-1)]")
    assert steps == [0, 1]
    page.check("[name=spread-form][value=box]")
    assert page.locator("#spread-plot .boxlayer .trace").count() == 7
    assert "tiny with ladder: median 0." in page.get_attribute("#spread-plot", "aria-label")
    page.select_option("#stratum-choice", index=6)
    assert page.locator("[data-stratum]:visible").count() == 1


def test_pictures_are_ordered_from_the_worst_and_masks_are_outlined(page: Any) -> None:
    def names() -> list[str]:
        return [text[:4] for text in page.locator(".gallery figcaption").all_inner_texts()]

    def order() -> list[str]:
        return page.eval_on_selector_all(
            ".gallery figcaption > span:last-child", "all => all.map(e => e.firstChild.data)"
        )

    page.select_option("#sort", "face_leak_rate")
    assert order()[:2] == ["0007vic.png", "0006cof.png"]  # most leaked first
    assert order()[-2:] == ["0001cat.png", "0005cat.png"]  # not edited, no value
    page.select_option("#sort", "ssim_outside")
    assert order()[0] == "0007vic.png"  # least kept first
    assert "SSIM outside the masks 0.930" in page.locator(".gallery figure").first.inner_text()
    assert style(page, ".outline", "display") == "none"
    page.click("#masks")
    assert style(page, ".outline", "display") == "block"
    page.click("#masks")


def test_details_are_shown_on_demand(page: Any) -> None:
    assert page.locator(".detail:visible").count() == 0
    page.check("#details")
    assert "tar at far 0.001: 0.012" in page.locator(".detail:visible").first.inner_text()
    page.uncheck("#details")


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(chromium: Any, path: Path, scheme: Any, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with opened(chromium, path, width=width, scheme=scheme) as found:
        found.page.evaluate(
            "document.querySelectorAll('details').forEach(part => { part.open = true; })"
        )
        faults = Axe().run(found.page).response["violations"]
        told = {
            fault["id"]: fault["nodes"][0]["html"][:200]
            for fault in faults
            if fault["impact"] in ("serious", "critical")
        }
        assert told == {}
        assert found.said == []
        assert found.fetched == []


@pytest.mark.parametrize("width", [320, 400, 768])
def test_a_narrow_window_scrolls_down_only(chromium: Any, path: Path, width: int) -> None:
    with opened(chromium, path, width=width) as found:
        assert found.page.evaluate("document.documentElement.scrollWidth") <= width
        small = found.page.eval_on_selector_all(
            "button:not([hidden]), select, .slider",
            "all => all.filter(e => e.offsetParent && e.offsetHeight < 24).map(e => e.outerHTML)",
        )
        assert small == []


def test_paper_shows_all_groups_in_light_and_no_controls(
    chromium: Any, path: Path, tmp_path: Path
) -> None:
    with opened(chromium, path, scheme="dark") as found:
        page = found.page
        page.click("#theme")
        page.click("#theme")
        page.emulate_media(media="print")
        assert page.locator("[role=tabpanel]:visible").count() == 4
        assert page.locator("button:visible, select:visible, nav:visible").count() == 0
        assert style(page, "body", "backgroundColor") == "rgb(255, 255, 255)"
        assert style(page, "h1", "color") == "rgb(27, 31, 39)"
        page.pdf(path=tmp_path / "report.pdf")
        assert (tmp_path / "report.pdf").stat().st_size > 50_000
        assert found.said == []

"""What the page and the tables for papers tell of an evaluation that has everything."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from evaluation.full_report import (
    IMAGES,
    METRICS,
    REASONS,
    ROWS,
    full_evaluation,
    full_shown,
    image_values,
    settings,
)
from jsonschema import Draft202012Validator

from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.exports import escape, latex_table, schema_json, write_exports
from unsafe2safe.evaluation.report import tradeoffs
from unsafe2safe.evaluation.report.cells import best_of, full_scale, make_cell, number
from unsafe2safe.evaluation.report.page import render
from unsafe2safe.evaluation.report.palette import PALETTE, SERIES, contrast, dark_of_light
from unsafe2safe.evaluation.report.per_image import distributions, read_values, worst_metric
from unsafe2safe.evaluation.report.pictures import outline
from unsafe2safe.evaluation.report.tables import headline, headline_metrics, reasons
from unsafe2safe.evaluation.results import Evaluation, RowResult


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return full_evaluation()


@pytest.fixture(scope="module")
def page(evaluation: Evaluation) -> str:
    return render(evaluation, full_shown(), settings())


def words(page: str) -> str:
    """What a reader sees: no script, no style, no tag."""
    bare = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", bare)))


# -- the page ------------------------------------------------------------------------------------


def test_everything_that_was_found_is_told(page: str, evaluation: Evaluation) -> None:
    told = words(page)
    for item in evaluation.definitions:
        assert item.definition in told
    assert "not available needs the judge" in told
    assert "not measurable interval half-width above 5 points estimate 0.280" in told
    assert "chance 0.004 (to 0.013)" in told
    assert "3 of 4 passed" in told
    assert "mask leaves no text (text read back): 0.030 expected 0" in told
    assert "needs the weights of vit-mae-base" in told
    assert "two or more" in told
    assert "edited: its published file is missing 1" in told
    assert f"229 of {IMAGES} images have an edited one" in told
    assert "torch 2.14.1" in told
    assert "distance=0.6 ." in told
    for reason, count in REASONS.items():
        assert f"{reason} {count}" in told


def test_paired_tests_say_what_they_tell_apart(page: str) -> None:
    told = words(page)
    assert "Faces recognised tiny with ladder redact inpaint -0.080" in told
    assert told.count("not told apart") == 5  # in the introduction, and four tests
    assert "< 0.001 0.001 better" in told


def test_a_page_without_extras_has_no_empty_sections(evaluation: Evaluation) -> None:
    bare = replace(evaluation, comparisons=(), strata=(), utility=(), checks=())
    page = render(bare, replace(full_shown(), pictures=()), settings())
    for section in ("comparisons", "strata", "utility", "checks", "pictures"):
        assert f'id="{section}"' not in page
        assert f'href="#{section}"' not in page


def test_a_page_of_nothing_measured_says_so(evaluation: Evaluation) -> None:
    nothing = {name: MetricResult(None, 0, IMAGES) for name in METRICS}
    rows = tuple(
        replace(row, metrics=nothing, metrics_on_common=nothing) for row in evaluation.rows
    )
    bare = replace(evaluation, rows=rows, comparisons=(), strata=(), utility=(), checks=())
    page = render(
        bare, replace(full_shown(), pictures=(), values=type(image_values())()), settings()
    )
    assert "Nothing could be measured" in words(page)
    assert 'id="plotly"' not in page


def test_plotly_is_inside_once_and_nothing_is_fetched(page: str) -> None:
    (packed,) = re.findall(r'<script type="text/plain" id="plotly">([^<]+)</script>', page)
    assert b"plotly.js v" in gzip.decompress(base64.b64decode(packed))[:60]
    assert not re.findall(r"https?:|//cdn|url\(|@import", page)
    assert "default-src 'none'" in page


def test_text_of_an_evaluation_is_never_markup(evaluation: Evaluation) -> None:
    odd = "</script><b onload=alert(1)>&"
    rows = (replace(evaluation.rows[0], title=odd, held_back={odd: 1}), *evaluation.rows[1:])
    page = render(replace(evaluation, rows=rows), full_shown(), settings())
    assert "<b onload" not in page
    assert page.count("</script>") == 4


def test_the_same_evaluation_gives_the_same_bytes(page: str, evaluation: Evaluation) -> None:
    assert render(evaluation, full_shown(), settings()) == page


def test_the_worst_pictures_stand_first_and_untouched_ones_last() -> None:
    shown = full_shown().pictures
    assert worst_metric(full_evaluation(), image_values(), None) == "face_leak_rate"
    assert worst_metric(full_evaluation(), image_values(), "ssim_outside") == "ssim_outside"
    assert worst_metric(full_evaluation(), image_values(), "no_such") == "face_leak_rate"
    assert len(shown) == 8


def test_an_outline_is_the_border_of_the_mask() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 5:30] = True
    places = {tuple(map(int, place)) for place in re.findall(r"(\d+) (\d+)", outline(mask))}
    assert places == {(5, 10), (29, 10), (29, 19), (5, 19)}
    assert outline(np.zeros((4, 4), bool)) == ""


# -- colours -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [0, 1])
def test_colours_keep_the_contrasts_of_wcag_aa(dark: int) -> None:
    colour = {name: pair[dark] for name, pair in PALETTE.items()}
    for text, ground in product(
        ("ink", "soft", "accent", "good", "bad"), ("page", "card", "raised", "wash")
    ):
        assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    for mark in (*SERIES, "reference"):
        assert contrast(colour[mark], colour["card"]) >= 4.5, mark  # its number is the card's
    for drawn, ground in product(("edge", "accent", "bad"), ("page", "card")):
        assert contrast(colour[drawn], colour[ground]) >= 3.0, (drawn, ground)


def test_each_light_colour_has_one_dark_one() -> None:
    assert len(dark_of_light()) == len(PALETTE)


# -- cells and tables ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0, "0.000"), (0.0304, "0.030"), (0.0004, "4e-04"), (-0.5, "-0.500"), (33.26, "33.3"),
     (1234.0, "1,234"), (float("nan"), "none")],
)  # fmt: skip
def test_numbers_are_told_with_what_they_are_worth(value: float, told: str) -> None:
    assert number(value) == told


def test_bars_share_a_scale_that_holds_all_of_them() -> None:
    def results(*values: float) -> list[MetricResult]:
        return [MetricResult(value, 3) for value in values]

    assert full_scale(results(0.2, 0.9)) == 1.0
    assert full_scale(results(0.013, 0.03)) == 0.05
    assert full_scale(results(41.0, 100.0)) == 100.0
    assert full_scale([MetricResult(0.98, 3, interval=(0.9, 1.02))]) == 1.0
    assert full_scale(results(0.0)) == 1.0
    cell = make_cell(
        MetricResult(0.5, 3, interval=(0.25, 0.75), details={"chance": 0.1}), "face", 1.0
    )
    assert (cell.low, cell.bar, cell.high, cell.chance) == (25.0, 50.0, 75.0, 10.0)


def test_the_headline_has_what_is_asked_for_and_else_the_first_of_each_group(
    evaluation: Evaluation,
) -> None:
    def names(wanted: list[str]) -> list[str]:
        return [item.name for item in headline_metrics(evaluation, wanted)]

    assert names(["ssim_outside", "no_such", "face_sim"]) == ["face_sim", "ssim_outside"]
    assert names(["vlm_score"]) == names([])  # nothing of it was measured
    assert names([])[:3] == ["face_leak_rate", "face_sim", "text_leak_recall"]
    assert {METRICS[name][1] for name in names([])} == {"privacy", "cheating", "quality", "utility"}
    shown = headline(evaluation, [])
    best = [[cell.best for cell in line.cells] for line in shown.rows]
    assert best[0] == [True, True, False, True, False, False, True]
    assert not any(map(any, best[3:]))  # references


def test_missing_images_are_counted_by_reason(evaluation: Evaluation) -> None:
    (_, row, found), *others = reasons(evaluation, {"ladder": {"failed: truncated": 3}})
    assert row.name == "ladder"
    assert [(reason.text, reason.count) for reason in found] == [
        ("needs_review: a face is still found", 9),
        ("failed: truncated", 5),
    ]
    assert [row.name for _, row, _ in others] == ["redact", "early"]


# -- privacy against fidelity --------------------------------------------------------------------


def test_the_front_is_of_compared_rows_and_turned_so_that_more_is_better(
    evaluation: Evaluation,
) -> None:
    plane = tradeoffs.planes(evaluation, settings().headline)[0]
    assert (plane.privacy.name, plane.fidelity.name) == ("face_leak_rate", "ssim_outside")
    places = {p.title: (p.privacy, p.fidelity, p.on_front) for p in plane.points}
    assert places["tiny with ladder"] == (pytest.approx(0.97), 0.986, True)
    assert places["redact inpaint"][2]
    assert not places["tiny, checkpoint 400"][2]
    assert not places["mask (grey)"][2]  # better than all, and a reference
    assert plane.hypervolume == pytest.approx(0.986 * 0.97 + 0.005 * 0.89)
    low, high = plane.points[0].privacy_ends
    assert low < plane.points[0].privacy < high


def test_what_is_not_measurable_is_no_point(evaluation: Evaluation) -> None:
    adaptive = next(p for p in tradeoffs.planes(evaluation) if p.privacy.name == "reid_adaptive")
    assert "tiny, checkpoint 400" not in {point.title for point in adaptive.points}


def test_a_figure_is_a_valid_plotly_figure_of_all_points(evaluation: Evaluation) -> None:
    import plotly.graph_objects as go

    plane = tradeoffs.planes(evaluation)[0]
    made = tradeoffs.figure(plane)
    assert go.Figure(made).to_plotly_json()["data"]
    marks = [trace for trace in made["data"] if trace["mode"] == "markers+text"]
    assert {trace["name"] for trace in marks} == {title for _, title, _ in ROWS}
    assert marks[-1]["name"] == "tiny, checkpoint 400"  # compared rows are drawn last
    near = tradeoffs.close_up(plane)
    assert near is not None
    assert near["x"][0] < 0.921 < 0.991 < near["x"][1] < 1.02


# -- values of single images ---------------------------------------------------------------------


def test_values_are_read_back_from_the_tables(tmp_path: Path, evaluation: Evaluation) -> None:
    (tmp_path / "ladder.csv").write_text(
        "item,published_as,resized,face_sim,ssim_outside\n0,a.png,0,0.25,\n1,,0,,0.5\n"
    )
    values = read_values(tmp_path, evaluation)
    assert values.of("ladder", 0) == {"face_sim": 0.25}
    assert values.of("ladder", 1) == {"ssim_outside": 0.5}
    assert values.of("redact", 0) == {}
    assert values.metrics == {"face_sim", "ssim_outside"}


def test_many_values_are_thinned_to_quantiles_of_the_same_form(evaluation: Evaluation) -> None:
    values = image_values()
    spread = {item["name"]: item for item in distributions(evaluation, values)}
    assert set(spread) == {name for name in METRICS if name in values.metrics}
    kept = spread["face_sim"]["rows"][0]
    all_values = [v for v in values.rows["ladder"]["face_sim"] if v is not None]
    assert len(kept) == 200 < len(all_values)
    assert kept == sorted(kept)
    assert np.mean(kept) == pytest.approx(np.mean(all_values), abs=0.005)
    assert kept[0] == pytest.approx(min(all_values), rel=1e-3)


# -- for papers and other programs ---------------------------------------------------------------


def test_the_latex_table_is_whole_escaped_and_marks_the_best(evaluation: Evaluation) -> None:
    odd = replace(evaluation.rows[0], title="50 % of _all_ {A&B} #1 \\x ~^")
    table = latex_table(replace(evaluation, rows=(odd, *evaluation.rows[1:])), settings().headline)
    lines = table.splitlines()
    assert lines[1] == r"\begin{tabular}{lccccc}"
    assert table.count(r"\midrule") == 2  # below the head, and above the references
    body = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(body) == 1 + len(evaluation.rows)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {5}
    assert (
        r"50 \% of \_all\_ \{A\&B\} \#1 \textbackslash{}x \textasciitilde{}\textasciicircum{}"
        in table
    )
    first = body[1]
    assert r"\textbf{0.030} {\scriptsize [0.008, 0.052]}" in first
    assert table.count(r"\textbf{") == 5
    bare = re.sub(r"\\[{}]", "", table)
    assert bare.count("{") == bare.count("}")
    assert r"Faces recognised $\downarrow$" in table


def test_escaping_leaves_plain_text_alone() -> None:
    assert escape("identity (no edit)") == "identity (no edit)"


def test_metrics_json_satisfies_its_schema_and_a_damaged_one_does_not(
    tmp_path: Path, evaluation: Evaluation
) -> None:
    schema = json.loads(schema_json())
    Draft202012Validator.check_schema(schema)
    evaluation.write(tmp_path / "metrics.json")
    content = json.loads((tmp_path / "metrics.json").read_text())
    validator = Draft202012Validator(schema)
    validator.validate(content)
    assert Evaluation.read(tmp_path / "metrics.json") == evaluation
    content["rows"][0]["metrics"]["face_sim"]["value"] = "0.3"
    assert not validator.is_valid(content)
    assert not validator.is_valid(asdict(evaluation) | {"schema_version": 1})


def test_tables_are_written_where_there_is_something_to_tell(
    tmp_path: Path, evaluation: Evaluation
) -> None:
    write_exports(tmp_path, evaluation, ())
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    csvs = {f"{name}.csv" for name in ("details", "comparisons", "strata", "utility", "checks")}
    assert names == {"table.tex", *csvs}
    bare = replace(evaluation, comparisons=(), strata=(), utility=(), checks=())
    write_exports(tmp_path / "bare", bare, ())
    names = {path.name for path in (tmp_path / "bare" / "tables").iterdir()}
    assert names == {"table.tex", "details.csv"}


def test_one_compared_row_alone_is_never_the_best(evaluation: Evaluation) -> None:
    def kept(row: RowResult) -> bool:
        return row.name == "ladder" or row.kind == "reference"

    alone = replace(evaluation, rows=tuple(filter(kept, evaluation.rows)), comparisons=())
    assert "textbf" not in latex_table(alone, ())


def test_rows_that_are_all_the_same_have_no_best() -> None:
    same = [MetricResult(0.0, 3), MetricResult(0.0, 3), MetricResult(1.0, 3)]
    assert best_of("down", same, [False, False, True]) == set()
    assert best_of("down", [*same, MetricResult(0.5, 3)], [False, False, True, False]) == {0, 1}

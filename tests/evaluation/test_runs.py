"""What evaluate.py says of a run whose truth is known; its report tells all, and nothing private.

In one file, since both look at one evaluation, which takes long.
"""

import base64
import csv
import hashlib
import io
import json
import re
import shutil

import numpy as np
import pytest
from evaluation.conftest import PORTRAIT, photo
from evaluation.make_run import Fate, make_run
from PIL import Image

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ExitStatus, MetricResult
from unsafe2safe.evaluation.report.pictures import data_uri
from unsafe2safe.evaluation.report.tables import sections
from unsafe2safe.evaluation.results import Definition, Evaluation, RowResult
from unsafe2safe.jobs import evaluate, evaluate_figures
from unsafe2safe.metrics import structure
from unsafe2safe.vision.arrays import bounded

CHEAP = ("ssim", "psnr_outside", "ssim_outside")


@pytest.fixture(scope="session")
def rows(evaluated):
    found = Evaluation.read(evaluated.output_dir / "metrics.json")
    return {row.name: row for row in found.rows}


def test_identity_keeps_everything_exactly(rows):
    figures = rows["identity"].metrics
    kept = {"face_sim", "face_sim_paper", "face_leak_rate", "text_leak_recall", "text_sim_paper"}
    for name in kept | {"ssim", "ssim_inside", "ssim_outside"}:
        assert figures[name].value == pytest.approx(1.0, abs=1e-12), name
    for name in ("st_lpips_inside", "st_lpips_outside", "faces_vanished"):
        assert figures[name].value == 0.0, name
    assert figures["psnr_outside"].value == 100.0


def test_blur_lowers_what_identity_keeps_and_changes_more(rows):
    blur, identity = rows["blur"].metrics, rows["identity"].metrics
    for name in ("face_sim", "text_leak_recall", "ssim", "ssim_outside", "psnr_outside"):
        assert blur[name].value < identity[name].value, name
    assert blur["st_lpips_outside"].value > 0.05


def test_a_run_that_edits_inside_its_masks_is_measured_so(rows):
    figures = rows["run"].metrics
    assert figures["ssim_outside"].value == pytest.approx(1.0, abs=1e-9)
    assert figures["st_lpips_outside"].value == 0.0
    assert figures["psnr_outside"].value == 100.0
    assert figures["ssim_inside"].value < 0.9
    assert figures["face_leak_rate"].value == 0.0
    assert figures["text_leak_recall"].value == 0.0


def test_held_back_and_undecodable_images_are_missing_not_left_out(rows, evaluated):
    run, identity = rows["run"], rows["identity"]
    assert run.edited == 3
    assert run.held_back == {
        "failed: truncated": 1,
        "needs_review: a face is still found": 1,
    }
    # a face of the one held back, and the damaged original, whose faces nobody can count
    assert (run.metrics["face_sim"].n, run.metrics["face_sim"].n_missing) == (1, 2)
    assert (identity.metrics["face_sim"].n, identity.metrics["face_sim"].n_missing) == (2, 1)
    assert (run.metrics["ssim"].n, run.metrics["ssim"].n_missing) == (3, 2)
    # the cat has neither face nor text nor mask
    assert identity.metrics["ssim_inside"].n_not_applicable == 1
    assert identity.metrics["text_leak_recall"].n_not_applicable == 3
    assert evaluated.status == ExitStatus.DONE_WITH_FAILURES
    told = (evaluated.output_dir / "failures.jsonl").read_text()
    assert json.loads(told.splitlines()[0])["reason"] == "original: truncated"


def test_all_rows_are_compared_on_the_images_that_every_row_has(rows, evaluated):
    common = Evaluation.read(evaluated.output_dir / "metrics.json").common
    assert common == 3
    assert {row.metrics_on_common["ssim"].n for row in rows.values()} == {3}


def test_intervals_need_two_images_and_hold_the_value(rows):
    assert rows["run"].metrics["face_sim"].interval is None
    low, high = rows["blur"].metrics["ssim"].interval
    assert low < rows["blur"].metrics["ssim"].value < high


def test_tables_hold_the_same_figures(rows, evaluated):
    lines = list(csv.DictReader((evaluated.output_dir / "tables/figures.csv").open()))
    blur = next(x for x in lines if (x["row"], x["metric"]) == ("blur", "ssim"))
    assert float(blur["value"]) == rows["blur"].metrics["ssim"].value
    items = list(csv.DictReader((evaluated.output_dir / "tables/run.csv").open()))
    assert [item["published_as"] for item in items] == [
        "0123abcd.png",
        "cat.png",
        "",
        "",
        "note.png",
    ]
    assert items[2]["ssim"] == ""


def test_the_same_command_again_measures_nothing(world, evaluated, no_measuring):
    before = (evaluated.output_dir / "metrics.json").read_bytes()
    again = evaluate.run(world.config(f"runs=[{world.run}]", "engine.unit_size=2"))
    assert again.output_dir == evaluated.output_dir
    assert again.counts == evaluated.counts
    assert (again.output_dir / "metrics.json").read_bytes() == before


def test_the_newest_complete_run_is_the_default_and_told(new_world, caplog):
    caplog.set_level("INFO")
    # find_input looks below paths.runs/anonymize
    place = new_world.root / "outputs" / "anonymize" / "found"
    shutil.copytree(new_world.run, place)
    result = evaluate.run(new_world.config("references=[]", metrics=["ssim"]))
    assert f"runs={place}" in caplog.text
    assert result.output_dir.parent == new_world.root / "outputs" / "evaluate"


def test_an_interrupted_run_goes_on_after_its_last_unit_with_the_same_bytes(new_world, monkeypatch):
    def config(name):
        overrides = [f"runs=[{new_world.run}]", "engine.unit_size=2"]
        return new_world.config(*overrides, f"output_dir={new_world.root / name}", metrics=CHEAP)

    whole = evaluate.run(config("whole"))
    real, written = evaluate_figures.Runner._write, []

    def interrupted(self, unit, advance):
        if len(written) == 1 and "again" not in written:
            written.append("again")
            raise KeyboardInterrupt
        written.append(unit.name)
        real(self, unit, advance)

    monkeypatch.setattr(evaluate_figures.Runner, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(config("parts"))
    parts = evaluate.run(config("parts"))
    assert written == ["part-000000", "again", "part-000001", "part-000002"]
    for name in ("metrics.json", "tables/run.csv", "tables/figures.csv", "report.html"):
        assert (parts.output_dir / name).read_bytes() == (whole.output_dir / name).read_bytes()


def test_a_published_file_that_was_exchanged_is_neither_measured_nor_shown(new_world):
    shutil.copyfile(new_world.originals / PORTRAIT, new_world.run / "published" / "0123abcd.png")
    result = evaluate.run(
        new_world.config(f"runs=[{new_world.run}]", "references=[]", metrics=["ssim"])
    )
    assert Evaluation.read(result.output_dir / "metrics.json").rows[0].edited == 2
    failures = (result.output_dir / "failures.jsonl").read_text()
    assert "not the one that was verified" in failures
    assert "0123abcd.png" not in (result.output_dir / "report.html").read_text()


def test_one_metric_that_fails_ends_neither_run_nor_image(new_world, monkeypatch):
    real_map = structure.ssim_map

    def broken(first, second):
        if first.shape[1] == 451:  # the cat
            raise ValueError("Anna Weber")
        return real_map(first, second)

    monkeypatch.setattr(structure, "ssim_map", broken)
    result = evaluate.run(
        new_world.config(f"runs=[{new_world.run}]", "references=[]", metrics=CHEAP)
    )
    row = Evaluation.read(result.output_dir / "metrics.json").rows[0]
    assert (row.metrics["ssim"].n, row.metrics["psnr_outside"].n) == (2, 3)
    assert "Anna Weber" not in (result.output_dir / "failures.jsonl").read_text()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["runs=[]"], "runs is empty"),
        (["runs=[{root}/originals]"], "is no run folder of anonymize.py"),
        (["originals={root}"], "edited is not given"),
        (["edited={root}"], "originals is not given"),
        (["originals={root}", "edited={root}", "runs=[{root}]"], "not both"),
        (["originals={root}/absent", "edited={root}"], "originals={root}/absent is not a folder"),
        (["dataset=samples", "runs=[{root}/outputs/run]"], "other settings"),
        (["paths.runs={root}/nowhere"], "run `python anonymize.py dataset=folder` first"),
    ],
)
def test_unusable_arguments_are_one_line(world, overrides, told):
    given = [override.format(root=world.root) for override in overrides]
    if "dataset=samples" in given:
        given.append("dataset.root=null")
    with pytest.raises(UsageError, match=r"\A[^\n]*\Z") as error:
        evaluate.run(world.config(*given))
    assert told.format(root=world.root) in str(error.value)


def test_two_runs_are_told_apart_and_the_better_is_marked(new_world):
    worse = make_run(
        new_world.root,
        ["dataset=folder", f"dataset.root={new_world.originals}", "seed=5"],
        {name: Fate(photo(name) // 2) for name in ("cat.jpg", "note.jpg")},
        name="worse",
    )
    result = evaluate.run(
        new_world.config(f"runs=[{new_world.run},{worse}]", metrics=["ssim_outside"])
    )
    found = Evaluation.read(result.output_dir / "metrics.json")
    assert found.images == 2  # the same for each row
    assert [row.name for row in found.rows] == [
        *("run", "worse", "identity", "blur", "mask", "unrelated"),
        "mean-of-seeds-1",
    ]
    assert found.rows[0].title != found.rows[1].title
    assert (result.output_dir / "report.html").read_text().count(
        ">best</span>"
    ) == 2  # on top and in its group


def test_figures_reach_the_tracker(new_world):
    config = new_world.config(
        f"runs=[{new_world.run}]", "references=[]", "logger=csv", metrics=["ssim"]
    )
    result = evaluate.run(config)
    (line,) = csv.DictReader((result.output_dir / "metrics.csv").open())
    expected = Evaluation.read(result.output_dir / "metrics.json").rows[0].metrics["ssim"].value
    assert float(line["run/ssim"]) == expected


# -- the report ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def page(evaluated):
    return (evaluated.output_dir / "report.html").read_text()


def embedded(page):
    return [
        base64.b64decode(found)
        for found in re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page)
    ]


def likeness(jpeg, original):
    """Mean absolute difference of an embedded picture from the original at its size."""
    with Image.open(io.BytesIO(jpeg)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(float)
    small = bounded(original, 480)
    return np.abs(pixels - small).max() if pixels.shape == small.shape else np.inf


def test_nothing_is_fetched_from_anywhere(page):
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page
    sources = re.findall(r"""\s(?:src|href|srcset|action)=["']?([^"'> ]+)""", page)
    assert sources
    assert all(source.startswith(("data:image/jpeg", "#")) for source in sources)


def test_no_private_string_name_or_path_is_in_any_output(world, evaluated, page):
    private = ["Anna", "Weber", "555-0142", "Room 12", "18:30", "Erika", "Mustermann"]
    private += ["Marta", "Lindqvist", "Ostertor"]  # of the private captions
    private += [str(world.root), str(world.root.name)]
    written = [path for path in evaluated.output_dir.rglob("*") if path.is_file()]
    assert len(written) > 8
    for path in written:
        if path.name == "run.json":  # holds the configuration, paths and all
            continue
        text = path.read_text("utf-8")
        assert not [word for word in private if word in text], path.name


def test_only_publishable_pictures_are_shown(page):
    shown = embedded(page)
    assert len(shown) == 3
    assert "0123abcd.png" in page
    assert "held" not in "".join(re.findall(r'alt="([^"]*)"', page))


def test_no_original_is_inside_the_file(world, page):
    hashes = {hashlib.sha256(content).hexdigest() for content in embedded(page)}
    for name in (PORTRAIT, "held.jpg", "note.jpg"):
        raw = (world.originals / name).read_bytes()
        assert base64.b64encode(raw)[:200].decode() not in page
        uri = data_uri(photo(name))
        assert hashlib.sha256(base64.b64decode(uri.partition(",")[2])).hexdigest() not in hashes
        assert all(likeness(content, photo(name)) > 60 for content in embedded(page))


def test_masks_are_outlined_where_the_run_has_regions(page):
    figures = re.findall(r"<figure.*?</figure>", page, flags=re.S)
    outlined = {re.search(r"<span>(\S+?)<small", f).group(1) for f in figures if "<path" in f}
    assert outlined == {"0123abcd.png", "note.png"}
    assert 'class="slider"' not in page


@pytest.mark.parametrize(("order", "worst"), [("ssim_inside", max), ("st_lpips_inside", min)])
def test_the_picture_with_the_worst_value_stands_first(
    world, evaluated, no_measuring, order, worst
):
    overrides = [f"runs=[{world.run}]", "engine.unit_size=2", f"report.order_by={order}"]
    evaluate.run(world.config(*overrides, "report.max_pictures=1"))
    page = (evaluated.output_dir / "report.html").read_text()
    items = csv.DictReader((evaluated.output_dir / "tables/run.csv").open())
    values = {i["published_as"]: float(i[order]) for i in items if i[order]}
    assert len(values) == 2
    assert re.findall(r"<figcaption>.*?<span>(\S+?)<small", page) == [worst(values, key=values.get)]
    evaluate.run(world.config(f"runs=[{world.run}]", "engine.unit_size=2"))


def test_pictures_carry_no_metadata(page):
    for content in embedded(page):
        assert b"Exif" not in content
        assert b"ICC_PROFILE" not in content
        assert not Image.open(io.BytesIO(content)).getexif()


def test_originals_are_shown_when_asked_for_without_measuring_again(world, evaluated, no_measuring):
    again = evaluate.run(
        world.config(f"runs=[{world.run}]", "engine.unit_size=2", "report.include_originals=true")
    )
    assert again.output_dir == evaluated.output_dir
    page = (again.output_dir / "report.html").read_text()
    assert len(embedded(page)) == 6
    assert page.count('class="slider"') == 3
    assert data_uri(photo(PORTRAIT)) in page
    assert "it is private" in page
    assert data_uri(photo("held.jpg")) not in page
    evaluate.run(world.config(f"runs=[{world.run}]", "engine.unit_size=2"))
    assert len(embedded((again.output_dir / "report.html").read_text())) == 3


def test_no_more_pictures_than_asked_for(world, evaluated, no_measuring):
    def shown(most):
        overrides = [f"runs=[{world.run}]", "engine.unit_size=2", f"report.max_pictures={most}"]
        evaluate.run(world.config(*overrides))
        return len(embedded((evaluated.output_dir / "report.html").read_text()))

    assert [shown(most) for most in (0, 1, 24)] == [0, 1, 3]


def test_everything_measured_is_told_with_its_definition_counts_and_reasons(page, evaluated):
    found = Evaluation.read(evaluated.output_dir / "metrics.json")
    for item in found.definitions:
        assert f'id="m-{item.name}"' in page
    assert "needs_review: a face is still found" in page
    assert "2 missing" in page
    assert "onnxruntime" in page
    assert "Seed 0, 1000 bootstrap draws" in page
    assert page.count('class="plot" id="plane-') == 12  # as many as are drawn at most


def made_row(name, kind, value):
    figures = {"m": MetricResult(value=value, n=3, interval=None)}
    return RowResult(name, name, kind, 3, 0, 0, {}, figures, figures)


@pytest.mark.parametrize(
    ("direction", "marked"), [("up", [False, True, False]), ("down", [True, False, False])]
)
@pytest.mark.parametrize("reference", [0.0, 0.2, 0.6, 1.0])
def test_the_best_row_is_marked_and_no_reference_ever(direction, marked, reference):
    rows = (
        made_row("a", "run", 0.2),
        made_row("b", "run", 0.6),
        made_row("identity", "reference", reference),
    )
    definition = Definition("m", "M", "quality", direction, "image", "", "", {})
    made = Evaluation("d", 3, 3, 0, 10, "", "", (definition,), rows)
    (section,) = sections(made, [r.metrics for r in rows])
    assert [cell.best for cell in section.lines[0].cells] == marked

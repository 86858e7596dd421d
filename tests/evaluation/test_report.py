"""The report tells everything and nothing private."""

import base64
import hashlib
import io
import re

import numpy as np
import pytest
from evaluation.conftest import PORTRAIT, photo
from PIL import Image

from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.report import _data_uri, sections
from unsafe2safe.evaluation.results import Definition, Evaluation, RowResult
from unsafe2safe.jobs import evaluate
from unsafe2safe.vision.arrays import bounded


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
        uri = _data_uri(photo(name))
        assert hashlib.sha256(base64.b64decode(uri.partition(",")[2])).hexdigest() not in hashes
        assert all(likeness(content, photo(name)) > 60 for content in embedded(page))


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
    assert _data_uri(photo(PORTRAIT)) in page
    assert "it is private" in page
    assert _data_uri(photo("held.jpg")) not in page
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
    assert page.count("<svg") == 2


def row(name, kind, value):
    figures = {"m": MetricResult(value=value, n=3, interval=None)}
    return RowResult(name, name, kind, 3, 0, 0, {}, figures, figures)


@pytest.mark.parametrize(
    ("direction", "marked"), [("up", [False, True, False]), ("down", [True, False, False])]
)
@pytest.mark.parametrize("reference", [0.0, 0.2, 0.6, 1.0])
def test_the_best_row_is_marked_and_no_reference_ever(direction, marked, reference):
    rows = (row("a", "run", 0.2), row("b", "run", 0.6), row("identity", "reference", reference))
    definition = Definition("m", "M", "quality", direction, "image", "", "", {})
    made = Evaluation("d", 3, 3, 0, 10, "", "", (definition,), rows)
    (section,) = sections(made, [r.metrics for r in rows])
    assert [cell.best for cell in section.lines[0].cells] == marked

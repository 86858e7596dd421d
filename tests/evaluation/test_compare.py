"""suite=compare: finished evaluations in one table and report."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation.full_report import IMAGES, full_evaluation
from tracking.test_wandb import stored_records, values_of

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import write_text
from unsafe2safe.core.ledger import RunFolder, RunSpec
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.evaluation.results import Evaluation
from unsafe2safe.jobs import evaluate
from unsafe2safe.metrics.tradeoff import Tradeoff, hypervolume


def config(root: Path, *overrides: str) -> Evaluate:
    places = [f"paths.runs={root / 'outputs'}", f"paths.private={root / 'private'}"]
    made = load("evaluate", ["suite=compare", *places, *overrides])
    assert isinstance(made, Evaluate)
    return made


def of(made: Evaluate, *folders: Path) -> Evaluate:
    return made.model_copy(update={"evaluations": folders})


def finished(
    root: Path, name: str, evaluation: Evaluation, data: str = "synthetic-0123456789"
) -> Path:
    """A complete run folder of evaluate.py that found ``evaluation``."""
    spec = RunSpec("evaluate", root / name, root / "private", {"name": name}, {}, data)
    with RunFolder.open(spec, "resume") as folder:
        evaluation.write(folder.path / "metrics.json")
        for row in evaluation.rows:
            lines = "".join(f"{n},,0,{0.1 * n:.1f}\n" for n in range(3))
            header = "item,published_as,resized,face_sim\n"
            write_text(folder.path / "tables" / f"{row.name}.csv", header + lines)
        folder.finish({"images": evaluation.images})
    return folder.path


def only(evaluation: Evaluation, *names: str) -> Evaluation:
    """The evaluation of these rows beside the references."""
    rows = tuple(row for row in evaluation.rows if row.kind == "reference" or row.name in names)
    tests = tuple(c for c in evaluation.comparisons if {c.row, c.other} <= set(names))
    return replace(evaluation, rows=rows, comparisons=tests)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def folders(root: Path) -> str:
    found = full_evaluation()
    one = finished(root, "one", only(found, "ladder", "redact"))
    two = finished(root, "two", only(replace(found, seed=4), "ladder", "early"))
    return f"evaluations=[{one},{two}]"


@pytest.fixture(scope="module")
def compared(root: Path, folders: str) -> RunResult:
    return evaluate.run(config(root, folders, "logger=csv"))


def test_all_rows_stand_in_one_table_and_references_once(compared: RunResult) -> None:
    found = Evaluation.read(compared.output_dir / "metrics.json")
    assert compared.status == ExitStatus.DONE
    assert [row.name for row in found.rows] == [
        *("one.ladder", "redact", "two.ladder", "early"),
        *("identity", "blur", "mask", "unrelated"),
    ]
    assert found.rows[0].title == "tiny with ladder (one)"
    assert found.rows[1].title == "redact inpaint"
    assert {(item.row, item.other) for item in found.comparisons} == {
        ("one.ladder", "redact"),
        ("two.ladder", "early"),
    }
    assert "one 0, two 4" in found.references
    assert len(found.checks) == 8
    assert {name for name in found.strata[0].rows if "ladder" in name} == {
        "one.ladder",
        "two.ladder",
    }
    assert len(found.utility) == 1


def test_the_report_tables_and_tracker_have_all_rows(compared: RunResult) -> None:
    page = (compared.output_dir / "report.html").read_text()
    assert "tiny with ladder (two)" in page
    assert "images that every row has" not in page  # which are common was never asked
    found = Evaluation.read(compared.output_dir / "metrics.json")
    lines = list(csv.DictReader((compared.output_dir / "tables/figures.csv").open()))
    assert {line["row"] for line in lines} == {row.name for row in found.rows}
    assert {line["value_on_common"] for line in lines} == {""}
    assert "tiny with ladder (one)" in (compared.output_dir / "tables/table.tex").read_text()
    assert '"spread"' in page
    (line,) = csv.DictReader((compared.output_dir / "metrics.csv").open())
    assert float(line["two.ladder/face_sim"]) == 0.18


def test_the_hypervolume_is_that_of_all_rows_together(root: Path) -> None:
    found = full_evaluation()
    one = finished(root, "hv_one", only(found, "redact"))
    two = finished(root, "hv_two", only(found, "early"))
    result = evaluate.run(config(root, f"evaluations=[{one},{two}]"))
    rows = {
        row.name: row.metrics for row in Evaluation.read(result.output_dir / "metrics.json").rows
    }
    points = [
        Tradeoff(1 - rows[n]["face_leak_rate"].value, rows[n]["ssim_outside"].value, 0)  # type: ignore[operator]
        for n in ("redact", "early")
    ]
    told = f"{hypervolume(points):.3f} <small>hypervolume"
    assert told in (result.output_dir / "report.html").read_text()


def test_the_same_command_again_changes_nothing(
    root: Path, folders: str, compared: RunResult
) -> None:
    before = {path: path.read_bytes() for path in compared.output_dir.rglob("*") if path.is_file()}
    again = evaluate.run(config(root, folders, "logger=csv"))
    assert again.output_dir == compared.output_dir
    assert {path: path.read_bytes() for path in before} == before


def test_what_cannot_stand_in_one_table_is_refused_in_one_line(root: Path) -> None:
    found, settings = full_evaluation(), config(root)
    first = finished(root, "first", found)

    def refused(name: str, other: Evaluation | None, told: str, data: str | None = None) -> None:
        path = finished(root, name, other or found, *([data] if data else []))
        with pytest.raises(UsageError, match=r"\A[^\n]*\Z") as error:
            evaluate.run(of(settings, first, path))
        assert told in str(error.value)

    changed = replace(found.definitions[0], settings={"distance": 0.5})
    refused("fewer", replace(found, images=IMAGES - 1), "of 240 and of 239 images")
    refused("defined", replace(found, definitions=(changed, *found.definitions[1:])),
            "define face_leak_rate differently")  # fmt: skip
    refused("less", replace(found, definitions=found.definitions[1:]), "define face_leak_rate")
    refused("draws", replace(found, bootstrap=50), "1000 and on 50 draws")
    refused("masks", replace(found, masks="found otherwise"), "their masks differ")
    refused("data", replace(found, dataset="coco"), "different data (synthetic, coco)")
    refused("root", None, "different data", data="synthetic-ffffffffff")
    old = finished(root, "old", found)
    write_text(old / "metrics.json", '{"schema_version": 1}')
    with pytest.raises(UsageError, match="has schema version 1, not 2"):
        evaluate.run(of(settings, first, old))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("[]", "names at least two"),
        ("[{root}/one]", "names at least two"),
        ("[{root}/one,{root}/one]", "names one folder twice"),
        ("[{root}/one,{root}/nowhere]", "no run folder of evaluate.py"),
    ],
)
def test_unusable_folders_are_told(root: Path, folders: str, given: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        evaluate.run(config(root, f"evaluations={given.format(root=root)}"))


def test_a_mode_that_measures_is_refused(root: Path, folders: str) -> None:
    with pytest.raises(UsageError, match="reads what others measured"):
        evaluate.run(config(root, folders, "mode=merge"))


@pytest.mark.slow
def test_wandb_gets_summary_table_and_scatter_and_no_place_of_this_machine(
    root: Path, folders: str
) -> None:
    result = evaluate.run(config(root, folders, "logger=wandb", f"output_dir={root / 'logged'}"))
    summary: dict[str, object] = {}
    for path in result.output_dir.glob("wandb/offline-run-*/run-*.wandb"):
        for record in stored_records(path):
            if record.WhichOneof("record_type") == "summary":  # type: ignore[attr-defined]
                summary |= values_of(record.summary.update)  # type: ignore[attr-defined]
    found = Evaluation.read(result.output_dir / "metrics.json")
    assert summary["headline/redact/ssim_outside"] == 0.991
    assert summary["one.ladder/kid"] == 0.013
    assert 0.9 < summary["hypervolume/face_leak_rate.ssim_outside"] < 1  # type: ignore[operator]
    media = result.output_dir / "wandb"
    (stored,) = {p.read_text() for p in media.glob("*/files/media/table/all_figures*.json")}
    table = json.loads(stored)
    assert len(table["data"]) == len(found.rows) * len(found.definitions)
    line = dict(zip(table["columns"], table["data"][0], strict=True))
    assert (line["row"], line["metric"], line["value"]) == ("one.ladder", "face_leak_rate", 0.03)
    assert (line["low"], line["high"]) == found.rows[0].metrics["face_leak_rate"].interval
    (chart,) = {p.read_text() for p in media.glob("*/files/media/plotly/*.json")}
    assert "tiny with ladder (two)" in chart
    for path in media.rglob("*"):
        if path.is_file():
            assert f"{root}/".encode() not in path.read_bytes(), path

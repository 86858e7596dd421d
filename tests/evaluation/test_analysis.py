"""Comparisons, strata, checks of the references, and means over seeds."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation.make_run import Fate, make_run
from metrics.pairs import Seen

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.records import MetricResult
from unsafe2safe.data.synthetic import render
from unsafe2safe.data.synthetic.source import SyntheticSource
from unsafe2safe.evaluation.checks import check_references
from unsafe2safe.evaluation.comparisons import compare
from unsafe2safe.evaluation.results import RowResult
from unsafe2safe.evaluation.rows import run_rows
from unsafe2safe.evaluation.runner import Measured
from unsafe2safe.evaluation.seeds import groups_of_seeds
from unsafe2safe.evaluation.strata import kinds_of, stratify
from unsafe2safe.jobs import evaluate
from unsafe2safe.metrics.base import ItemScore, SceneTruth
from unsafe2safe.metrics.faces import FaceLeakRate
from unsafe2safe.metrics.structure import Ssim

METRICS = {"ssim": Ssim(), "leaks": FaceLeakRate()}
DRAWS = {"samples": 200, "seed": 0}


def row(name: str, kind: str = "run") -> SimpleNamespace:
    return SimpleNamespace(name=name, kind=kind)


def table(rows: dict[str, np.ndarray]) -> list[dict[str, Measured]]:
    """Items with an SSIM and two faces each; NaN: missing."""

    def measured(value: float) -> Measured:
        if np.isnan(value):
            scores = {name: ItemScore(missing=1) for name in METRICS}
            return Measured(edited=False, scores=scores)
        leaks = ItemScore((float(value > 0.5), float(value > 0.7)))
        return Measured(edited=True, scores={"ssim": ItemScore((float(value),)), "leaks": leaks})

    count = len(next(iter(rows.values())))
    return [{name: measured(values[i]) for name, values in rows.items()} for i in range(count)]


@pytest.fixture
def three() -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    base = draws.uniform(0, 0.8, 60)
    same = base + draws.normal(0, 0.02, 60)
    better = base + 0.15 + draws.normal(0, 0.02, 60)
    return {"a": base, "b": same, "c": better, "blur": base * 0.5, "identity": np.ones(60)}


def test_rows_that_differ_are_told_from_rows_that_do_not(three) -> None:
    kinds = {"blur": "reference", "identity": "reference"}
    rows = [row(name, kinds.get(name, "run")) for name in three]
    found = compare(table(three), rows, METRICS, **DRAWS)
    by_pair = {(one.metric, one.row, one.other): one for one in found}
    assert [key[1:] for key in by_pair if key[0] == "ssim"] == [
        *(("a", "b"), ("a", "c"), ("b", "c")),
        *(("a", "blur"), ("b", "blur"), ("c", "blur")),
    ]  # blur is the one reference that runs are compared with
    same, better = by_pair["ssim", "a", "b"], by_pair["ssim", "a", "c"]
    assert same.p_holm > 0.05
    assert better.p_holm < 0.01
    assert better.difference == pytest.approx(-0.15, abs=0.02)
    assert better.interval[0] < -0.15 < better.interval[1]
    assert all(one.p <= one.p_holm <= 1 for one in found)
    assert compare(table(three), rows, METRICS, **DRAWS) == found


def test_only_images_that_both_rows_have_are_compared(three) -> None:
    three["b"][:10] = np.nan
    rows = [row("a"), row("b")]
    one = compare(table(three), rows, METRICS, **DRAWS)[0]
    assert one.n == 50
    assert one.difference == pytest.approx((three["a"] - three["b"])[10:].mean())
    three["b"][:] = np.nan
    assert compare(table(three), rows, METRICS, **DRAWS) == ()


def test_strata_split_the_images_and_leave_out_what_is_too_small(three) -> None:
    sizes = ["small"] * 30 + ["large"] * 27 + ["none"] * 3
    kinds = [{"face_size": size, "persons": "1", "label": f"class {i}"} for i, size in
             enumerate(sizes)]  # fmt: skip
    found = stratify(table(three), kinds, [row("a")], METRICS, **DRAWS)
    assert [(one.by, one.value, one.images) for one in found] == [
        ("face_size", "small", 30),
        ("face_size", "large", 27),
    ]  # one value of persons divides nothing; sixty labels are too many
    small = found[0].rows["a"]
    assert small["ssim"].value == pytest.approx(three["a"][:30].mean())
    assert small["leaks"].n == 60
    few = [{"label": "ab"[i % 2]} for i in range(60)]
    found = stratify(table(three), few, [row("a")], METRICS, **DRAWS)
    assert [one.value for one in found] == ["a", "b"]


def test_kinds_are_told_by_the_original(three) -> None:
    seen = Seen(people=(0, 1), pixels=np.zeros((60, 80, 3), np.uint8))  # faces of 10 pixels
    assert kinds_of(seen, None, None) == {"face_size": "medium", "persons": "2-4"}
    assert kinds_of(Seen(), None, "dog") == {"face_size": "none", "persons": "0", "label": "dog"}
    redrawn = SyntheticSource(name="synthetic", size=1).edit_of("00000000.png", 0).redrawn
    kinds = kinds_of(seen, SceneTruth(redrawn, []), None)
    persons = len(redrawn.source.private.persons)
    assert kinds["persons"] == ("1" if persons == 1 else "2-4")


def result(name: str, **values: MetricResult) -> RowResult:
    return RowResult(name, name, "reference", 10, 0, 0, {}, values, values)


def test_references_are_checked(caplog) -> None:
    attack = MetricResult(0.01, 100, details={"chance": 0.01, "chance_high": 0.03})
    caught = replace(attack, value=0.97)
    rows = [
        result("identity", ssim=MetricResult(1.0, 10), leaks=caught),
        result("blur", ssim=MetricResult(0.7, 10)),
        result("unrelated", ssim=MetricResult(0.2, 10), leaks=attack),
    ]
    metrics = {"ssim": Ssim(), "leaks": FaceLeakRate()}
    checks = {check.what: check for check in check_references(rows, metrics)}
    assert all(
        check.passed for what, check in checks.items() if what != "identity: Faces recognised"
    )
    assert not [r for r in caplog.records if "SSIM" in r.message]
    broken = [
        result("identity", ssim=MetricResult(0.99, 10), leaks=attack),
        result("blur", ssim=MetricResult(1.0, 10)),
        result("unrelated", leaks=caught),
    ]
    with caplog.at_level(logging.WARNING, "unsafe2safe"):
        failed = check_references(broken, metrics)
    assert not any(check.passed for check in failed)
    assert len(failed) == 5
    assert "expected at most 0.03, the 95 % bound of chance" in caplog.text


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """Two seeds of one editor, and a third run with another setting."""
    root = tmp_path_factory.mktemp("seeds")
    source = SyntheticSource(name="synthetic", size=12)
    edits = {r.image_id: source.edit_of(r.image_id, 0).redrawn for r in source.records()}
    made = []
    for index, extra in enumerate(["seed=0", "seed=1", "margin=0.1"]):
        pixels = {
            image_id: render(edit.source if int(image_id[:8]) % 4 < index else edit.scene)
            for image_id, edit in edits.items()
        }
        fates = {image_id: Fate(picture) for image_id, picture in pixels.items()}
        dataset = ["dataset=synthetic", "dataset.size=12", extra]
        made.append(make_run(root, dataset, fates, name=f"run{index}"))
    return root, made


def test_runs_that_differ_in_the_seed_only_are_one_group(runs) -> None:
    groups = groups_of_seeds(run_rows(runs[1]))
    assert [[row.name for row in group] for group in groups] == [["run0", "run1"]]
    assert groups_of_seeds(run_rows([runs[1][0], runs[1][0]])) == []


@pytest.fixture(scope="module")
def evaluation(runs) -> dict:
    root, folders = runs
    places = [f"paths.runs={root / 'outputs'}", f"paths.private={root / 'private'}"]
    choice = ["dataset=synthetic", "dataset.size=12", "metrics=[truth,attackers]"]
    choice.append("references=[identity,blur,unrelated]")
    named = ",".join(str(folder) for folder in folders)
    made = load("evaluate", [*choice, *places, f"runs=[{named}]", "bootstrap=200"])
    assert isinstance(made, Evaluate)
    kept = ("leaked", "outside_ssim", "reidentified", "naive_reidentification_pixels")
    made = made.model_copy(update={"metrics": {name: made.metrics[name] for name in kept}})
    folder = evaluate.run(made).output_dir
    assert folder is not None
    return json.loads((folder / "metrics.json").read_text())


def test_the_mean_of_seeds_is_a_row(evaluation) -> None:
    rows = {row["name"]: row["metrics"] for row in evaluation["rows"]}
    mean, first, second = rows["mean-of-seeds-1"]["leaked"], rows["run0"]["leaked"], rows["run1"]
    values = first["value"], second["leaked"]["value"]
    assert mean["value"] == pytest.approx(np.mean(values))
    assert mean["details"] == pytest.approx({"seeds": 2, "sd_of_seeds": np.std(values)})
    assert mean["n"] == 2 * first["n"]
    assert mean["interval"][0] < min(values) + 0.05  # a draw may take one seed twice
    assert mean["interval"][1] > max(values)


def test_an_evaluation_compares_checks_and_splits(evaluation) -> None:
    tested = {(one["metric"], one["row"], one["other"]): one for one in evaluation["comparisons"]}
    assert tested["leaked", "run0", "run2"]["difference"] < 0
    assert ("leaked", "run0", "blur") in tested
    checks = {check["what"]: check for check in evaluation["checks"]}
    assert checks["identity: SSIM outside the private layers"]["passed"]
    attack = "Attack: re-identified by crops as pixels"
    assert checks[f"identity: {attack}"]["value"] == 1.0
    assert checks[f"identity: {attack}"]["passed"]
    assert f"unrelated: {attack}" in checks
    assert {one["by"] for one in evaluation["strata"]} <= {"face_size", "persons", "label"}
    assert evaluation["strata"]
    stratum = evaluation["strata"][0]
    assert stratum["rows"]["run0"]["leaked"]["n"] < tested["leaked", "run0", "run2"]["n"] * 20


def test_an_attackers_mean_over_seeds_has_no_interval_of_its_own(evaluation) -> None:
    rows = {row["name"]: row["metrics"] for row in evaluation["rows"]}
    name = "naive_reidentification_pixels"
    found = rows["mean-of-seeds-1"][name]
    assert found["value"] == pytest.approx(
        (rows["run0"][name]["value"] + rows["run1"][name]["value"]) / 2
    )
    assert found["interval"] is None
    assert rows["run0"][name]["details"]["measurable"] == 0.0  # of twelve scenes


def test_no_leak_at_all_has_an_exact_interval(evaluation) -> None:
    rows = {row["name"]: row["metrics"] for row in evaluation["rows"]}
    perfect = rows["run0"]["reidentified"]
    if perfect["value"] == 0.0:
        assert perfect["details"]["exact_interval"] == 1.0
        assert perfect["interval"][1] == pytest.approx(1 - 0.025 ** (1 / 12))

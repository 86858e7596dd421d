"""suite=truth: editors on scenes whose records are known, beside the perfect edit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation.make_run import Fate, make_run

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ExitStatus, OutcomeState
from unsafe2safe.data.synthetic import render
from unsafe2safe.data.synthetic.source import SyntheticSource
from unsafe2safe.jobs import evaluate, train
from unsafe2safe.metrics.base import PairSample, SceneTruth
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.metrics.scene_truth import Followed, KeptEqual, Leaked
from unsafe2safe.metrics.truth import score
from unsafe2safe.vision.attribute_reader import the_reader

RANDOM = ["editor.init_seed=0", "editor.prediction_type=v_prediction"]
SIZE = 10


def config(root: Path, *overrides: str) -> Evaluate:
    paths = [f"paths.runs={root / 'runs'}", f"paths.private={root / 'private'}"]
    small = [*RANDOM, f"dataset.size={SIZE}", "editor.steps=2", "engine.unit_size=4"]
    made = load("evaluate", ["suite=truth", *small, "engine.threads=1", *paths, *overrides])
    assert isinstance(made, Evaluate)
    return made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("truth")


@pytest.fixture(scope="module")
def adapter(root: Path) -> Path:
    short = ["experiment=tiny_finetune", *RANDOM, "task.scenes=2", "task.held_out=1"]
    short += [
        "trainer.max_steps=1",
        "trainer.batch_size=1",
        "trainer.gradient_check=false",
        "editor.source=blank",
    ]
    made = load("train", [*short, f"output_dir={root / 'tuned'}", f"paths.private={root / 'p'}"])
    assert isinstance(made, Train)
    train.run(made)
    return root / "tuned"


@pytest.fixture(scope="module")
def rows(root: Path, adapter: Path) -> dict[str, dict[str, dict[str, float]]]:
    result = evaluate.run(config(root, f"runs=[{adapter}]"))
    assert result.status is ExitStatus.DONE
    assert result.output_dir is not None
    content = json.loads((result.output_dir / "metrics.json").read_text())
    page = (result.output_dir / "report.html").read_text()
    assert "<img" not in page  # edits that nobody verified are measured, not shown
    assert "Original values still found: skin" in page
    return {row["name"]: row["metrics"] for row in content["rows"]}


def test_base_adapter_and_references_are_rows_of_one_table(rows) -> None:
    assert list(rows) == [
        "base",
        "tuned",
        "identity",
        "reconstruction",
        "target",
        "target_reconstruction",
    ]


def test_the_perfect_edit_and_a_copy_bound_every_figure(rows) -> None:
    target, copy = rows["target"], rows["identity"]
    assert target["followed"]["value"] >= 0.95
    assert target["leaked"]["value"] <= 0.05
    assert target["kept_equal"]["value"] >= 0.95
    assert copy["leaked"]["value"] >= 0.95
    assert copy["followed"]["value"] <= 0.05
    for row in (target, copy):
        assert row["outside_ssim"]["value"] == 1.0
    assert copy["reidentified"]["value"] >= 0.9


def test_an_untrained_editor_is_measured_as_it_is(rows) -> None:
    assert rows["base"]["followed"]["value"] < 0.6
    assert rows["base"]["followed"]["n"] == rows["target"]["followed"]["n"]
    assert rows["base"]["outside_ssim"]["value"] < 0.9


def test_figures_are_those_of_the_array_function(root: Path) -> None:
    source = SyntheticSource(name="synthetic", size=SIZE, seed=1)
    ids = [record.image_id for record in source.records()]
    pairs = [source.edit_of(image_id, 0).redrawn for image_id in ids]
    edits = np.stack([render(pair.source) for pair in pairs])
    edits[:, 20:, ::2] //= 2
    expected = score(pairs, edits, the_reader())
    gallery = [pair.source for pair in pairs]
    samples = [
        PairSample(
            image_id,
            ImageFeatures(render(pair.source), None),  # type: ignore[arg-type]
            ImageFeatures(edit, None),  # type: ignore[arg-type]
            np.zeros((64, 64), np.bool_),
            truth=SceneTruth(pair, gallery),
        )
        for image_id, pair, edit in zip(ids, pairs, edits, strict=True)
    ]
    for kind, group in ((Followed, "followed"), (Leaked, "leaked"), (KeptEqual, "kept")):
        for name in ("skin", "hair_style", "letters"):
            if f"{group}/{name}" in expected:
                found = kind(attributes=(name,)).measure(samples)
                values = [value for score_ in found for value in score_.values]
                assert np.mean(values) == pytest.approx(expected[f"{group}/{name}"].value)
                assert len(values) == expected[f"{group}/{name}"].n


def test_runs_of_anonymize_are_measured_against_the_truth_too(tmp_path: Path) -> None:
    source = SyntheticSource(name="synthetic", size=4)
    targets = {
        record.image_id: render(source.edit_of(record.image_id, 0).redrawn.scene)
        for record in source.records()
    }
    fates = {image_id: Fate(pixels) for image_id, pixels in targets.items()}
    fates["00000003.png"] = Fate(state=OutcomeState.NEEDS_REVIEW, reason="a face is still found")
    dataset = ["dataset=synthetic", "dataset.size=4"]
    run = make_run(tmp_path, dataset, fates)
    places = [f"paths.runs={tmp_path / 'outputs'}", f"paths.private={tmp_path / 'private'}"]
    made = load("evaluate", [*dataset, *places, f"runs=[{run}]", "metrics=truth"])
    assert isinstance(made, Evaluate)
    folder = evaluate.run(made).output_dir
    assert folder is not None
    row = json.loads((folder / "metrics.json").read_text())["rows"][0]["metrics"]
    assert row["followed"]["value"] >= 0.95
    assert row["followed"]["n_missing"] >= 3  # of the scene that was held back
    assert row["outside_ssim"]["value"] == 1.0


def test_what_has_no_known_truth_does_not_apply() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    features = ImageFeatures(pixels, None)  # type: ignore[arg-type]
    sample = PairSample("a photograph", features, features, np.zeros((64, 64), np.bool_))
    assert Followed(attributes=("skin",)).measure([sample])[0].not_applicable == 1


def test_mistakes_are_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not know what its pictures show"):
        evaluate.run(config(root, "dataset=samples", "~dataset.size", "~dataset.seed"))
    with pytest.raises(UsageError, match="does not edit by an instruction"):
        evaluate.run(load_redact(root))
    images = load("evaluate", ["references=[target]", f"paths.runs={tmp_path}"])
    with pytest.raises(UsageError, match="needs suite=truth"):
        evaluate.run(images)  # type: ignore[arg-type]


def load_redact(root: Path) -> Evaluate:
    made = load("evaluate", ["suite=truth", "editor=redact", f"paths.runs={root / 'runs'}"])
    assert isinstance(made, Evaluate)
    return made

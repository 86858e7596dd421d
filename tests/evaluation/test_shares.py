"""Shares of an evaluation come to what one process finds; what they keep is private."""

import json

import numpy as np
import pytest
from evaluation.conftest import make_world, photo
from evaluation.make_run import Fate, make_run
from PIL import Image

from unsafe2safe.core.config.components import component
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import MetricResult
from unsafe2safe.evaluation.results import Evaluation
from unsafe2safe.jobs import evaluate
from unsafe2safe.metrics.base import SetMetric
from unsafe2safe.vision.faces import FaceDetector


@component
class ColourShift(SetMetric):
    """How far the set's mean colour moves: a figure of the whole set."""

    title = "Colour shift"
    group = "quality"
    direction = "down"
    bounded = False
    definition = "For tests."

    def expected(self, sample):
        return 1

    def arrays(self, samples):
        return [
            {
                "original.colour": s.original.pixels.mean((0, 1)),
                "edited.colour": s.after.pixels.mean((0, 1)),
            }
            for s in samples
        ]

    def conclude(self, found, samples, rng):
        shift = np.mean([one["edited.colour"] - one["original.colour"] for one in found], axis=0)
        return MetricResult(float(np.abs(shift).sum()), len(found))


@component
class NeverThere(ColourShift):
    title = "Never there"

    def unavailable(self):
        return "its weights are missing"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("shares"))


def config(world, name, *overrides):
    made = world.config(
        f"runs=[{world.run}]",
        f"output_dir={world.root / name}",
        "engine.unit_size=2",
        "references=[identity,mask,unrelated]",
        *overrides,
        metrics=["ssim", "psnr_outside"],
    )
    further = {
        "shift": {"_target_": f"{__name__}.ColourShift"},
        "absent": {"_target_": f"{__name__}.NeverThere"},
    }
    return made.model_copy(update={"metrics": {**made.metrics, **further}})


@pytest.fixture(scope="module")
def whole(world):
    return evaluate.run(config(world, "whole")).output_dir


def figures(folder):
    return {row.name: row.metrics for row in Evaluation.read(folder / "metrics.json").rows}


def test_two_shards_and_a_merge_give_the_same_bytes(world, whole):
    for shard in ("0/2", "1/2"):
        result = evaluate.run(config(world, "shares", f"engine.shard={shard}"))
        assert "mode=merge" in result.message
        assert not (result.output_dir / "metrics.json").exists()
    merged = evaluate.run(config(world, "shares", "mode=merge"))
    for file in ("metrics.json", "tables/figures.csv", "tables/run.csv"):
        assert (merged.output_dir / file).read_bytes() == (whole / file).read_bytes(), file


def test_a_merge_names_the_share_that_is_missing(world):
    evaluate.run(config(world, "half", "engine.shard=0/2"))
    with pytest.raises(UsageError, match=r"lacks 1 of 3 units: part-000001; .* engine.shard=1/2"):
        evaluate.run(config(world, "half", "mode=merge"))
    with pytest.raises(UsageError, match="no measurements to merge"):
        evaluate.run(config(world, "nothing", "mode=merge"))


def test_a_figure_of_the_set_counts_and_is_the_same_after_a_resume(world, whole, monkeypatch):
    found = figures(whole)
    assert found["identity"]["shift"].value == 0
    assert found["mask"]["shift"].value > 0
    assert (found["run"]["shift"].n, found["run"]["shift"].n_missing) == (3, 2)
    arrays = sorted((world.root / "private").rglob("units/*.safetensors"))
    assert arrays
    assert not list(whole.rglob("*.safetensors"))
    (whole / "metrics.json").unlink()
    state = json.loads((whole / "run.json").read_text())
    (whole / "run.json").write_text(json.dumps({**state, "status": "running"}))
    monkeypatch.setattr("unsafe2safe.evaluation.runner.Runner._write", None)
    evaluate.run(config(world, "whole"))
    assert figures(whole)["mask"]["shift"] == found["mask"]["shift"]


def test_a_unit_whose_arrays_are_gone_is_measured_again(world):
    folder = evaluate.run(config(world, "again")).output_dir
    before = (folder / "metrics.json").read_bytes()
    for file in (world.root / "private" / "evaluate").glob("again-*/units/*.safetensors"):
        file.write_bytes(b"broken")
    (folder / "metrics.json").unlink()
    state = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**state, "status": "running"}))
    evaluate.run(config(world, "again"))
    assert (folder / "metrics.json").read_bytes() == before


def test_what_cannot_be_measured_says_why_in_table_and_report(whole):
    result = figures(whole)["run"]["absent"]
    assert (result.value, result.n, result.unavailable) == (None, 0, "its weights are missing")
    assert "its weights are missing" in (whole / "report.html").read_text()


def test_unrelated_pairs_never_show_the_original(world, whole):
    found = figures(whole)["unrelated"]
    assert found["ssim"].n == 4
    assert found["ssim"].value < 0.5


def test_originals_are_looked_at_once_for_all_runs_and_purged_on_request(world, monkeypatch):
    looks = []
    detect = FaceDetector.detect
    monkeypatch.setattr(
        FaceDetector, "detect", lambda self, images: looks.append(1) or detect(self, images)
    )

    def run(name):
        made = world.config(
            f"runs=[{world.run}]",
            f"output_dir={world.root / name}",
            "references=[identity]",
            metrics=["faces_vanished"],
        )
        looks.clear()
        return evaluate.run(made), len(looks)

    for file in (world.root / "private" / "features").glob("*"):
        file.unlink()
    (first, cold), (second, warm) = run("faces-1"), run("faces-2")
    assert cold > 0
    assert warm == 0
    assert figures(first.output_dir) == figures(second.output_dir)
    stores = world.root / "private" / "features"
    assert list(stores.glob("*.sqlite"))
    made = world.config(f"runs=[{world.run}]", f"output_dir={world.root / 'faces-1'}", "mode=purge")
    evaluate.run(made.model_copy(update={"metrics": {}}))
    assert not list(stores.iterdir())
    assert run("faces-3")[1] == cold


def test_originals_of_a_folder_are_looked_at_once_whatever_their_edits(tmp_path, monkeypatch):
    looks = []
    detect = FaceDetector.detect
    monkeypatch.setattr(
        FaceDetector, "detect", lambda self, images: looks.extend(images) or detect(self, images)
    )
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for name, times in (("originals", 1), ("dark", 2), ("darker", 3)):
        (tmp_path / name).mkdir()
        Image.fromarray(picture // times).save(tmp_path / name / "a.png")
    for edits in ("dark", "darker"):
        looks.clear()
        made = load(
            "evaluate",
            [
                f"originals={tmp_path / 'originals'}", f"edited={tmp_path / edits}",
                f"paths.runs={tmp_path / 'runs'}", f"paths.private={tmp_path / 'private'}",
                "references=[]", "mask_categories=[face]",
            ],
        )  # fmt: skip
        kept = {"faces_vanished": made.metrics["faces_vanished"]}
        evaluate.run(made.model_copy(update={"metrics": kept}))
        seen = [np.array_equal(image, picture) for image in looks]
        assert any(seen) == (edits == "dark")


def test_runs_of_two_seeds_are_reported_though_a_metric_is_not_available(world):
    other = make_run(
        world.root,
        ["dataset=folder", f"dataset.root={world.originals}", "seed=5"],
        {name: Fate(photo(name) // 2) for name in ("cat.jpg", "note.jpg")},
        name="seed-5",
    )
    runs = f"runs=[{world.run},{other}]"
    folder = evaluate.run(config(world, "seeds", runs)).output_dir
    assert figures(folder)["mean-of-seeds-1"]["absent"].unavailable == "its weights are missing"
    assert "mean of 2 seeds" in (folder / "report.html").read_text()

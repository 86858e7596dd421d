"""train.py mode=sweep on the tiny editor: trials in folders of their own, resumed, and a front."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import cast

import pytest
from PIL import Image
from tiny_bases import write_base

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.jobs import train
from unsafe2safe.jobs.sweep_trials import read_points

STUDY = [
    "mode=sweep",
    "experiment=tiny_finetune",
    "task.scenes=2",
    "task.held_out=6",
    "trainer.max_steps=2",
    "trainer.batch_size=2",
    "trainer.warmup_steps=1",
    "trainer.gradient_check=false",
    "editor=ip2p",
    "editor.resolution=64",
    "editor.steps=1",
    "sweep.n_trials=2",
    "sweep.sampler=random",
    "engine.threads=1",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def config_of(base: Path, folder: Path, *overrides: str) -> Train:
    places = [f"paths.runs={folder / 'runs'}", f"paths.private={folder / 'private'}"]
    places += [f"editor.weights={base}", f"output_dir={folder / 'study'}"]
    return cast(Train, load("train", [*STUDY, *places, *overrides]))


def sweep(base: Path, folder: Path, *overrides: str) -> RunResult:
    return train.run(config_of(base, folder, *overrides))


def trials(folder: Path) -> dict[str, dict]:
    """run.json of each trial, by the folder's name."""
    return {
        path.parent.name: json.loads(path.read_text()) for path in folder.rglob("trials/*/run.json")
    }


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    folder = tmp_path_factory.mktemp("sweep")
    return folder, sweep(base, folder, "logger=wandb")


@pytest.mark.slow
def test_each_trial_is_a_run_of_its_own_with_the_values_it_was_given(finished) -> None:
    folder, result = finished
    assert result.status is ExitStatus.DONE
    assert result.counts["trials"] == 2
    runs = trials(folder)
    assert len(runs) == 3  # and the defaults
    rows = list(csv.DictReader((folder / "study/front.csv").open()))
    assert [row["trial"] for row in rows] == ["defaults", "0", "1"]
    for row in rows:
        config = runs[row["run"]]["config"]
        assert config["editor"]["rank"] == config["editor"]["alpha"] == float(row["editor.rank"])
        assert config["editor"]["dropout"] == float(row["editor.dropout"])
        rate = config["trainer"]["learning_rate"]
        assert rate == pytest.approx(float(row["trainer.learning_rate"]))
        held_out = runs[row["run"]]["held_out"]
        assert float(row["privacy"]) == pytest.approx(1 - held_out["leaked/mean"])
        assert float(row["fidelity"]) == pytest.approx(held_out["outside/ssim"])
    defaults = runs[rows[0]["run"]]["config"]
    assert (defaults["editor"]["rank"], defaults["trainer"]["learning_rate"]) == (16, 2e-3)


@pytest.mark.slow
def test_the_front_is_a_picture_and_a_table_that_says_what_it_is_worth(finished) -> None:
    folder, result = finished
    with Image.open(folder / "study/front.png") as picture:
        assert picture.size == (900, 680)
    told = json.loads((folder / "study/front.json").read_text())
    assert told["verdict"] in result.message
    assert "the defaults' point" in told["verdict"]
    assert any(point["front"] for point in told["points"])


@pytest.mark.slow
def test_wandb_is_given_the_front_as_an_artifact_and_no_place_of_this_machine(finished) -> None:
    folder, _ = finished
    content = b"".join(p.read_bytes() for p in (folder / "study/wandb").rglob("*.wandb"))
    for name in (b"pareto-front", b"front.png", b"front.csv", b"front.json"):
        assert name in content
    assert str(Path.home()).encode() + b"/" not in content


@pytest.mark.slow
def test_a_finished_study_is_left_alone_and_goes_on_when_more_trials_are_asked_for(
    base: Path, finished
) -> None:
    folder, _ = finished
    before = trials(folder)
    assert "complete already" in sweep(base, folder).message
    assert trials(folder) == before
    result = sweep(base, folder, "sweep.n_trials=3")
    after = trials(folder)
    assert result.counts["trials"] == 3
    assert {
        name: after[name] for name in before
    } == before  # clocks and all: none was trained again
    assert len(after) == 4


@pytest.mark.slow
def test_stopped_in_a_trial_it_goes_on_with_the_same_values_and_ends_as_it_would_have(
    base: Path, finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished
    honest, begun = train.run, []

    def killed(config):
        begun.append(config.output_dir)
        if len(begun) == 3:  # the defaults, trial 0, and in trial 1 the process dies
            raise SystemError
        return honest(config)

    monkeypatch.setattr("unsafe2safe.jobs.train_sweep.train.run", killed)
    with pytest.raises(SystemError):
        honest(config_of(base, tmp_path))
    monkeypatch.undo()
    result = sweep(base, tmp_path)
    assert result.counts["trials"] == 2
    assert begun[2].name in trials(tmp_path)

    def first(place: Path) -> list[dict]:
        points = json.loads((place / "study/front.json").read_text())["points"]
        return [point for point in points if point["trial"] in ("defaults", "0", "1")]

    chosen = ("trial", "run", "privacy", "fidelity", "editor.rank", "trainer.learning_rate")
    assert [[p[n] for n in chosen] for p in first(tmp_path)] == [
        [p[n] for n in chosen] for p in first(folder)
    ]


@pytest.mark.slow
def test_a_trial_that_diverges_fails_and_the_others_go_on(base: Path, tmp_path: Path) -> None:
    rates = [f"sweep.parameters.learning_rate.{end}" for end in ("low=1e29", "high=1e30")]
    result = sweep(base, tmp_path, *rates, "sweep.n_trials=1", "trainer.max_steps=3")
    assert result.status is ExitStatus.DONE_WITH_FAILURES
    assert result.counts == {"trials": 1, "failed": 1, "front": 1}
    row = json.loads((tmp_path / "study/failures.jsonl").read_text())
    assert row["trial"] == "0"
    assert "the loss is" in row["reason"]


@pytest.mark.parametrize(
    ("axis", "told"),
    [
        ("{keys:[editor.rnk],choices:[2]}", "unknown key 'editor.rnk'; did you mean 'editor.rank'"),
        ("{keys:[trainer.devices],choices:[1,2]}", "trainer.devices changes no result"),
        ("{keys:[editor.rank],low:4}", "give choices, or low and a greater high"),
        ("{keys:[editor.rank],low:0,high:4,log:true}", "log=true wants low above 0"),
        ("{keys:[editor.rank],low:1,high:4,choices:[3]}", "not both"),
    ],
)
def test_axes_that_cannot_be_swept_are_told_before_any_work(
    base: Path, tmp_path: Path, axis: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        sweep(base, tmp_path, f"+sweep.parameters.x={axis}")
    assert not (tmp_path / "study").exists()


def test_points_are_of_the_last_validation_and_its_guidance(tmp_path: Path) -> None:
    folder = tmp_path / "validation"
    folder.mkdir()
    for step, privacy in ((100, 0.2), (200, 0.4)):
        point = {"guidance": {"text_guidance_scale": 3.0}, "privacy": privacy, "fidelity": 0.9}
        nothing = {"guidance": {}, "privacy": None, "fidelity": 0.1, "metrics": {}}
        content = {"step": step, "points": [point | {"metrics": {"faces": 0.1}}, nothing]}
        (folder / f"step-{step:08d}.json").write_text(json.dumps(content))
    (point,) = read_points(tmp_path)
    assert (point.privacy, point.fidelity) == (0.4, 0.9)
    assert point.guidance == {"text_guidance_scale": 3.0}
    (folder / "step-00000300.json").write_text('{"points": [{}]}')
    with pytest.raises(UsageError, match="holds no point"):
        read_points(tmp_path)
    with pytest.raises(UsageError, match=r"give validation\.every"):
        read_points(tmp_path / "elsewhere")

"""Sweeps of trainings on two processes each: by each launcher, as a study, under torchrun."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, Finished, run_script
from end_to_end.null_runs import kill_when
from safetensors.torch import load_file
from tiny_bases import write_base
from training.make_pairs import World, make_world

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.ledger import read_run
from unsafe2safe.jobs import train
from unsafe2safe.tracking.csv_sink import read_rows

pytestmark = pytest.mark.slow
RATES = (0.02, 0.001)
ALONE = ("trainer.batch_size=4",)
TWO = ("trainer.batch_size=2", "trainer.devices=2")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = write_base(tmp_path_factory.mktemp("base"))
    return [
        "editor=ip2p",
        f"editor.weights={base}",
        "editor.resolution=64",
        "editor.steps=1",
        "trainer.warmup_steps=1",
        "trainer.gradient_check=false",
        "engine.threads=1",
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), 5)


def losses(run: Path) -> list[float]:
    return [float(row[1]) for row in read_rows(run / "metrics.csv", ["loss", "learning_rate"])]


def weights(run: Path) -> dict:
    return load_file(run / "adapter" / "pytorch_lora_weights.safetensors")


def the_same(run: Path, alone: Path) -> None:
    """A rank with other values than its first one's would have pulled the losses its own way."""
    assert losses(run) == pytest.approx(losses(alone), abs=1e-6)
    trained = weights(run)
    for name, value in weights(alone).items():
        assert (trained[name] - value).abs().max() <= 1e-3, (
            name
        )  # AdamW enlarges what rounding leaves


@pytest.fixture(scope="module")
def alone(small, world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """Each job of the grid by itself in one process, by its learning rate."""
    folder = tmp_path_factory.mktemp("alone")
    for rate in RATES:
        rest = [f"trainer.learning_rate={rate}", f"output_dir={folder / str(rate)}"]
        overrides = [*world.overrides, *small, *ALONE, "trainer.max_steps=3", *rest]
        train.run(load("train", overrides))  # type: ignore[arg-type]
    return {rate: folder / str(rate) for rate in RATES}


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_each_job_of_a_grid_has_its_folder_and_its_values_on_both_processes(
    small, world: World, alone: dict[float, Path], tmp_path: Path, launcher: str
) -> None:
    given = [f"launcher={launcher}", "trainer.max_steps=3"]
    given += [f"trainer.learning_rate={RATES[0]},{RATES[1]}", f"paths.runs={tmp_path / 'runs'}"]
    ended = run_script("train", "-m", *world.overrides, *small, *TWO, *given, cwd=tmp_path)
    assert ended.status == 0, ended.said
    assert ended.stdout.count("trained 3 steps") == 2
    runs = sorted((tmp_path / "runs" / "train").iterdir())
    rates = {(read_run(run) or {})["config"]["trainer"]["learning_rate"]: run for run in runs}
    assert len(runs) == 2
    assert rates.keys() == set(RATES)
    for rate, run in rates.items():
        the_same(run, alone[rate])
    assert not list((tmp_path / "runs" / "multirun").glob(".results*"))


def test_the_worst_job_is_the_status_wherever_jobs_run(small, world: World, tmp_path: Path) -> None:
    """Under submitit each job's output goes to a file; the sweep tells it all the same."""
    given = ["launcher=submitit_local", "trainer.max_steps=1", "editor.targets=[to_q],[to_x]"]
    runs = f"paths.runs={tmp_path / 'runs'}"
    ended = run_script("train", "-m", *world.overrides, *small, *ALONE, *given, runs, cwd=tmp_path)
    assert ended.status == 2, ended.said
    assert "trained 1 steps" in ended.stdout
    assert "train.py: editor.targets: 'to_x' matches no layer" in ended.stderr


STUDY = (
    "mode=sweep",
    "experiment=tiny_finetune",
    "task.scenes=4",
    "task.held_out=6",
    "trainer.max_steps=6",
    "trainer.checkpoint_every=2",
    "sweep.n_trials=1",
    "~sweep.parameters.dropout",  # whose masks belong to a batch, and so to how it is dealt
)


@pytest.fixture(scope="module")
def study(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, each trial in one process."""
    folder = tmp_path_factory.mktemp("study")
    places = [f"paths.private={folder / 'private'}", f"output_dir={folder / 'study'}"]
    train.run(load("train", [*STUDY, *small, *ALONE, *places]))  # type: ignore[arg-type]
    return folder / "study"


def compare(ended: Path, study: Path) -> None:
    trials = sorted(path.name for path in (study / "trials").iterdir())
    assert sorted(path.name for path in (ended / "trials").iterdir()) == trials
    for name in trials:
        the_same(ended / "trials" / name, study / "trials" / name)
    fronts = [list(csv.DictReader((folder / "front.csv").open())) for folder in (ended, study)]
    for row, other in zip(*fronts, strict=True):
        assert row["run"] == other["run"]
        assert float(row["privacy"]) == pytest.approx(float(other["privacy"]), abs=1e-3)


def command(small: list[str], folder: Path) -> list[str]:
    places = [f"paths.private={folder / 'private'}", f"output_dir={folder / 'study'}"]
    return [str(REPOSITORY / "train.py"), *STUDY, *small, *TWO, *places]


def run_command(call: list[str], folder: Path) -> Finished:
    ended = subprocess.run(
        call, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=600, check=False
    )
    return Finished(ended.returncode, ended.stdout, ended.stderr)


def test_a_study_on_two_processes_killed_in_a_trial_ends_as_on_one(
    small, study: Path, tmp_path: Path
) -> None:
    call = [sys.executable, *command(small, tmp_path)]
    first = subprocess.Popen(
        call, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ
    )

    def in_the_trial() -> bool:
        return len(list((tmp_path / "study/trials").glob("*"))) == 2

    assert kill_when(first, in_the_trial)
    ended = run_command(call, tmp_path)
    assert ended.status == 0, ended.said
    assert "1 trials beside the defaults" in ended.stdout
    compare(tmp_path / "study", study)


def test_under_torchrun_all_processes_train_each_trial_and_the_first_knows_the_study(
    small, study: Path, tmp_path: Path
) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = run_command([sys.executable, *launcher, *command(small, tmp_path)], tmp_path)
    assert ended.status == 0, ended.said
    assert ended.stdout.count("1 trials beside the defaults") == 1
    compare(tmp_path / "study", study)

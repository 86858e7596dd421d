"""train.py on two processes: the losses, weights and validations of one, also killed, stopped,
launched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from conftest import REPOSITORY, run_script
from end_to_end.null_runs import kill_when
from safetensors.torch import load_file
from torch.utils._pytree import tree_leaves_with_path
from training.make_pairs import World, make_world

from unsafe2safe.core.ledger import read_run
from unsafe2safe.tracking.csv_sink import read_rows
from unsafe2safe.training.validation.results import read_results

pytestmark = pytest.mark.slow
STEPS = 7
SETTINGS = (
    "editor.init_seed=0",
    f"trainer.max_steps={STEPS}",
    "trainer.checkpoint_every=2",
    "trainer.ema=0.9",
    "engine.threads=1",
    "validation.every=3",
    "validation.share=0.4",
)
ALONE = ("trainer.batch_size=4",)
TWO = ("trainer.batch_size=2", "trainer.devices=2")
UNSEEN = ("validation.every=null",)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(
        tmp_path_factory.mktemp("world"), 8, regions=True
    )  # five to train on: an epoch ends within a batch; three to validate on


def losses(output: Path) -> dict[int, float]:
    rows = read_rows(output / "metrics.csv", ["loss", "learning_rate"])
    return {int(step): float(loss) for step, loss, _ in rows}


def weights(output: Path) -> dict:
    return load_file(output / "adapter" / "pytorch_lora_weights.safetensors")


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    ended = run_script(
        "train", *world.overrides, *SETTINGS, *ALONE, f"output_dir={folder / 'run'}", cwd=folder
    )
    assert ended.status == 0, ended.said
    return folder / "run"


def command(world: World, output: Path, *overrides: str) -> list[str]:
    script = str(REPOSITORY / "train.py")
    return [script, *world.overrides, *SETTINGS, *overrides, f"output_dir={output}"]


def kept_steps(output: Path) -> set[int]:
    found = (read_run(output) or {})["validation"]
    return {found["best"], *found["pareto"]}


def the_same_training(output: Path, alone: Path) -> None:
    assert losses(output).keys() == losses(alone).keys() == set(range(1, STEPS + 1))
    for step, loss in losses(alone).items():
        assert losses(output)[step] == pytest.approx(loss, abs=1e-6), step
    trained = weights(output)
    for name, value in weights(alone).items():
        assert (trained[name] - value).abs().max() <= 1e-5, name


def the_same(output: Path, alone: Path) -> None:
    the_same_training(output, alone)
    validated, expected = read_results(output), read_results(alone)
    assert [result.step for result in validated] == [3, 6, 7]
    for ours, theirs in zip(validated, expected, strict=True):
        assert ours.step == theirs.step
        for point, other in zip(ours.points, theirs.points, strict=True):
            assert point.guidance == other.guidance
            assert point.metrics == pytest.approx(other.metrics, abs=1e-3)
            assert (point.privacy, point.fidelity) == pytest.approx(
                (other.privacy, other.fidelity), abs=1e-3
            )
    assert {path.name for path in (output / "validated").iterdir()} == {
        f"step-{step:08d}" for step in kept_steps(output)
    }


def test_two_processes_killed_and_stopped_give_the_losses_and_weights_of_one(
    world: World, alone: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    call = [sys.executable, *command(world, output, *TWO)]
    checkpoints = output / "checkpoints"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            call, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ
        )

    assert kill_when(start(), (checkpoints / "step-00000002.ckpt").exists)
    stopped = start()
    while stopped.poll() is None and not losses_beyond(output, 2):
        pass
    stopped.send_signal(signal.SIGTERM)
    _, said = stopped.communicate(timeout=300)
    assert stopped.returncode in (0, 143), said.decode()  # 0: it was at its last step already
    # and on with one process, since only the samples of a step count
    last = run_script(
        "train", *world.overrides, *SETTINGS, *ALONE, f"output_dir={output}", cwd=tmp_path
    )
    assert last.status == 0, last.said
    the_same(output, alone)
    assert (read_run(output) or {})["status"] == "complete"


def test_weights_shared_out_over_two_processes_give_those_of_ddp_on_two(
    world: World, tmp_path: Path
) -> None:
    ddp = tmp_path / "ddp"
    ended = run_script(
        "train", *world.overrides, *SETTINGS, *TWO, *UNSEEN, f"output_dir={ddp}", cwd=tmp_path
    )
    assert ended.status == 0, ended.said
    output = tmp_path / "run"
    shared = (*TWO, *UNSEEN, "trainer.strategy=fsdp", "trainer.gradient_checkpointing=true")
    call, checkpoints = command(world, output, *shared), output / "checkpoints"
    first = subprocess.Popen(
        [sys.executable, *call], cwd=tmp_path, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, env=os.environ,
    )  # fmt: skip
    assert kill_when(first, (checkpoints / "step-00000002.ckpt").exists)
    last = subprocess.run(
        [sys.executable, *call],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert last.returncode == 0, last.stdout + last.stderr
    assert "resuming after step 2" in last.stderr
    the_same_training(output, ddp)
    # and a checkpoint of it is one that DDP goes on from, on any number of processes
    ours, theirs = (
        torch.load(folder / "checkpoints" / f"step-{STEPS:08d}.ckpt", weights_only=True)
        for folder in (output, ddp)
    )
    for key in ("state_dict", "optimizer_states", "average", "sampler"):
        one, other = (dict(tree_leaves_with_path(content[key])) for content in (ours, theirs))
        assert one.keys() == other.keys()
        for path, value in other.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(one[path], value, atol=1e-5, rtol=1e-4)
            else:
                assert one[path] == value, path


def losses_beyond(output: Path, step: int) -> bool:
    try:
        return max(losses(output), default=0) > step
    except (OSError, ValueError):
        return False


def test_torchrun_and_accumulated_batches_give_them_too(
    world: World, alone: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    dealt = ("trainer.batch_size=1", "trainer.devices=2", "trainer.accumulate=2")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*launcher, *command(world, output, *dealt)],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("trained 7 steps") == 1  # one of the two tells
    the_same(output, alone)
    again = subprocess.run(
        [*launcher, *command(world, output, *dealt)],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "is complete already" in again.stdout


def test_when_one_process_dies_all_end_and_the_first_says_which(
    world: World, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, *command(world, output, *TWO, "trainer.max_steps=5000")],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ,
    )  # fmt: skip
    while first.poll() is None and not losses_beyond(output, 1):
        pass
    (other,) = psutil.Process(first.pid).children()
    other.kill()
    _, said = first.communicate(timeout=120)
    assert first.returncode == 2
    assert b"train.py: rank 1 ended with status -9; see its lines above" in said
    assert not other.is_running()


def test_another_number_of_processes_than_was_started_is_told(world: World, tmp_path: Path) -> None:
    environment = {
        "TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999",
    }  # fmt: skip
    ended = run_script(
        "train", *world.overrides, "trainer.devices=4", cwd=tmp_path, env=environment
    )
    assert ended.status == 2
    assert "2 processes were started, but trainer.devices=4" in ended.stderr
    nodes = run_script("train", *world.overrides, "trainer.num_nodes=2", cwd=tmp_path)
    assert nodes.status == 2
    assert "start train.py on each node with torchrun or srun" in nodes.stderr

"""train.py on small made pairs: what it learns, what it writes, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training.make_pairs import World, make_world

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.records import ExitStatus, Pair, RunResult
from unsafe2safe.core.tables import write_records
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.tiny import TinyEditor
from unsafe2safe.jobs.train import run
from unsafe2safe.tracking.csv_sink import read_rows
from unsafe2safe.training.editor_task import InstructPix2PixTask
from unsafe2safe.training.export import fixed_picture

REPOSITORY = Path(__file__).parents[2]
SHORT = ["trainer.max_steps=6", "trainer.batch_size=2", "trainer.checkpoint_every=4"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), 5)


def arguments_of(world: World, output: Path, *overrides: str) -> list[str]:
    # a random base trains alike and is quick to make; editor=redact knows no such key
    base = [] if "editor=redact" in overrides else ["editor.init_seed=0"]
    return [*world.overrides, *base, "engine.threads=1", f"output_dir={output}", *overrides]


def train(world: World, output: Path, *overrides: str) -> RunResult:
    arguments = arguments_of(world, output, *overrides)
    return run(load("train", arguments))  # type: ignore[arg-type]


def losses(output: Path) -> list[tuple[int, float, float]]:
    rows = read_rows(output / "metrics.csv", ["loss", "learning_rate"])
    return [(int(step), float(loss), float(rate)) for step, loss, rate in rows]


@pytest.fixture(scope="module")
def lora_run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("lora") / "run"
    result = train(world, output, *SHORT)
    assert result.status is ExitStatus.DONE
    return output


def tiny(**settings: Any) -> TinyEditor:
    values = dict(load("train").editor) | {"init_seed": 0} | settings  # type: ignore[attr-defined]
    return build(values, "editor", TinyEditor)


def request(text: str = "give the person red hair") -> EditRequest:
    picture = fixed_picture(64)
    return EditRequest(picture, np.zeros((64, 64), np.float32), (), "a person", text, seed=5)


@pytest.mark.slow
def test_training_all_weights_lowers_the_loss_below_0_7_of_its_beginning(
    world: World, tmp_path: Path
) -> None:
    steps = ["trainer.max_steps=40", "trainer.batch_size=4"]
    train(world, tmp_path / "run", "editor.trainable=full", *steps)
    values = [loss for _, loss, _ in losses(tmp_path / "run")]
    assert len(values) == 40
    assert np.median(values[-8:]) < 0.7 * np.median(values[:8])
    state = read_run(tmp_path / "run")
    assert state is not None
    assert state["loss"]["last_fifth"] == pytest.approx(np.median(values[-8:]))

    # and its export is what the editor loads
    edited = tiny(adapter=tmp_path / "run").edit([request()])[0]
    assert np.abs(edited.astype(int) - tiny().edit([request()])[0]).max() > 0
    assert json.loads((tmp_path / "run/adapter/adapter.json").read_text())["trainable"] == "full"
    assert "_name_or_path" not in (tmp_path / "run/adapter/unet/config.json").read_text()


def test_lora_moves_every_adapter_weight_and_nothing_else(lora_run: Path) -> None:
    adapter = load_file(lora_run / "adapter" / "pytorch_lora_weights.safetensors")
    targets = [n for n, _ in tiny().load_base().unet.named_modules() if n.endswith("to_q")]
    assert len(adapter) == 2 * 4 * len(targets)
    assert all(value.dtype == torch.float32 for value in adapter.values())
    untouched = [name for name, value in adapter.items() if "lora_B" in name and not value.any()]
    assert untouched == []
    checkpoint = torch.load(lora_run / "checkpoints/step-00000006.ckpt", weights_only=True)
    assert len(checkpoint["state_dict"]) == len(adapter)  # and none of the frozen base
    assert all("lora_" in name for name in checkpoint["state_dict"])


def test_the_adapter_loads_through_plain_diffusers_and_edits_alike(lora_run: Path) -> None:
    editor = tiny()
    plain = editor.load_base()
    before = editor.run(plain, [fixed_picture(64)], ["red hair"], [3])
    plain.load_lora_weights(str(lora_run / "adapter"))
    edited = editor.run(plain, [fixed_picture(64)], ["red hair"], [3])
    ours = editor.run(
        tiny(adapter=lora_run).load_pipeline(), [fixed_picture(64)], ["red hair"], [3]
    )
    assert np.abs(edited - ours).max() <= 1e-4
    assert np.abs(edited - before).max() > 1e-4


@pytest.mark.slow
def test_alpha_survives_the_export(world: World, tmp_path: Path) -> None:
    # the job itself compares a reloaded pipeline; alpha / rank = 4 would differ if it were lost
    train(world, tmp_path / "run", *SHORT, "editor.alpha=32", "trainer.gradient_check=false")
    loaded = tiny(adapter=tmp_path / "run").load_pipeline().unet.peft_config
    assert next(iter(loaded.values())).lora_alpha == 32


def test_a_finished_run_is_left_alone(world: World, lora_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in lora_run.rglob("*") if path.is_file()}
    result = train(world, lora_run, *SHORT)
    assert "complete already" in result.message
    now = {path: path.stat().st_mtime_ns for path in lora_run.rglob("*") if path.is_file()}
    assert {k: v for k, v in now.items() if k.name != ".lock"} == {
        k: v for k, v in before.items() if k.name != ".lock"
    }


def test_the_run_folder_holds_what_it_should(lora_run: Path) -> None:
    names = {path.relative_to(lora_run).as_posix() for path in lora_run.rglob("*")}
    assert {"metrics.csv", "run.json", "failures.jsonl", "adapter/adapter.json"} <= names
    assert sorted(n for n in names if n.endswith(".ckpt")) == [
        "checkpoints/step-00000004.ckpt",
        "checkpoints/step-00000006.ckpt",
    ]
    assert not any("lightning" in name for name in names)
    assert [step for step, _, _ in losses(lora_run)] == [1, 2, 3, 4, 5, 6]
    assert losses(lora_run)[0][2] == pytest.approx(1e-4)  # the first of ten warm-up steps


def test_python_calls_repeat_without_touching_global_randomness(
    world: World, lora_run: Path, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    train(world, tmp_path / "again", *SHORT)
    assert (tmp_path / "again/metrics.csv").read_bytes() == (lora_run / "metrics.csv").read_bytes()
    first, second = (
        (folder / "adapter/pytorch_lora_weights.safetensors").read_bytes()
        for folder in (lora_run, tmp_path / "again")
    )
    assert first == second
    torch.manual_seed(99)
    assert torch.equal(before, torch.random.get_rng_state())


def start(world: World, output: Path, *overrides: str) -> subprocess.Popen[bytes]:
    arguments = arguments_of(world, output, *overrides)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again_it_has_the_losses_it_would_have_had(
    world: World, tmp_path: Path
) -> None:
    settings = ["trainer.max_steps=24", "trainer.batch_size=2", "trainer.checkpoint_every=5"]
    settings += ["editor.dropout=0.2"]  # a layer with randomness of its own
    settings += ["editor.init_seed=null"]  # each process would draw the weights anew
    train(world, tmp_path / "undisturbed", *settings)
    output = tmp_path / "killed"
    process = start(world, output, *settings)
    while len(losses(output)) < 7:
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(losses(output)) < 24
    again = start(world, output, *settings)
    told = again.communicate(timeout=300)[0].decode()
    assert again.returncode == 0, told
    assert "resuming after step" in told
    assert (output / "metrics.csv").read_bytes() == (
        tmp_path / "undisturbed/metrics.csv"
    ).read_bytes()
    weights = "adapter/pytorch_lora_weights.safetensors"
    assert (output / weights).read_bytes() == (tmp_path / "undisturbed" / weights).read_bytes()


@pytest.mark.slow
def test_interrupted_from_the_keyboard_it_says_so_and_goes_on(world: World, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = start(world, output, *SHORT, "trainer.max_steps=1000")
    while len(losses(output)) < 5:
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[0].decode()
    assert process.returncode == ExitStatus.FAULT
    assert "interrupted; the same command goes on from here" in told
    assert "Traceback" not in told
    state = read_run(output)
    assert state is not None
    assert state["status"] == "running"


def reopen(output: Path) -> None:
    state = json.loads((output / "run.json").read_text()) | {"status": "running"}
    (output / "run.json").write_text(json.dumps(state))


@pytest.mark.slow
def test_killed_after_the_last_step_it_only_exports_again(
    world: World, lora_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(lora_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/adapter")
    (tmp_path / "run/.adapter.partial").mkdir()
    reopen(tmp_path / "run")
    train(world, tmp_path / "run", *SHORT)
    for name in ("metrics.csv", "adapter/pytorch_lora_weights.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (lora_run / name).read_bytes()
    assert not (tmp_path / "run/.adapter.partial").exists()


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(world: World, lora_run: Path, tmp_path: Path) -> None:
    shutil.copytree(lora_run, tmp_path / "run")
    reopen(tmp_path / "run")
    (tmp_path / "run/checkpoints/step-00000006.ckpt").write_bytes(b"PK cut short")
    train(world, tmp_path / "run", *SHORT)
    assert (tmp_path / "run/metrics.csv").read_bytes() == (lora_run / "metrics.csv").read_bytes()


def test_a_pair_of_unequal_sizes_is_a_failure_row_and_the_others_train(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", 3, bad=(1,))
    result = train(world, tmp_path / "run", *SHORT)
    assert result.status is ExitStatus.DONE_WITH_FAILURES
    rows = (tmp_path / "run/failures.jsonl").read_text().splitlines()
    assert [json.loads(row) for row in rows] == [
        {"image_id": "p01.png", "reason": "source and target differ in size (90x71 and 90x72)"}
    ]
    assert result.counts["pairs"] == 2


def test_no_usable_pair_is_told(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", 2, bad=(0, 1))
    with pytest.raises(UsageError, match="none of 2 pairs can be used"):
        train(world, tmp_path / "run", *SHORT)


def test_no_pair_is_told(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", 1)
    write_records(world.pairs / "pairs/part-000000.parquet", Pair, [])
    with pytest.raises(UsageError, match="holds no training pairs"):
        train(world, tmp_path / "run", *SHORT)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("editor=redact", "redact has no weights"),
        ("editor.targets=[to_x]", "'to_x' matches no layer"),
        ("objective=v", "trains v_prediction, but the scheduler of editor=tiny expects epsilon"),
        ("trainer.learning_rate=1e30", "the loss is"),
    ],
)
def test_wrong_choices_get_one_clear_line(
    world: World, tmp_path: Path, override: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        train(world, tmp_path / "run", *SHORT, override)


@pytest.mark.slow
def test_the_gradient_check_guards_a_run_unless_turned_off(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = InstructPix2PixTask.loss
    monkeypatch.setattr(InstructPix2PixTask, "loss", lambda *a: honest(*a).detach() * to_k(a[0]))

    def to_k(task: InstructPix2PixTask) -> torch.Tensor:
        name = min(name for name in task.trainable_parameters() if "to_k.lora_A" in name)
        return task.trainable_parameters()[name].square().mean()

    with pytest.raises(UsageError, match=r"trainable weight unet\..* takes no part in the loss"):
        train(world, tmp_path / "run", *SHORT)
    assert losses(tmp_path / "run") == []
    train(world, tmp_path / "run", *SHORT, "trainer.gradient_check=false")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_gradient_lies_beside_the_activations_of_the_next_step(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    honest, left = InstructPix2PixTask.loss, []

    def watched(task: InstructPix2PixTask, *arguments: Any) -> torch.Tensor:
        left.append(any(p.grad is not None for p in task.trainable_parameters().values()))
        return honest(task, *arguments)

    monkeypatch.setattr(InstructPix2PixTask, "loss", watched)
    unchecked = ["trainer.gradient_check=false", f"trainer.accumulate={accumulate}"]
    train(world, tmp_path / "run", *SHORT, "trainer.max_steps=3", *unchecked)
    # but for those that are added to
    assert left[: 3 * accumulate] == [False, True][:accumulate] * 3


@pytest.mark.slow
def test_v_prediction_trains_where_the_base_predicts_it(world: World, tmp_path: Path) -> None:
    choices = ["objective=v", "editor.prediction_type=v_prediction", "objective.snr_gamma=5"]
    assert train(world, tmp_path / "run", *SHORT, *choices).status is ExitStatus.DONE


@pytest.mark.slow
def test_wandb_keeps_its_run_inside_the_run_folder(world: World, tmp_path: Path) -> None:
    train(world, tmp_path / "run", *SHORT, "logger=wandb")
    state = read_run(tmp_path / "run")
    assert state is not None
    stored = list((tmp_path / "run/wandb").glob(f"offline-*/run-{state['fingerprint']}.wandb"))
    assert len(stored) == 1
    content = b"".join(p.read_bytes() for p in (tmp_path / "run/wandb").rglob("*") if p.is_file())
    assert str(tmp_path).encode() not in content
    assert str(world.root).encode() not in content


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_asking_for_help_imports_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys, runpy, atexit\n"
        f"sys.argv = ['train.py', *{arguments!r}]\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        f"runpy.run_path({str(REPOSITORY / 'train.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("False")

"""Validation during training: what it measures and writes, and that training does not notice it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training.interrupting import Interrupted, interrupt_after
from training.make_pairs import World, make_world

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.tiny import TinyEditor
from unsafe2safe.jobs.train import run
from unsafe2safe.training.callbacks import LossLog
from unsafe2safe.training.ranks import Ranks
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.validation import measure
from unsafe2safe.training.validation.choice import SCENES, ValidationChoice, choose
from unsafe2safe.training.validation.measure import Validator
from unsafe2safe.training.validation.results import read_results
from unsafe2safe.training.validation.samples import PairSamples

_STRUCTURE = "unsafe2safe.metrics.structure"
PSNR = f"+validation.metrics.psnr._target_={_STRUCTURE}.PsnrOutside"
SHORT = [
    "editor.init_seed=0",
    "editor.steps=1",
    "engine.threads=1",
    "trainer.max_steps=5",
    "trainer.batch_size=2",
    "trainer.checkpoint_every=3",
    "trainer.ema=0.5",
    "trainer.gradient_check=false",
    "validation.every=2",
    "validation.share=0.4",
    "validation.samples=2",
    # no detectors: what they find is not what is tested here
    f"+validation.metrics.ssim_inside._target_={_STRUCTURE}.SsimInside",
    f"+validation.metrics.ssim_outside._target_={_STRUCTURE}.SsimOutside",
    "validation.guidance=[{text_guidance_scale: 1.5}, {text_guidance_scale: 4.0}]",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), 8, regions=True)


def train(world: World, output: Path, *overrides: str) -> RunResult:
    arguments = [*world.overrides, *SHORT, f"output_dir={output}", *overrides]
    return run(load("train", arguments))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    assert train(world, output).status is ExitStatus.DONE
    return output


def files(output: Path) -> dict[str, bytes]:
    """All that validations leave."""
    found = [*output.glob("validation/*"), *output.glob("validated/**/*")]
    return {str(p.relative_to(output)): p.read_bytes() for p in found if p.is_file()}


def weights(output: Path, folder: str = "adapter") -> bytes:
    return (output / folder / "pytorch_lora_weights.safetensors").read_bytes()


def test_each_validation_is_a_small_file_and_the_run_names_the_best(whole: Path) -> None:
    results = read_results(whole)
    assert [result.step for result in results] == [2, 4, 5]  # and after the last step
    for result in results:
        scales = [point.guidance["text_guidance_scale"] for point in result.points]
        assert scales == [1.5, 4.0]
        for point in result.points:
            assert point.guidance["image_guidance_scale"] == 1.1  # the editor's own
            inside, outside = point.metrics["ssim_inside"], point.metrics["ssim_outside"]
            assert point.privacy == pytest.approx(1 - max(inside, 0))
            assert point.fidelity == pytest.approx(max(outside, 0))
    state = read_run(whole) or {}
    best = max(results, key=lambda result: max(point.balance for point in result.points))
    assert state["validation"]["best"] == best.step
    kept = {best.step, *state["validation"]["pareto"]}
    assert {path.name for path in (whole / "validated").iterdir()} == {
        f"step-{step:08d}" for step in kept
    }
    content = (whole / "validation/step-00000002.json").read_text()
    assert "p0" not in content  # no name of a picture
    assert (whole / "validation/tradeoff.png").stat().st_size > 1000


@pytest.mark.slow
def test_kept_weights_are_the_averaged_ones_and_load_as_an_adapter(
    world: World, tmp_path: Path
) -> None:
    train(world, tmp_path / "run", "validation.every=5", "trainer.max_steps=3")
    assert weights(tmp_path / "run", "validated/step-00000003") == weights(tmp_path / "run")
    plain = load_file(tmp_path / "run/adapter/pytorch_lora_weights.safetensors")
    state = torch.load(tmp_path / "run/checkpoints/step-00000003.ckpt", weights_only=True)
    last, averaged = (
        {name.split("unet.")[-1].replace(".default", ""): v for name, v in held.items()}
        for held in (state["state_dict"], state["average"]["average"])
    )
    assert len(plain) == len(averaged) == len(last)
    for name, value in plain.items():
        assert torch.equal(value, averaged[name.removeprefix("unet.")])
        assert not torch.equal(value, last[name.removeprefix("unet.")])

    # and the figures are those of the adapter, edited with as anonymize.py would
    config = load("train", [*world.overrides, *SHORT])
    assert isinstance(config, Train)
    adapted = TinyEditor(
        **{k: v for k, v in config.editor.items() if k != "_target_"}
        | {"adapter": tmp_path / "run/validated/step-00000003"}
    )
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    data = recipe.data(config, {"pairs": world.pairs})
    samples = recipe.validation_samples(config, {"pairs": world.pairs}, data, tmp_path / "v")
    choice = recipe.validation_choice(config)
    points, _ = Validator(samples, choice, 1, config.vision, 1, None, Ranks()).measure(adapted)
    (result,) = read_results(tmp_path / "run")
    for ours, stored in zip(points, result.points, strict=True):
        assert ours.privacy == pytest.approx(stored.privacy, abs=1e-3)
        assert ours.fidelity == pytest.approx(stored.fidelity, abs=1e-3)


def test_training_goes_on_as_if_nobody_had_looked(
    world: World, whole: Path, tmp_path: Path
) -> None:
    train(world, tmp_path / "run", "validation.every=100", "validation.guidance=[]")
    assert [result.step for result in read_results(tmp_path / "run")] == [5]
    assert (tmp_path / "run/metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert weights(tmp_path / "run") == weights(whole)


def stopped_after(step: int, world: World, output: Path, patches: pytest.MonkeyPatch) -> None:
    with patches.context() as patched:
        interrupt_after(patched, step)
        with pytest.raises(Interrupted):
            train(world, output)


@pytest.mark.slow
def test_killed_after_a_validation_that_no_checkpoint_knows_it_ends_with_the_same_bytes(
    world: World, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    stopped_after(4, world, output, monkeypatch)
    assert [result.step for result in read_results(output)] == [2, 4]  # 3 is the checkpoint's
    (output / "validation/step-00000004.json").write_text("{}")  # what was after it counts nothing
    train(world, output)
    assert files(output) == files(whole)
    assert weights(output) == weights(whole)


@pytest.mark.slow
def test_a_signal_leaves_the_validation_to_the_run_that_goes_on(
    world: World, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = LossLog.on_train_batch_end

    def stop(self: LossLog, trainer: Any, *arguments: Any) -> None:
        logged(self, trainer, *arguments)
        trainer.should_stop = trainer.should_stop or trainer.global_step == 4

    with monkeypatch.context() as patched:
        patched.setattr(LossLog, "on_train_batch_end", stop)
        assert train(world, tmp_path / "run").status is ExitStatus.STOPPED
    assert [result.step for result in read_results(tmp_path / "run")] == [2]
    train(world, tmp_path / "run")
    assert files(tmp_path / "run") == files(whole)


@pytest.mark.slow
def test_killed_between_the_last_step_and_the_end_nothing_is_validated_again(
    world: World, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    stopped_after(5, world, output, monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(Validator, "measure", lambda *_: pytest.fail("validated again"))
        train(world, output)
    assert files(output) == files(whole)


def test_the_pairs_of_a_validation_are_no_training_pairs(world: World, whole: Path) -> None:
    held = json.loads((whole / "checkpoints/held_out.json").read_text())
    state = read_run(whole) or {}
    assert state["counts"]["pairs"] == 8 - len(held)


class Brighter:
    """Edits in a way that depends on the request and the guidance, and notes what it was given."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale, self.batches = scale, []  # type: ignore[var-annotated]

    def with_settings(self, batch_size: int, **guidance: float) -> Brighter:
        self.scale = guidance["text_guidance_scale"]
        return self

    def edit(self, requests: Sequence[EditRequest]) -> list[np.ndarray]:
        self.batches.append([request.seed for request in requests])
        step = [int(self.scale * 3 + request.seed % 7) for request in requests]
        return [r.image // 2 + s for r, s in zip(requests, step, strict=True)]  # type: ignore[misc]


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 1), (3, 2), (5, 3), (8, 1)])
def test_processes_edit_each_picture_once_and_find_what_one_finds(
    world: World, monkeypatch: pytest.MonkeyPatch, world_size: int, batch_size: int
) -> None:
    config = load("train", [*world.overrides, *SHORT])
    assert isinstance(config, Train)
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    data: Any = recipe.data(config, {"pairs": world.pairs})
    samples = PairSamples(data.pairs[:7], data, 0)
    choice = recipe.validation_choice(config)

    def validator(rank: int, size: int) -> Validator:
        place = Ranks(rank=rank, world_size=size)
        return Validator(samples, choice, batch_size, config.vision, 1, None, place)

    alone, _ = validator(0, 1).measure(Brighter())  # type: ignore[arg-type]
    told: list[list[Any]] = []
    monkeypatch.setattr(measure, "gathered", lambda part, ranks: told.append(part) or [part])
    editors = [Brighter() for _ in range(world_size)]
    for rank, editor in enumerate(editors):
        with pytest.raises(RuntimeError, match="edited twice, or by nobody"):
            validator(rank, world_size).measure(editor)  # type: ignore[arg-type]
    assert sorted(item.index for part in told for item in part) == list(range(7))
    assert len({len(editor.batches) for editor in editors}) == 1  # all compute in step
    monkeypatch.setattr(measure, "gathered", lambda part, ranks: told if part else [part])
    together, _ = validator(0, world_size).measure(Brighter())  # type: ignore[arg-type]
    assert together == alone


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["validation.guidance=[{text_guidance: 2.0}]"], "did you mean 'text_guidance_scale'"),
        (["validation.guidance=[{text_guidance_scale: 0.5}]"], "greater than 1"),
        (["validation.guidance=[{}, {text_guidance_scale: 1.5}]"], "twice"),
        (["validation.privacy=ssim_insid"], "did you mean 'ssim_inside'"),
        (["validation.best=ssim_outsid"], "did you mean 'ssim_outside'"),
        (["validation.fidelity=psnr", PSNR], r"is not in \[0, 1\]"),
        (["task=tiny_autoencoder"], "task=tiny_autoencoder edits no pictures"),
        (["validation.share=0.999"], "none is left to train on"),
    ],
)  # fmt: skip
def test_wrong_choices_get_one_clear_line_before_anything_is_loaded(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], told: str
) -> None:
    monkeypatch.setattr(TinyEditor, "load_base", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(UsageError, match=told):
        train(world, tmp_path / "run", *overrides)


def test_pictures_on_which_nothing_private_can_be_measured_are_told_before_the_first_step(
    tmp_path: Path,
) -> None:
    bare = make_world(tmp_path / "world", 6)  # its regions are unknown, and it has no faces
    with pytest.raises(UsageError, match=r"validation\.privacy: on none of the validation pict"):
        train(bare, tmp_path / "run")
    assert (tmp_path / "run/metrics.csv").read_text() == "step,loss,learning_rate\n"


def test_auto_takes_the_worst_and_less_is_better_counts_as_its_complement() -> None:
    settings = load("train", ["validation.every=1"]).validation  # type: ignore[attr-defined]
    choice = choose(settings, SCENES, TinyEditor(name="tiny", init_seed=0))
    two = ValidationChoice(
        choice.metrics, (("leaked", "reidentified"), ("followed",)), choice.fidelity, "leaked", ()
    )
    values = {"leaked": 0.25, "reidentified": 0.5, "followed": 0.1}
    assert two._worst("privacy", two.privacy, values) == 0.5
    assert two._worst("privacy", two.privacy, {"leaked": 0.25}) == 0.75
    assert two._worst("privacy", two.privacy, {"followed": 0.1}) == 0.1
    with pytest.raises(UsageError, match="anything to be measured by leaked"):
        two._worst("privacy", two.privacy, {})


SCENE_RUN = [
    "experiment=tiny_finetune",
    "editor.init_seed=0",
    "editor.prediction_type=v_prediction",
    "editor.steps=1",
    "task.scenes=4",
    "task.held_out=2",
    "trainer.max_steps=2",
    "trainer.batch_size=2",
    "trainer.warmup_steps=1",
    "engine.threads=1",
    "validation.every=2",
    "validation.samples=3",
    "validation.best=followed",
]


@pytest.mark.slow
def test_scenes_are_measured_by_their_truth(tmp_path: Path) -> None:
    paths = [f"output_dir={tmp_path / 'run'}", f"paths.private={tmp_path / 'private'}"]
    assert run(load("train", [*SCENE_RUN, *paths])).status is ExitStatus.DONE  # type: ignore[arg-type]
    (result,) = read_results(tmp_path / "run")
    (point,) = result.points
    assert set(point.metrics) >= {"followed", "leaked", "outside_ssim", "reidentified"}
    assert point.privacy == 1 - point.metrics["leaked"]
    assert point.fidelity == max(point.metrics["outside_ssim"], 0)


def test_scenes_of_a_validation_are_of_no_other_split() -> None:
    config = load("train", [*SCENE_RUN, "task.world=base"])
    assert isinstance(config, Train)
    recipe: Any = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    samples = recipe.validation_samples(config, {}, None, Path())
    shown = [samples[index].request.image.tobytes() for index in range(len(samples))]
    assert len(set(shown)) == len(samples) == 3
    others = [recipe.data(config, {}), recipe._pairs(config, "held-out", 4)]
    pictures = [p.tobytes() for data in others for i in range(4) for p in data.pictures(i)]
    assert not set(shown) & set(pictures)
    truth = samples[1].truth
    assert truth.redrawn.source in truth.gallery
    old, new = truth.redrawn.source.private, truth.redrawn.scene.private
    assert old.persons != new.persons
    assert samples[1].request.regions  # or no check could tell a copy from an edit


@contextmanager
def noted(modules: Any) -> Iterator[None]:
    before = [(module, module.training) for part in modules for module in part.modules()]
    yield
    assert all(module.training == training for module, training in before)


def test_an_edit_between_two_steps_leaves_scheduler_and_modes_alone(world: World) -> None:
    config = load("train", [*world.overrides, "editor.init_seed=0"])
    assert isinstance(config, Train)
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    task: Any = recipe.task(config, {"pairs": world.pairs})
    scheduler = task.pipeline.scheduler
    steps, denoiser = scheduler.timesteps.clone(), task.denoiser
    assert denoiser.training or any(module.training for module in denoiser.modules())
    data: Any = recipe.data(config, {"pairs": world.pairs})
    request = PairSamples(data.pairs, data, 0)[0].request
    with noted([denoiser]), task.editing() as editor:
        assert not any(module.training for module in denoiser.modules())
        edited = editor.edit([request])[0]
        assert editor.with_settings(steps=2).edit([request])[0].shape == edited.shape
    assert task.pipeline.scheduler is scheduler
    assert torch.equal(scheduler.timesteps, steps)

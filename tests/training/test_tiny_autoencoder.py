"""task=tiny_autoencoder at miniature size: resumable, exported whole, measured on other scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training.interrupting import Interrupted, interrupt_after

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.editors.tiny_model import build_autoencoder
from unsafe2safe.jobs.train import run
from unsafe2safe.training.draws import SampleKey
from unsafe2safe.training.export import ExportError
from unsafe2safe.training.tiny_autoencoder import (
    AutoencoderTask,
    TinyAutoencoder,
    load_vae,
    reconstruct,
)

SHORT = [
    "experiment=tiny_autoencoder",
    "trainer.max_steps=7",
    "trainer.batch_size=2",
    "trainer.warmup_steps=2",
    "trainer.checkpoint_every=2",
    "trainer.log_every=1",
    "trainer.ema=0.9",
    "trainer.gradient_check=false",
    "task.scenes=12",
    "task.normalized_on=40",
    "task.held_out=4",
    "engine.threads=1",
]


def train(root: Path, name: str, *overrides: str) -> RunResult:
    paths = [f"paths.runs={root / 'runs'}", f"paths.private={root / 'private'}"]
    arguments = [*SHORT, *paths, f"output_dir={root / name}", *overrides]
    return run(load("train", arguments))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("autoencoder")
    assert train(root, "whole").status is ExitStatus.DONE
    return root / "whole"


@pytest.fixture(scope="module")
def task() -> AutoencoderTask:
    config = load("train", SHORT)
    assert isinstance(config, Train)
    made = build(config.task, "task", TinyAutoencoder).task(config, {})
    assert isinstance(made, AutoencoderTask)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("stopped_at", [1, 5])
def test_stopped_anywhere_and_started_again_it_ends_with_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    with monkeypatch.context() as patched:
        interrupt_after(patched, stopped_at)
        with pytest.raises(Interrupted):
            train(tmp_path, "stopped")
    train(tmp_path, "stopped")
    for name in ("metrics.csv", "vae/diffusion_pytorch_model.safetensors", "vae/config.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (finished / name).read_bytes()
    facts = [
        json.loads((folder / "run.json").read_text())["held_out"]
        for folder in (finished, tmp_path / "stopped")
    ]
    assert facts[0] == facts[1]
    assert set(facts[0]) == {"psnr", "psnr_private", "ssim"}


@pytest.mark.slow
def test_the_export_is_normalized_on_scenes_and_half_precision(
    finished: Path, task: AutoencoderTask
) -> None:
    from diffusers import AutoencoderKL
    from safetensors.torch import load_file

    stored = load_file(finished / "vae/diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    vae = AutoencoderKL.from_pretrained(finished / "vae")
    assert vae.config.scaling_factor == 1.0
    scenes = task.data.first(40)
    with torch.no_grad():
        posterior = vae.encode(scenes.images).latent_dist
    assert posterior.mean.mean((0, 2, 3)).abs().max() < 0.05
    assert float(posterior.mean.var((0, 2, 3)).mean()) == pytest.approx(1.0, abs=0.1)
    assert posterior.std.std((0, 2, 3)).max() < 1e-6  # one width per channel


def test_training_lowers_the_loss(task: AutoencoderTask) -> None:
    batch = task.prepare(task.data.first(4))
    draws = task.draw(batch.keys, batch)
    optimizer = torch.optim.AdamW(list(task.trainable_parameters().values()), lr=2e-3)
    before = task.loss(batch, draws)
    assert before.shape == (4,)
    for _ in range(8):
        optimizer.zero_grad()
        task.loss(batch, draws).mean().backward()
        optimizer.step()
    assert task.loss(batch, draws).mean() < 0.9 * before.mean()


def test_private_pixels_count_more(task: AutoencoderTask) -> None:
    batch = task.prepare(task.data.first(2))
    draws = task.draw(batch.keys, batch)
    none = type(batch)(batch.keys, batch.images, torch.zeros_like(batch.private))
    everywhere = type(batch)(batch.keys, batch.images, torch.ones_like(batch.private))
    with torch.no_grad():
        low, high = task.loss(none, draws), task.loss(everywhere, draws)
        decoded = task.network.decode(
            task.network.encode(batch.images).latent_dist.mean + draws * 0.04978706837
        ).sample
    difference = decoded - batch.images
    plain = (difference.abs() + difference.square()).flatten(1).mean(1)
    torch.testing.assert_close(high - low, 2 * plain, rtol=1e-4, atol=1e-5)


def test_every_visit_draws_another_scene_and_none_is_held_out(task: AutoencoderTask) -> None:
    data = task.data
    first, again, later = data[3, 0], data[3, 0], data[3, 1]
    assert first.key == SampleKey("scene-3", 0)
    assert (first.pixels == again.pixels).all()
    assert (first.pixels != later.pixels).any()
    training = {data[i, visit].pixels.tobytes() for i in range(6) for visit in range(2)}
    held_out = {task.held_out[i, 0].pixels.tobytes() for i in range(12)}
    assert len(training) == len(held_out) == 12
    assert not training & held_out


@pytest.mark.slow
def test_weights_that_overflow_fp16_are_not_exported(tmp_path: Path) -> None:
    config = load("train", SHORT)
    assert isinstance(config, Train)
    task = build(config.task, "task", TinyAutoencoder).task(config, {})
    vae = task.network
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(1e6)  # type: ignore[union-attr, operator]
    with pytest.raises(ExportError, match="fp16"):
        task.export(tmp_path / "vae")
    assert not (tmp_path / "vae").exists()


def test_an_unknown_world_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no synthetic world 'bse'; did you mean 'base'"):
        train(tmp_path, "run", "task.worlds=[bse]")


def test_an_untrained_autoencoder_gives_pictures_of_the_right_shape(tmp_path: Path) -> None:
    torch.manual_seed(0)
    build_autoencoder().save_pretrained(tmp_path)
    assert reconstruct(load_vae(tmp_path), torch.zeros(3, 3, 64, 64)).shape == (3, 3, 64, 64)

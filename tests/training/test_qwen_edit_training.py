"""Qwen-Image-Edit: its loss against the pipelines' own parts, and train.py as run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from editors.tiny_qwen_edit import (
    LATENT_CHANNELS,
    SCALE,
    SIDE,
    pictures_of_that_size,
    qwen_edit,
    save_tiny_qwen_edit,
)
from PIL import Image
from training.make_pairs import make_world
from training.three_steps import three_steps

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.records import ExitStatus
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.jobs.train import run
from unsafe2safe.objectives.base import ObjectiveSettings
from unsafe2safe.training.draws import SampleKey, draw_normal, draw_uniform
from unsafe2safe.training.export import fixed_picture
from unsafe2safe.training.task import PairBatch
from unsafe2safe.training.token_task import TokenEditTask

# Of these visits one loses its text, one its source, one both and one nothing, at rates of 0.25.
KEYS = tuple(SampleKey(name, 0) for name in ("i0", "i2", "i5", "i6"))
TEXTS = ("red hair", "a blue hat", "", "no beard")
SHAPE = (LATENT_CHANNELS, SIDE // SCALE, SIDE // SCALE)
GREY = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))


@pytest.fixture(scope="module", params=["edit", "plus"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_qwen_edit(tmp_path_factory.mktemp(request.param), plus=request.param == "plus")


def build_task(base: Path, dropout: float = 0.0, **settings: Any) -> TokenEditTask:
    rates = [f"objective.{name}_dropout={dropout}" for name in ("text", "image", "both")]
    chosen = load("train", rates).objective  # type: ignore[attr-defined]
    objective = build(chosen, "objective", ObjectiveSettings)  # type: ignore[type-abstract]
    return TokenEditTask(qwen_edit(weights=str(base), **settings), objective, 4)


def squares(seed: int) -> list[np.ndarray]:
    shape = (len(KEYS), SIDE, SIDE, 3)
    return list(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def losses(task: TokenEditTask, count: int = len(KEYS)) -> torch.Tensor:
    keys, texts = KEYS[:count], TEXTS[:count]
    source, target = (to_model(squares(seed)[:count]) for seed in (0, 1))
    prepared = task.prepare(PairBatch(keys, source, target, texts, texts))
    return task.loss(prepared, task.draw(keys, prepared))


@torch.no_grad()
def test_loss_is_that_of_the_pipelines_own_latents_texts_and_schedule(base: Path) -> None:
    """Sample by sample, as the pipelines take them; a source that is dropped is grey to the text
    encoder."""
    ours = losses(build_task(base, 0.25))
    plain = DiffusionPipeline.from_pretrained(base, dtype=torch.float32)
    plus = "Plus" in type(plain).__name__
    uniform = draw_uniform(4, KEYS, "dropout")
    # [0, .25) text, [.25, .5) both, [.5, .75) image
    no_text, no_image = uniform < 0.5, (uniform >= 0.25) & (uniform < 0.75)
    assert len(set(zip(no_text.tolist(), no_image.tolist(), strict=True))) == 4
    normal = torch.special.ndtri(draw_uniform(4, KEYS, "timestep"))
    index = 999 - (torch.sigmoid(normal) * 1000).long()
    tokens = SHAPE[1] * SHAPE[2] // 4
    # edits stop short of the cleanest levels (shift_terminal); training does not
    scheduler = type(plain.scheduler).from_config(plain.scheduler.config, shift_terminal=None)
    scheduler.set_timesteps(
        sigmas=np.linspace(1.0, 0.001, 1000), mu=0.5 + (1.15 - 0.5) * (tokens - 256) / (8192 - 256)
    )
    noise = draw_normal(4, KEYS, "noise", SHAPE)
    drawn = draw_normal(4, KEYS, "posterior", SHAPE)
    deviations = torch.tensor(plain.vae.config.latents_std).view(1, -1, 1, 1)
    for place, (source, target) in enumerate(zip(squares(0), squares(1), strict=True)):
        frames = to_model([target]).unsqueeze(2)
        posterior = plain.vae.encode(frames).latent_dist.std[:, :, 0]
        latents = plain._encode_vae_image(frames, None)[:, :, 0]
        latents = latents + posterior / deviations * drawn[place]
        sigma = scheduler.sigmas[index[place]]
        frames = to_model([source]).unsqueeze(2)
        noisy, seen = plain.prepare_latents(
            [frames] if plus else frames,
            1,
            LATENT_CHANNELS,
            SIDE,
            SIDE,
            torch.float32,
            torch.device("cpu"),
            None,
            plain._pack_latents((1 - sigma) * latents + sigma * noise[place], 1, *SHAPE),
        )
        shown = GREY if no_image[place] else Image.fromarray(source)
        text = (not no_text[place] and TEXTS[place]) or " "
        embedded, mask = plain.encode_prompt([text], [shown] if plus else shown)
        side = SHAPE[1] // 2
        predicted = plain.transformer(
            hidden_states=torch.cat([noisy, seen * ~no_image[place]], dim=1),
            timestep=scheduler.timesteps[index[place]][None] / 1000,
            encoder_hidden_states=embedded,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, side, side)] * 2],
        ).sample[:, :tokens]
        aim = plain._pack_latents(noise[place : place + 1] - latents, 1, *SHAPE)
        expected = (predicted - aim).square().mean()
        torch.testing.assert_close(ours[place], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_what_the_objective_drops_is_embedded(base: Path) -> None:
    source = to_model(squares(0))
    batch = PairBatch(KEYS, source, source, TEXTS, TEXTS)
    prepared = build_task(base).prepare(batch)
    assert (prepared.no_text, prepared.unseen) == (None, None)
    prepared = build_task(base, 0.25).prepare(batch)
    assert prepared.no_text is not None
    assert prepared.unseen is not None


@pytest.mark.parametrize("kind", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_what_is_trained_learns_alone_and_its_export_edits_as_trained(
    kind: str, base: Path, tmp_path: Path
) -> None:
    task = build_task(base, trainable=kind)
    trainable = task.trainable_parameters()
    deaf = ("attn.add_q_proj", "attn.norm_added_q", "attn.to_add_out", "txt_mlp")
    dotted = [f"transformer_blocks.1.{part}." for part in deaf]
    assert not [name for name in trainable if any(part in name for part in dotted)]
    assert any("transformer_blocks.0.attn.to_add_out" in name for name in trainable)
    three_steps(task, lambda: losses(task, 2), learning_rate=0.01)
    task.export(tmp_path / "adapter")  # proves to 1e-4 that it loads
    told = (tmp_path / "adapter/README.md").read_text()
    assert "Plain diffusers shows the source at 1024 px" in told


def test_train_py_writes_an_adapter_that_plain_diffusers_loads(base: Path, tmp_path: Path) -> None:
    small = {"dtype": "float32", "resolution": SIDE, "text_image_side": SIDE, "steps": 2, "rank": 2}
    arguments = [
        *make_world(tmp_path / "world", 3).overrides,
        "editor=qwen_edit",
        f"editor.weights={base}",
        *(f"editor.{key}={value}" for key, value in small.items()),
        "engine.threads=1",
        "trainer.max_steps=3",
        "trainer.batch_size=2",
        "trainer.learning_rate=0.01",
        "trainer.warmup_steps=0",
        f"output_dir={tmp_path / 'run'}",
    ]
    assert run(load("train", arguments)).status is ExitStatus.DONE  # type: ignore[arg-type]
    editor = qwen_edit(weights=str(base), adapter=tmp_path / "run")
    picture = fixed_picture(SIDE)
    plain = DiffusionPipeline.from_pretrained(base, dtype=torch.float32)
    plain.set_progress_bar_config(disable=True)

    def edited() -> np.ndarray:
        with pictures_of_that_size():
            return plain(
                image=Image.fromarray(picture),
                prompt="red hair",
                negative_prompt=" ",
                num_inference_steps=2,
                height=SIDE,
                width=SIDE,
                true_cfg_scale=4.0,
                generator=torch.Generator().manual_seed(3),
                output_type="np",
            ).images

    before = edited()
    plain.load_lora_weights(str(tmp_path / "run/adapter"))
    ours = editor.run(editor.pipeline, [picture], ["red hair"], [3])
    assert np.abs(edited() - ours).max() <= 1e-4
    assert np.abs(edited() - before).max() > 1e-4

"""FLUX.2 [klein]: edits as the pipeline does, and its training against the pipeline's own parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from editors.tiny_klein import LATENT_CHANNELS, LAYERS, SIDE, TEXT_TOKENS, klein, save_tiny_klein
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

KEYS = (SampleKey("a", 0), SampleKey("b", 1))
SHAPE = (4 * LATENT_CHANNELS, SIDE // 8, SIDE // 8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_klein(tmp_path_factory.mktemp("klein"))


def images(seed: int) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    return to_model(list(pixels))


TEXTS = ("red hair", "blue")


def build_task(base: Path, **settings: Any) -> TokenEditTask:
    rates = [f"objective.{name}_dropout=0" for name in ("text", "image", "both")]
    chosen = load("train", rates).objective  # type: ignore[attr-defined]
    objective = build(chosen, "objective", ObjectiveSettings)  # type: ignore[type-abstract]
    return TokenEditTask(klein(weights=str(base), **settings), objective, 4)


def losses(task: TokenEditTask) -> torch.Tensor:
    prepared = task.prepare(PairBatch(KEYS, images(0), images(1), TEXTS, TEXTS))
    return task.loss(prepared, task.draw(KEYS, prepared))


def test_loss_is_that_of_the_pipelines_own_latents_ids_and_schedule(base: Path) -> None:
    task = build_task(base)
    pipeline, texts = task.pipeline, TEXTS
    source, target = images(0), images(1)
    with torch.no_grad():
        ours = losses(task)
        bn = pipeline.vae.bn
        deviation = (bn.running_var + 1e-4).sqrt().view(1, -1, 1, 1)
        posterior = pipeline._patchify_latents(pipeline.vae.encode(target).latent_dist.std)
        latents = pipeline._encode_vae_image(target, None)
        latents = latents + posterior / deviation * draw_normal(4, KEYS, "posterior", SHAPE)
        noise = draw_normal(4, KEYS, "noise", SHAPE)
        normal = torch.special.ndtri(draw_uniform(4, KEYS, "timestep"))
        index = 999 - (torch.sigmoid(normal) * 1000).long()
        tokens = SHAPE[1] * SHAPE[2]
        pipeline.scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 0.001, 1000),
            mu=compute_empirical_mu(tokens, task.editor.steps),
        )
        sigmas = pipeline.scheduler.sigmas[index][:, None, None, None]
        noisy, ids = pipeline.prepare_latents(
            2,
            LATENT_CHANNELS,
            SIDE,
            SIDE,
            torch.float32,
            torch.device("cpu"),
            None,
            (1 - sigmas) * latents + sigmas * noise,
        )
        sources, source_ids = zip(
            *(
                pipeline.prepare_image_latents(
                    [one[None]], 1, None, torch.device("cpu"), torch.float32
                )
                for one in source
            ),
            strict=True,
        )
        embedded, text_ids = pipeline.encode_prompt(
            list(texts), max_sequence_length=TEXT_TOKENS, text_encoder_out_layers=LAYERS
        )
        predicted = pipeline.transformer(
            hidden_states=torch.cat([noisy, torch.cat(sources)], dim=1),
            timestep=pipeline.scheduler.timesteps[index] / 1000,
            encoder_hidden_states=embedded,
            txt_ids=text_ids,
            img_ids=torch.cat([ids, torch.cat(source_ids)], dim=1),
        ).sample[:, :tokens]
        expected = (predicted - pipeline._pack_latents(noise - latents)).square().mean((1, 2))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_what_is_trained_learns_alone_and_its_export_edits_as_trained(
    kind: str, base: Path, tmp_path: Path
) -> None:
    task = build_task(base, trainable=kind)
    three_steps(task, lambda: losses(task))
    task.export(tmp_path / "adapter")  # proves to 1e-4 that it loads
    card = json.loads((tmp_path / "adapter/adapter.json").read_text())
    assert (card["editor"], card["prediction_type"]) == ("flux2_klein", "flow_prediction")


def test_train_py_writes_an_adapter_that_plain_diffusers_loads(base: Path, tmp_path: Path) -> None:
    small = {"dtype": "float32", "resolution": SIDE, "steps": 2, "rank": 2}
    arguments = [
        *make_world(tmp_path / "world", 3).overrides,
        "editor=flux2_klein",
        f"editor.weights={base}",
        *(f"editor.{key}={value}" for key, value in small.items()),
        f"editor.text_tokens={TEXT_TOKENS}",
        "editor.text_layers=[0,1,2]",
        "engine.threads=1",
        "trainer.max_steps=3",
        "trainer.batch_size=2",
        "trainer.learning_rate=0.01",
        "trainer.warmup_steps=0",
        f"output_dir={tmp_path / 'run'}",
    ]
    assert run(load("train", arguments)).status is ExitStatus.DONE  # type: ignore[arg-type]
    editor = klein(weights=str(base), adapter=tmp_path / "run")
    picture = fixed_picture(SIDE)
    plain = Flux2KleinPipeline.from_pretrained(base, dtype=torch.float32)
    plain.set_progress_bar_config(disable=True)

    def edited() -> np.ndarray:
        return plain(
            image=Image.fromarray(picture),
            prompt="red hair",
            num_inference_steps=2,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(3),
            max_sequence_length=TEXT_TOKENS,
            text_encoder_out_layers=LAYERS,
            output_type="np",
        ).images

    before = edited()
    plain.load_lora_weights(str(tmp_path / "run/adapter"))
    ours = editor.run(editor.pipeline, [picture], ["red hair"], [3])
    assert np.abs(edited() - ours).max() <= 1e-4
    assert np.abs(edited() - before).max() > 1e-4

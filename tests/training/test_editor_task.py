"""The InstructPix2Pix task against the published formulas, and the independence of its draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.editors.tiny import TinyEditor
from unsafe2safe.editors.tiny_model import LATENT_CHANNELS, LATENT_SIDE
from unsafe2safe.objectives.base import ObjectiveSettings
from unsafe2safe.training.draws import SampleKey, draw_normal, draw_uniform
from unsafe2safe.training.editor_task import InstructPix2PixTask, TaskOptions
from unsafe2safe.training.task import PairBatch


def build_task(mask_weight: float = 0.0, **values: Any) -> InstructPix2PixTask:
    config = load("train")
    editor = build(dict(config.editor) | {"init_seed": 0} | values, "editor", TinyEditor)  # type: ignore[attr-defined]
    settings = dict(config.objective) | {  # type: ignore[attr-defined]
        "text_dropout": 0.3,
        "image_dropout": 0.2,
        "both_dropout": 0.2,
    }
    objective = build(settings, "objective", ObjectiveSettings)  # type: ignore[type-abstract]
    return InstructPix2PixTask(editor, objective, 4, TaskOptions(mask_weight=mask_weight))


@pytest.fixture(scope="module")
def task() -> InstructPix2PixTask:
    return build_task(trainable="full")


def batch(keys: Sequence[SampleKey]) -> PairBatch:
    def images(salt: int) -> torch.Tensor:
        rows = []
        for key in keys:
            random = np.random.default_rng([salt, int(key.image_id[1:])])
            rows.append(random.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        return to_model(rows)

    texts = tuple(f"text of {key.image_id}" for key in keys)
    return PairBatch(tuple(keys), images(0), images(1), texts, texts)


SHAPE = (LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE)
KEYS = tuple(SampleKey(f"i{index}", index % 3) for index in range(8))


def sample_losses(task: InstructPix2PixTask, keys: Sequence[SampleKey]) -> torch.Tensor:
    prepared = task.prepare(batch(keys))
    with torch.no_grad():
        return task.loss(prepared, task.draw(keys, prepared))


def test_loss_equals_a_direct_transcription_of_instruct_pix2pix(task: InstructPix2PixTask) -> None:
    pipeline, pairs = task.pipeline, batch(KEYS)
    uniform = draw_uniform(4, KEYS, "dropout")
    # [0, .3) text, [.3, .5) both, [.5, .7) image
    no_text, no_image = uniform < 0.5, (uniform >= 0.3) & (uniform < 0.7)
    assert bool(no_text.any())
    assert bool(no_image.any())
    assert not bool((no_text | no_image).all())
    timesteps = (draw_uniform(4, KEYS, "timestep") * 1000).long()
    noise = draw_normal(4, KEYS, "noise", SHAPE)
    with torch.no_grad():
        posterior = pipeline.vae.encode(pairs.target).latent_dist
        sampled = posterior.mean + posterior.std * draw_normal(4, KEYS, "posterior", SHAPE)
        latents = sampled * pipeline.vae.config.scaling_factor
        source = pipeline.vae.encode(pairs.source).latent_dist.mode()
        source = source * (~no_image).float()[:, None, None, None]
        asked = pairs.edit_instructions
        texts = ["" if lost else text for lost, text in zip(no_text, asked, strict=True)]
        embedded = pipeline._encode_prompt(texts, torch.device("cpu"), 1, False)
        noisy = pipeline.scheduler.add_noise(latents, noise, timesteps)
        predicted = pipeline.unet(torch.cat([noisy, source], 1), timesteps, embedded).sample
        expected = ((predicted - noise) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(sample_losses(task, KEYS), expected, atol=1e-6, rtol=1e-5)


def test_a_samples_loss_does_not_depend_on_its_batch(task: InstructPix2PixTask) -> None:
    together = sample_losses(task, KEYS)
    for index, key in enumerate(KEYS[:3]):
        torch.testing.assert_close(
            sample_losses(task, [key])[0], together[index], atol=1e-5, rtol=1e-5
        )


def test_each_visit_draws_anew(task: InstructPix2PixTask) -> None:
    keys = [SampleKey("i1", visit) for visit in range(4)]
    losses = sample_losses(task, keys).tolist()
    assert len(set(losses)) == 4


def test_only_what_is_asked_for_is_trainable(task: InstructPix2PixTask) -> None:
    unet = {f"unet.{name}" for name, _ in task.pipeline.unet.named_parameters()}
    assert set(task.trainable_parameters()) == unet
    lora = build_task(trainable="lora", targets=("to_q", "conv_in")).trainable_parameters()
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in lora} == {"to_q", "conv_in"}
    assert all(value.dtype == torch.float32 for value in lora.values())


def test_lora_dropout_is_active_and_keyed() -> None:
    task = build_task(dropout=0.5)
    for name, parameter in task.trainable_parameters().items():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    from unsafe2safe.training.draws import keyed_torch_rng

    def loss(keys: Sequence[SampleKey]) -> float:
        torch.rand(1)  # the state outside has no part in it
        with keyed_torch_rng(4, keys, torch.device("cpu")):
            return float(sample_losses(task, keys).mean())

    assert loss(KEYS) == loss(KEYS)
    torch.manual_seed(0)
    free = {float(sample_losses(task, KEYS).mean()) for _ in range(2)}
    assert len(free) == 2


def test_a_base_with_an_edm_scheduler_trains_as_it_was_trained(tmp_path: Path) -> None:
    from diffusers import EDMEulerScheduler

    base = build_task().editor.load_base()
    base.register_modules(
        scheduler=EDMEulerScheduler(sigma_data=1.0, prediction_type="v_prediction")
    )
    base.save_pretrained(tmp_path)
    task = build_task(weights=tmp_path, init_seed=None)
    assert task.objective.prediction_type == "edm_v_prediction"
    prepared = task.prepare(batch(KEYS))
    draws = task.draw(KEYS, prepared)
    sigmas = torch.tan(draw_uniform(4, KEYS, "timestep") * torch.pi / 2).float()
    torch.testing.assert_close(draws.diffusion.timesteps, sigmas)
    each, noise = sigmas[:, None, None, None], draws.diffusion.noise
    no_text, no_image = draws.diffusion.dropped.text, draws.diffusion.dropped.image
    with torch.no_grad():
        latents = prepared.target_mean + prepared.target_deviation * draws.posterior_noise
        noised = latents + each * noise
        source = prepared.source * (~no_image).float()[:, None, None, None]
        texts = [
            "" if lost else f"text of {k.image_id}" for lost, k in zip(no_text, KEYS, strict=True)
        ]
        output = task.pipeline.unet(
            torch.cat([noised / (each**2 + 1).sqrt(), source], 1),
            sigmas.log() / 4,
            task.pipeline._encode_prompt(texts, torch.device("cpu"), 1, False),
        ).sample
        denoised = task.pipeline.scheduler.precondition_outputs(noised, output, each)
        expected = ((denoised - latents) ** 2).mean((1, 2, 3)) * (sigmas**2 + 1) / sigmas**2
        ours = task.loss(prepared, draws)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)


def test_what_is_masked_counts_more() -> None:
    plain, weighted = build_task(), build_task(mask_weight=3.0)
    pairs = batch(KEYS)
    mask = torch.zeros(len(KEYS), 1, 64, 64)
    mask[0] = 1.0
    mask[1, :, 10, 21] = 1.0  # a single pixel: the latent cell that holds it
    prepared = weighted.prepare(replace(pairs, mask=mask))
    assert prepared.weight is not None
    assert prepared.weight[0].unique().tolist() == [4.0]
    assert (prepared.weight[1] == 4.0).nonzero().tolist() == [[0, 2, 5]]
    assert prepared.weight[2:].unique().tolist() == [1.0]
    draws = weighted.draw(KEYS, prepared)
    with torch.no_grad():
        losses, before = weighted.loss(prepared, draws), sample_losses(plain, KEYS)
    torch.testing.assert_close(losses[0], 4 * before[0])
    torch.testing.assert_close(losses[2:], before[2:])
    assert before[1] < losses[1] < 4 * before[1]
    with pytest.raises(
        UsageError, match=r"task\.mask_weight=3\.0 needs pairs that come with masks"
    ):
        weighted.prepare(pairs)

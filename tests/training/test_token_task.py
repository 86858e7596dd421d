"""Fine-tuning of FLUX.1 Kontext: its loss against diffusers' own parts, and train.py as run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline
from editors.tiny_kontext import LATENT_CHANNELS, SIDE, TEXT_TOKENS, kontext, save_tiny_kontext
from safetensors.torch import load_file
from training.make_pairs import World, make_world
from training.three_steps import three_steps

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.editors.token_editor import TokenEditor
from unsafe2safe.jobs.train import run
from unsafe2safe.objectives.base import ObjectiveSettings
from unsafe2safe.training.draws import SampleKey, draw_normal, draw_uniform
from unsafe2safe.training.editor_task import TaskOptions
from unsafe2safe.training.export import fixed_picture
from unsafe2safe.training.task import PairBatch
from unsafe2safe.training.token_task import TokenEditTask

KEYS = tuple(SampleKey(f"i{index}", index % 3) for index in range(8))
SHAPE = (LATENT_CHANNELS, SIDE // 2, SIDE // 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_kontext(tmp_path_factory.mktemp("kontext"))


def objective(*overrides: str, dropout: float = 0.2) -> ObjectiveSettings:
    rates = [f"objective.{name}_dropout={dropout}" for name in ("text", "image", "both")]
    settings = load("train", [*overrides, *rates]).objective  # type: ignore[attr-defined]
    return build(settings, "objective", ObjectiveSettings)  # type: ignore[type-abstract]


def build_task(weights: Path, dropout: float = 0.2, **settings: Any) -> TokenEditTask:
    return TokenEditTask(kontext(weights=str(weights), **settings), objective(dropout=dropout), 4)


def batch(keys: Sequence[SampleKey] = KEYS) -> PairBatch:
    def images(salt: int) -> torch.Tensor:
        rows = []
        for key in keys:
            random = np.random.default_rng([salt, int(key.image_id[1:])])
            rows.append(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        return to_model(rows)

    texts = tuple(f"text {key.image_id}" for key in keys)
    return PairBatch(tuple(keys), images(0), images(1), texts, texts)


def losses(task: TokenEditTask, keys: Sequence[SampleKey] = KEYS) -> torch.Tensor:
    prepared = task.prepare(batch(keys))
    return task.loss(prepared, task.draw(keys, prepared))


@pytest.mark.parametrize("guidance", [True, False])
def test_loss_is_that_of_the_pipelines_own_packing_ids_and_schedule(
    guidance: bool, base: Path, tmp_path: Path
) -> None:
    weights = base if guidance else save_tiny_kontext(tmp_path, guidance=False)
    task, pairs, count = build_task(weights), batch(), len(KEYS)
    pipeline = task.pipeline
    uniform = draw_uniform(4, KEYS, "dropout")
    # [0, .2) text, [.2, .4) both, [.4, .6) image
    no_text, no_image = uniform < 0.4, (uniform >= 0.2) & (uniform < 0.6)
    assert bool(no_text.any())
    assert bool(no_image.any())
    assert not bool((no_text | no_image).all())
    texts = ["" if lost else t for lost, t in zip(no_text, pairs.edit_instructions, strict=True)]
    noise = draw_normal(4, KEYS, "noise", SHAPE)
    with torch.no_grad():
        posterior = pipeline.vae.encode(pairs.target).latent_dist
        sampled = posterior.mean + posterior.std * draw_normal(4, KEYS, "posterior", SHAPE)
        latents = (sampled - 0.1) * 0.7
        normal = torch.special.ndtri(draw_uniform(4, KEYS, "timestep"))
        index = 999 - (torch.sigmoid(normal) * 1000).long()
        tokens = (SIDE // 4) ** 2
        pipeline.scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 0.001, 1000), mu=task.editor.shift_mu(pipeline, *SHAPE[1:])
        )
        sigmas = pipeline.scheduler.sigmas[index][:, None, None, None]
        noisy = (1 - sigmas) * latents + sigmas * noise
        packed, sources, ids, source_ids = pipeline.prepare_latents(
            pairs.source,
            count,
            LATENT_CHANNELS,
            SIDE,
            SIDE,
            torch.float32,
            torch.device("cpu"),
            latents=pipeline._pack_latents(noisy, count, *SHAPE),
        )
        embedded, pooled, text_ids = pipeline.encode_prompt(
            texts, None, max_sequence_length=TEXT_TOKENS
        )
        predicted = pipeline.transformer(
            hidden_states=torch.cat([packed, sources * ~no_image[:, None, None]], dim=1),
            timestep=pipeline.scheduler.timesteps[index] / 1000,
            guidance=torch.ones(count) if guidance else None,
            pooled_projections=pooled,
            encoder_hidden_states=embedded,
            txt_ids=text_ids,
            img_ids=torch.cat([ids, source_ids]),
        ).sample[:, :tokens]
        target = pipeline._pack_latents(noise - latents, count, *SHAPE)
        expected = (predicted - target).square().mean((1, 2))
        torch.testing.assert_close(losses(task), expected, atol=1e-5, rtol=1e-5)


def test_a_samples_loss_does_not_depend_on_its_batch_and_each_visit_draws_anew(base: Path) -> None:
    task = build_task(base)
    with torch.no_grad():
        together = losses(task)
        for index, key in enumerate(KEYS[:2]):
            alone = losses(task, [key])[0]
            torch.testing.assert_close(alone, together[index], atol=1e-5, rtol=1e-5)
        assert len(set(losses(task, [SampleKey("i1", visit) for visit in range(4)]).tolist())) == 4


@pytest.mark.parametrize(
    ("kind", "dtype"), [("lora", "float32"), ("lora", "bfloat16"), ("full", "float32")]
)
def test_what_is_trained_learns_alone_and_its_export_edits_as_trained(
    kind: str, dtype: str, base: Path, tmp_path: Path
) -> None:
    task = build_task(base, trainable=kind, dtype=dtype, dropout=0.0)
    trainable = task.trainable_parameters()
    assert all(value.dtype == torch.float32 for value in trainable.values())
    assert all(name.startswith("transformer.") for name in trainable)
    three_steps(task, lambda: losses(task, KEYS[:2]))
    task.export(tmp_path / "adapter")  # proves to 1e-4 that it loads
    adapted = kontext(weights=str(base), trainable=kind, dtype=dtype, adapter=tmp_path / "adapter")
    first, second = (
        editor.run(editor.load_pipeline(), [fixed_picture(SIDE)], ["red hair"], [3])
        for editor in (adapted, kontext(weights=str(base), dtype=dtype))
    )
    assert np.abs(first - second).max() > 1e-3
    card = json.loads((tmp_path / "adapter/adapter.json").read_text())
    assert (card["editor"], card["prediction_type"]) == ("kontext", "flow_prediction")
    told = (tmp_path / "adapter/README.md").read_text()
    assert "license: other\nlicense_name: flux-1-dev-non-commercial-license" in told
    assert "which allows no commercial use" in told


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), 3)


def train(world: World, base: Path, output: Path, *overrides: str) -> RunResult:
    arguments = [
        *world.overrides,
        "editor=kontext",
        f"editor.weights={base}",
        "editor.dtype=float32",
        f"editor.resolution={SIDE}",
        "editor.steps=2",
        f"editor.text_tokens={TEXT_TOKENS}",
        "editor.rank=2",
        "engine.threads=1",
        "trainer.max_steps=3",
        "trainer.batch_size=2",
        "trainer.learning_rate=0.01",
        "trainer.warmup_steps=0",
        f"output_dir={output}",
        *overrides,
    ]
    return run(load("train", arguments))  # type: ignore[arg-type]


def test_train_py_writes_an_adapter_that_plain_diffusers_loads(
    world: World, base: Path, tmp_path: Path
) -> None:
    result = train(world, base, tmp_path / "run", "editor.captions=public+instruction")
    assert result.status is ExitStatus.DONE
    weights = load_file(tmp_path / "run/adapter/pytorch_lora_weights.safetensors")
    assert all(name.startswith("transformer.") for name in weights)
    assert all(value.any() for name, value in weights.items() if "lora_B" in name)
    editor = kontext(weights=str(base), captions="public+instruction", adapter=tmp_path / "run")
    picture = [fixed_picture(SIDE)]
    plain = FluxKontextPipeline.from_pretrained(base, dtype=torch.float32)
    plain.set_progress_bar_config(disable=True)
    before = editor.run(plain, picture, ["red hair"], [3])
    plain.load_lora_weights(str(tmp_path / "run/adapter"))
    edited = editor.run(plain, picture, ["red hair"], [3])
    ours = editor.run(editor.pipeline, picture, ["red hair"], [3])
    assert np.abs(edited - ours).max() <= 1e-4
    assert np.abs(edited - before).max() > 1e-4
    with pytest.raises(UsageError, match=r"trained with editor\.captions 'public\+instruction'"):
        kontext(weights=str(base), adapter=tmp_path / "run").load_pipeline()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["objective=v"], r"objective=v trains v_prediction, but .*editor=kontext expects flow_"),
        (["objective=flow", "objective.snr_gamma=5"], r"objective\.snr_gamma: min-SNR is for"),
        (["objective.snr_gamma=5"], r"objective\.snr_gamma: min-SNR is for"),
        (["task=synthetic_editing"], r"trains editors of the InstructPix2Pix family, and editor=k"),
    ],
)
def test_choices_that_do_not_fit_are_told_before_any_weight_is_loaded(
    overrides: list[str],
    told: str,
    world: World,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loads(_: TokenEditor) -> Any:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(TokenEditor, "load_base", loads)
    with pytest.raises(UsageError, match=told):
        train(world, base, tmp_path / "run", *overrides)


def test_what_is_masked_counts_more(base: Path) -> None:
    settings = (kontext(weights=str(base)), objective(), 4)
    task = TokenEditTask(*settings, TaskOptions(mask_weight=3.0))
    mask = torch.zeros(len(KEYS), 1, SIDE, SIDE)
    mask[0] = 1.0
    prepared = task.prepare(replace(batch(), mask=mask))
    with torch.no_grad():
        weighted = task.loss(prepared, task.draw(KEYS, prepared))
        plain = task.loss(replace(prepared, weight=None), task.draw(KEYS, prepared))
    torch.testing.assert_close(weighted[0], 4 * plain[0])
    torch.testing.assert_close(weighted[1:], plain[1:])

"""task=tiny_base at miniature size: resumable, and exported so that diffusers loads it plainly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training.interrupting import Interrupted, interrupt_after

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.data.synthetic import draw_scene, redraw, render
from unsafe2safe.data.synthetic.source import world_named
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.editors.tiny_model import (
    build_autoencoder,
    fix_posterior,
    normalize_latents,
    structured_images,
)
from unsafe2safe.jobs.train import run
from unsafe2safe.training.draws import SampleKey
from unsafe2safe.training.export import fixed_picture
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.tiny_autoencoder import load_vae
from unsafe2safe.training.tiny_base_task import TinyBaseTask, head_cells
from unsafe2safe.training.variant_latents import place_weights
from unsafe2safe.training.variants import VariantPair, changed_cells, changed_pixels

SHORT = [
    "experiment=tiny_base",
    "trainer.max_steps=5",
    "trainer.batch_size=2",
    "trainer.warmup_steps=1",
    "trainer.checkpoint_every=2",
    "trainer.log_every=1",
    "trainer.gradient_check=false",
    "task.scenes=6",
    "task.held_out=2",
    "engine.threads=1",
]


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    torch.manual_seed(3)
    vae = build_autoencoder()
    normalize_latents(vae, structured_images(16, 64, 0))
    fix_posterior(vae)
    vae.save_pretrained(folder)
    return folder


def train(root: Path, name: str, autoencoder: Path, *overrides: str) -> RunResult:
    paths = [f"paths.runs={root / 'runs'}", f"paths.private={root / 'private'}"]
    paths += [f"output_dir={root / name}", f"task.autoencoder={autoencoder}"]
    return run(load("train", [*SHORT, *paths, *overrides]))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, autoencoder: Path) -> Path:
    root = tmp_path_factory.mktemp("base")
    result = train(root, "whole", autoencoder)
    assert result.status is ExitStatus.DONE
    return root / "whole"


def make_task(autoencoder: Path, *overrides: str) -> TinyBaseTask:
    config = load("train", [*SHORT, f"task.autoencoder={autoencoder}", *overrides])
    assert isinstance(config, Train)
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    task = recipe.task(config, {"task.autoencoder": autoencoder})
    assert isinstance(task, TinyBaseTask)
    return task


@pytest.fixture(scope="module")
def task(autoencoder: Path) -> TinyBaseTask:
    return make_task(autoencoder)


@pytest.mark.slow
def test_stopped_in_the_middle_and_started_again_it_ends_with_the_same_bytes(
    finished: Path, autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt_after(patched, 3)
        with pytest.raises(Interrupted):
            train(tmp_path, "stopped", autoencoder)
    train(tmp_path, "stopped", autoencoder)
    whole = sorted(path for path in (finished / "pipeline").rglob("*") if path.is_file())
    assert len(whole) >= 9
    for path in [finished / "metrics.csv", *whole]:
        again = tmp_path / "stopped" / path.relative_to(finished)
        assert again.read_bytes() == path.read_bytes(), path.name
    facts = json.loads((tmp_path / "stopped/run.json").read_text())["held_out"]
    assert facts == json.loads((finished / "run.json").read_text())["held_out"]
    assert {"outside/ssim", "outside/psnr"} <= set(facts)


@pytest.mark.slow
def test_plain_diffusers_loads_the_folder_in_fp32_and_edits(finished: Path) -> None:
    from diffusers import StableDiffusionInstructPix2PixPipeline
    from safetensors.torch import load_file

    folder = finished / "pipeline"
    files = sorted(folder.rglob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        assert {value.dtype for value in load_file(file).values()} == {torch.float16}
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 20e6
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert part.dtype == torch.float32
    scheduler = pipeline.scheduler.config
    assert scheduler.prediction_type == "v_prediction"
    assert scheduler.rescale_betas_zero_snr
    assert scheduler.timestep_spacing == "trailing"
    picture = to_model([fixed_picture(64)]) / 2 + 0.5
    edited = pipeline("give the person red hair", picture, num_inference_steps=2, output_type="np")
    assert edited.images.shape == (1, 64, 64, 3)
    assert np.isfinite(edited.images).all()


@pytest.mark.slow
def test_the_average_is_exported_and_not_the_last_weights(finished: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(finished / "pipeline/unet/diffusion_pytorch_model.safetensors")
    checkpoint = torch.load(finished / "checkpoints/step-00000005.ckpt", weights_only=True)
    average = checkpoint["average"]["average"]["unet.conv_in.weight"]
    assert torch.equal(stored["conv_in.weight"], average.half())
    assert not torch.equal(
        stored["conv_in.weight"], checkpoint["state_dict"]["unet.conv_in.weight"].half()
    )


def test_both_networks_learn_and_the_autoencoder_does_not(
    task: TinyBaseTask, autoencoder: Path
) -> None:
    names = task.trainable_parameters()
    assert {name.split(".")[0] for name in names} == {"unet", "text_encoder"}
    assert len(names) == len(list(task.network.parameters()))
    before = load_vae(autoencoder).state_dict()
    batch = task.data.collate([task.data[0, 0], task.data[1, 0]])
    prepared = task.prepare(batch)
    task.loss(prepared, task.draw(batch.keys, prepared)).mean().backward()
    assert all(parameter.grad is not None for parameter in names.values())
    assert all(torch.equal(before[n], v) for n, v in task.pipeline.vae.state_dict().items())
    task.network.zero_grad()


def test_prepared_latents_are_the_modes_of_the_two_pictures(task: TinyBaseTask) -> None:
    pair = VariantPair(SampleKey("scene-2", 0), 2, 3, 1, "a caption", "a text")
    prepared = task.prepare(task.data.collate([pair]))
    pictures = task.data.pictures(2)
    for index, latents in ((3, prepared.source), (1, prepared.target)):
        with torch.no_grad():
            mode = task.pipeline.vae.encode(to_model([pictures[index]])).latent_dist.mode()
        torch.testing.assert_close(latents, mode, atol=5e-3, rtol=1e-3)  # kept in fp16
    changed = changed_cells(pictures[3], pictures[1], 16)
    assert torch.equal(prepared.weight[0, 0] > 1, changed)
    same = task.prepare(task.data.collate([VariantPair(pair.key, 2, 1, 1, "a caption", "keep")]))
    assert torch.equal(same.source, same.target)
    assert bool((same.weight == 1).all())


def test_a_dropped_text_is_the_empty_text_and_a_dropped_image_is_zero(
    autoencoder: Path,
) -> None:
    task = make_task(
        autoencoder,
        "objective.text_dropout=0",
        "objective.image_dropout=0",
        "objective.both_dropout=1",
        "task.padded=1",  # no text is as long as another, then
    )
    first, second = task.data[0, 0], task.data[0, 1]
    keys = (SampleKey("scene-0", 0),)

    def loss(pair: VariantPair, source: int) -> torch.Tensor:
        edit = VariantPair(keys[0], 0, source, 1, pair.public_caption, pair.edit_instruction)
        prepared = task.prepare(task.data.collate([edit]))
        prepared.weight.fill_(1.0)
        with torch.no_grad():
            return task.loss(prepared, task.draw(keys, prepared))

    torch.testing.assert_close(loss(first, 0), loss(second, 2))


@pytest.mark.parametrize("count", [1, 6, 40, 200])
def test_a_changed_region_counts_at_least_as_much_as_the_rest(count: int) -> None:
    changed = torch.zeros(256, dtype=torch.bool)
    changed[:count] = True
    weight = place_weights(changed.view(1, 16, 16), 2.0, 1.0).flatten()
    assert bool((weight[~changed] == 1).all())
    assert float(weight[0]) >= 3
    if float(weight[0]) < 24:  # the bound of a single cell
        assert weight[changed].sum() >= weight[~changed].sum() - 1e-3
    plain = place_weights(changed.view(1, 16, 16), 2.0, 0.0).flatten()
    assert plain[changed].unique().tolist() == [3.0]


def test_what_changes_in_a_head_counts_more_and_nothing_else(autoencoder: Path) -> None:
    task = make_task(autoencoder, "task.head_weight=1")
    more = make_task(autoencoder, "task.head_weight=3")
    edits = [(0, 0, 1), (3, 0, 1), (3, 1, 1)]  # the last changes nothing
    pairs = [VariantPair(SampleKey(f"scene-{n}", 0), n, i, j, "", "a text") for n, i, j in edits]
    batch = task.data.collate(pairs)
    plain, weighed = task.prepare(batch).weight, more.prepare(batch).weight
    for pair, before, after in zip(pairs, plain[:, 0], weighed[:, 0], strict=True):
        scene = task.data.variants(pair.scene)[0]
        heads = head_cells(scene, 16)
        grown = (before > 1) & heads
        assert bool(grown.any()) == (pair.source != pair.target)
        torch.testing.assert_close(after, torch.where(grown, 3 * before, before))


def test_heads_are_where_skin_shows() -> None:
    scene = next(
        scene
        for scene in (draw_scene(world_named("base"), 5, index) for index in range(100))
        if len(scene.private.persons) == 1
    )
    person = scene.private.persons[0]
    pale, dark = (
        render(
            replace(scene, private=replace(scene.private, persons=(replace(person, skin=skin),)))
        )
        for skin in ("pale", "dark")
    )
    changed, heads = changed_cells(pale, dark, 16), head_cells(scene, 16)
    inside = float((changed & heads).sum() / changed.sum())
    assert inside > 0.6  # the rest is the neck
    spot = scene.public.spots[0]
    assert bool(heads[int(spot.y / 4), int(spot.x / 4)])
    assert int(heads.sum()) <= np.pi * (1.35 * spot.radius / 4 + 1) ** 2


def test_visits_draw_other_edits_of_the_scene_and_say_them(task: TinyBaseTask) -> None:
    data = task.data
    visits = [data[1, visit] for visit in range(60)]
    assert visits == [data[1, visit] for visit in range(60)]
    edits = {(visit.source, visit.target) for visit in visits}
    assert len({edit for edit in edits if edit[0] != edit[1]}) > 8  # of 12
    for visit in visits:
        same = visit.source == visit.target
        told = visit.edit_instruction
        assert same == ("keep everything" in told or "change nothing" in told)
        assert told not in visit.public_caption


def test_some_texts_have_the_public_caption_before_them(task: TinyBaseTask) -> None:
    batch = task.data.collate([task.data[index % 6, index] for index in range(60)])
    texts = task._texts(batch)
    assert texts == task._texts(batch)
    plain = [t == i for t, i in zip(texts, batch.edit_instructions, strict=True)]
    assert 0.5 < sum(plain) / 60 < 0.9  # 0.7 by the recipe
    for text, caption, instruction, is_plain in zip(
        texts, batch.public_captions, batch.edit_instructions, plain, strict=True
    ):
        assert is_plain or text == f"{caption} {instruction}"


def test_most_batches_have_no_more_empty_places_than_their_longest_text_needs(
    task: TinyBaseTask, autoencoder: Path
) -> None:
    full = task.pipeline.tokenizer.model_max_length
    end = task.pipeline.tokenizer.eos_token_id
    batches = [task.data.collate([task.data[index % 6, index]]) for index in range(40)]
    tokens = [task.prepare(batch).tokens for batch in batches]
    short = [ids for ids in tokens if ids.shape[1] < full]
    assert 20 < len(short) < 38  # 0.75 of 40 by the recipe
    assert all(int((ids == end).sum()) == 1 for ids in short)  # the end itself, nothing after it
    always = make_task(autoencoder, "task.padded=1")
    for batch, ids in zip(batches, tokens, strict=True):
        padded = always.prepare(batch).tokens
        assert padded.shape[1] == full  # as the pipeline pads
        assert torch.equal(padded[:, : ids.shape[1]], ids)
        assert bool((padded[:, ids.shape[1] :] == end).all())


def test_a_batch_without_texts_is_as_long_as_it_would_be_with_them(autoencoder: Path) -> None:
    task = make_task(
        autoencoder,
        "objective.text_dropout=1",
        "objective.image_dropout=0",
        "objective.both_dropout=0",
        "task.padded=0",
    )
    batch = task.data.collate([task.data[0, 0], task.data[1, 0]])
    prepared = task.prepare(batch)
    seen: list[torch.Tensor] = []
    hook = task.pipeline.text_encoder.register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    with torch.no_grad():
        task.loss(prepared, task.draw(batch.keys, prepared))
    hook.remove()
    nothing = task.pipeline.tokenizer("").input_ids
    assert seen[0].shape == prepared.tokens.shape
    assert seen[0][:, : len(nothing)].tolist() == [nothing] * 2


def test_variants_share_all_that_is_public(task: TinyBaseTask) -> None:
    variants = task.data.variants(4)
    assert len(variants) == 4
    assert len({scene.public for scene in variants}) == 1
    changes = [len(redraw(variants[0], scene.private).changes) for scene in variants[1:]]
    assert min(changes) >= 1
    unchanged = ~changed_pixels(render(variants[0]), render(variants[1]))
    assert unchanged.any()


@pytest.mark.slow
def test_a_training_goes_on_from_the_weights_of_another(
    finished: Path, autoencoder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    begun = make_task(autoencoder, f"task.begin_from={finished}")
    parts = {"unet": "diffusion_pytorch_model", "text_encoder": "model"}
    for part, name in parts.items():
        stored = load_file(finished / "pipeline" / part / f"{name}.safetensors")
        held = begun.network.get_submodule(part).state_dict()
        assert all(torch.equal(held[key], value.float()) for key, value in stored.items())
        assert stored
    assert all(parameter.requires_grad for parameter in begun.trainable_parameters().values())
    result = train(tmp_path, "on", autoencoder, f"task.begin_from={finished}")
    assert result.status is ExitStatus.DONE
    for config in (tmp_path / "on/pipeline").rglob("*.json"):
        assert str(finished.parent) not in config.read_text(), config  # no path of this machine
    assert "task.begin_from" in json.loads((tmp_path / "on/run.json").read_text())["keys"]
    first = [
        float((folder / "metrics.csv").read_text().splitlines()[1].split(",")[1])
        for folder in (finished, tmp_path / "on")
    ]
    assert first[0] != first[1]  # the same draws, other weights


def test_what_a_training_cannot_go_on_from_is_told(autoencoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"task\.begin_from=.* holds no pipeline"):
        train(tmp_path, "run", autoencoder, f"task.begin_from={tmp_path}")


def test_a_missing_autoencoder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no autoencoder"):
        train(tmp_path, "run", tmp_path)


@pytest.mark.slow
def test_the_autoencoder_counts_by_what_it_holds(finished: Path) -> None:
    keys = json.loads((finished / "run.json").read_text())["keys"]
    assert len(keys["task.autoencoder"]) == 16
    assert not any(key.startswith(("dataset", "editor", "vision")) for key in keys)

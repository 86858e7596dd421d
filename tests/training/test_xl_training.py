"""``sdxl_ip2p`` and ``cosxl`` at toy size: the published losses, what learns, what is exported."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionXLInstructPix2PixPipeline
from tiny_bases import SIDE
from tiny_xl import edm_scheduler, write_single_file, write_xl
from training.make_pairs import make_world
from training.three_steps import three_steps

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import ExitStatus
from unsafe2safe.editors.caption_branch import BRANCH_FILE, caption_branch
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.editors.sdxl_ip2p import SdxlIp2pEditor
from unsafe2safe.jobs.train import run
from unsafe2safe.objectives.base import ObjectiveSettings
from unsafe2safe.training.draws import SampleKey, draw_normal, draw_uniform
from unsafe2safe.training.editor_recipe import task_of
from unsafe2safe.training.editor_task import InstructPix2PixTask
from unsafe2safe.training.export import fixed_picture
from unsafe2safe.training.planning.model import planned_model
from unsafe2safe.training.planning.true_size import parameter_count
from unsafe2safe.training.task import PairBatch

# Of seed 4: without source, whole, without either, without text at the rates of the first test;
# whole, the first two, at the default rates.
KEYS = tuple(SampleKey(name, 0) for name in ("p0", "p1", "p3", "i0"))
SHAPE = (4, SIDE // 8, SIDE // 8)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    made = {
        "epsilon": write_xl(folder / "epsilon"),
        "v": write_xl(folder / "v", kind="v_prediction", zeros=False),
        "plain": write_xl(folder / "plain", in_channels=4),
        "cosxl": write_xl(folder / "cosxl", kind="cosxl"),
    }
    made["file"] = write_single_file(made["cosxl"], folder / "cosxl_edit.safetensors")
    return made


def xl(choice: str, base: Path, **values: Any) -> SdxlIp2pEditor:
    config = dict(load("train", [f"editor={choice}"]).editor)  # type: ignore[attr-defined]
    small = {"steps": 2, "resolution": SIDE, "dtype": "float32", "weights": str(base), "rank": 4}
    return build(config | small | values, "editor", SdxlIp2pEditor)


def xl_task(editor: SdxlIp2pEditor, **rates: float) -> InstructPix2PixTask:
    settings = dict(load("train").objective) | rates  # type: ignore[attr-defined]
    objective = build(settings, "objective", ObjectiveSettings)  # type: ignore[type-abstract]
    task = task_of(editor)(editor, objective, seed=4)
    assert isinstance(task, InstructPix2PixTask)
    return task


def batch(keys: tuple[SampleKey, ...] = KEYS[:2]) -> PairBatch:
    random = np.random.default_rng(0)
    source, target = random.integers(0, 256, (2, len(keys), SIDE, SIDE, 3), dtype=np.uint8)
    texts = tuple(f"text of {key.image_id}" for key in keys)
    both = tuple(f"both of {key.image_id}" for key in keys)
    return PairBatch(
        keys, to_model(list(source)), to_model(list(target)), texts, texts, combined_captions=both
    )


def losses(task: InstructPix2PixTask, pairs: PairBatch) -> torch.Tensor:
    prepared = task.prepare(pairs)
    return task.loss(prepared, task.draw(pairs.keys, prepared))


@pytest.mark.parametrize("kind", ["epsilon", "v", "cosxl"])
def test_loss_equals_the_published_formula(kind: str, bases: dict[str, Path]) -> None:
    editor = xl("cosxl" if kind == "cosxl" else "sdxl_ip2p", bases[kind])
    task = xl_task(editor, text_dropout=0.3, both_dropout=0.2, image_dropout=0.2)
    pipeline, pairs = task.pipeline, batch(KEYS)
    scale = pipeline.vae.config.scaling_factor
    assert scale == 0.13025
    dropout, level = draw_uniform(4, KEYS, "dropout"), draw_uniform(4, KEYS, "timestep")
    noise = draw_normal(4, KEYS, "noise", SHAPE)
    untold, seen = dropout < 0.5, ((dropout < 0.3) | (dropout >= 0.7)).float()
    assert list(zip(untold.tolist(), seen.tolist(), strict=True)) == [
        (False, 0), (False, 1), (True, 0), (True, 1)
    ]  # fmt: skip
    with torch.no_grad():
        posterior = pipeline.vae.encode(pairs.target).latent_dist
        sampled = posterior.mean + posterior.std * draw_normal(4, KEYS, "posterior", SHAPE)
        latents = sampled * scale
        if kind == "cosxl":  # Karras et al. 2022, table 1, with the v-prediction of diffusers
            sigma = torch.tan(level * math.pi / 2)[:, None, None, None]
            noised = latents.double() + sigma * noise
            noisy = (noised / (sigma**2 + 1).sqrt()).float()
            timesteps = (sigma.log() / 4).flatten().float()
            c_skip, c_out = 1 / (sigma**2 + 1), -sigma / (sigma**2 + 1).sqrt()
            target = (latents - c_skip * noised) / c_out
        else:
            schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
            timesteps = (level * 1000).long()
            noisy = schedule.add_noise(latents, noise, timesteps)
            target = noise
            if kind == "v":
                target = schedule.get_velocity(latents, noise, timesteps)
        source = pipeline.vae.encode(pairs.source).latent_dist.mode() * seen[:, None, None, None]
        if kind == "cosxl":
            source = source * scale
        told = [
            pipeline.encode_prompt(text)[1 if nothing else 0 :: 2]
            for text, nothing in zip(pairs.edit_instructions, untold.tolist(), strict=True)
        ]
        ids = pipeline._get_add_time_ids(
            (SIDE, SIDE), (0, 0), (SIDE, SIDE), torch.float32, told[0][1].shape[1]
        )
        predicted = pipeline.unet(
            torch.cat([noisy, source], 1),
            timesteps,
            torch.cat([tokens for tokens, _ in told]),
            added_cond_kwargs={
                "text_embeds": torch.cat([pooled for _, pooled in told]),
                "time_ids": ids.repeat(len(KEYS), 1),
            },
        ).sample
        expected = ((predicted - target) ** 2).mean((1, 2, 3)).float()
        torch.testing.assert_close(losses(task, pairs), expected, atol=1e-6, rtol=1e-5)


KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sdxl": ("sdxl_ip2p", "epsilon", {"dtype": "bfloat16", "use_dora": True}),
    "sdxl_widened": ("sdxl_ip2p", "plain", {"targets": ("to_q", "conv_in")}),
    "sdxl_full": ("sdxl_ip2p", "v", {"trainable": "full", "captions": "combined"}),
    "cosxl": ("cosxl", "cosxl", {"use_rslora": True, "captions": "public+instruction"}),
    "cosxl_full": ("cosxl", "cosxl", {"trainable": "full"}),
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[] if k == "cosxl" else [pytest.mark.slow]) for k in KINDS],
)
def test_it_learns_and_plain_diffusers_edits_as_it_does(
    kind: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    choice, base, settings = KINDS[kind]
    editor = xl(choice, bases[base], **settings)
    task = xl_task(editor)
    three_steps(task, lambda: losses(task, batch()))
    folder = tmp_path / "adapter"
    task.export(folder)  # proves to 1e-4 that our own loader edits alike
    card = json.loads((folder / "adapter.json").read_text())
    expected = {"licence": editor.licence, "base_dtype": editor.dtype, "editor": choice}
    predicted = {"v": "v_prediction", "cosxl": "edm_v_prediction"}.get(base, "epsilon")
    expected |= {"prediction_type": predicted, "widened": base == "plain"}
    assert expected.items() <= card.items()
    text = (folder / "README.md").read_text()
    assert ("license: other" in text) is (choice == "cosxl")
    assert ("which allows no commercial use" in text) is (choice == "cosxl")
    assert all(value.dtype == torch.float32 for value in task.trainable_parameters().values())

    public = xl(choice, bases[base], **settings).load_base()  # widened as the card says one must
    inputs = ([fixed_picture(SIDE)], ["red hair"], [3])
    untrained, trained = editor.run(public, *inputs), editor.run(task.pipeline, *inputs)
    if editor.trainable == "full":
        assert "_name_or_path" not in (folder / "unet/config.json").read_text()
        public.register_modules(unet=type(public.unet).from_pretrained(folder / "unet"))
    else:
        public.load_lora_weights(str(folder))
    difference = np.abs(editor.run(public, *inputs) - trained)
    if editor.dtype == "float32":
        assert difference.max() <= 1e-4
    else:  # it rounds the LoRA; our loader, which the export has proven, does not
        assert difference.mean() < 0.02
        assert "Plain diffusers rounds the LoRA" in text
    assert np.abs(untrained - trained).max() > 1e-3


def test_a_caption_branch_learns_beside_the_pooled_text(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    settings = {"caption_branch": "safe", "trainable": "branch", "dtype": "float16"}
    task = xl_task(xl("sdxl_ip2p", bases["epsilon"], **settings))
    three_steps(task, lambda: losses(task, batch()))
    for name, value in caption_branch(task.pipeline.unet).items():
        if name.endswith(".gate"):
            assert value != 0
            value.data.fill_(1.0)  # as after long training: what the branch says counts
    task.export(tmp_path / "adapter")
    assert (tmp_path / "adapter" / BRANCH_FILE).is_file()
    loaded = xl("sdxl_ip2p", bases["epsilon"], **settings, adapter=tmp_path / "adapter")

    def edited(caption: str) -> np.ndarray:
        return loaded.run(loaded.pipeline, [fixed_picture(SIDE)], ["red hair"], [3], 0, [caption])

    assert not np.array_equal(edited("a beach"), edited("a street"))


def test_an_adapter_of_another_base_editor_or_text_is_refused(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    xl_task(xl("sdxl_ip2p", bases["epsilon"])).export(adapter)
    xl("sdxl_ip2p", bases["epsilon"], adapter=adapter).load_pipeline()
    config = json.loads((adapter / "adapter.json").read_text())
    for choice, base, settings, told in (
        ("cosxl", "cosxl", {}, r"with editor 'sdxl_ip2p', this is 'cosxl'"),
        ("sdxl_ip2p", "epsilon", {"captions": "combined"}, r"with editor\.captions 'instruction'"),
        ("sdxl_ip2p", "epsilon", {"dtype": "bfloat16"}, r"with editor\.dtype 'float32'"),
        ("sdxl_ip2p", "other", {}, rf"with base weights '{config['base']}'"),
    ):
        weights = bases.get(base) or another_text_encoder(bases["epsilon"], tmp_path / "other")
        with pytest.raises(UsageError, match=told):
            xl(choice, weights, adapter=adapter, **settings).load_pipeline()


def another_text_encoder(base: Path, folder: Path) -> Path:
    pipeline = StableDiffusionXLInstructPix2PixPipeline.from_pretrained(base)
    with torch.no_grad():
        pipeline.text_encoder_2.text_projection.weight.add_(1e-2)
    pipeline.save_pretrained(folder)
    return folder


def test_an_objective_of_another_kind_is_refused_before_any_weight_is_loaded() -> None:
    nowhere = Path("owner/name")
    for objective, choice in (("epsilon", "cosxl"), ("flow", "cosxl")):
        settings = load("train", [f"objective={objective}"]).objective  # type: ignore[attr-defined]
        built = build(settings, "objective", ObjectiveSettings)  # type: ignore[type-abstract]
        with pytest.raises(UsageError, match=r"editor=cosxl expects edm_v_prediction"):
            InstructPix2PixTask(xl(choice, nowhere), built, seed=4)


def test_train_py_writes_an_adapter_that_plain_diffusers_loads_on_the_single_file(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    small = {"dtype": "float32", "resolution": SIDE, "steps": 2, "rank": 2}
    arguments = [
        *make_world(tmp_path / "world", 3).overrides,
        "editor=cosxl",
        f"editor.weights={bases['file']}",
        f"editor.layout={bases['cosxl']}",
        *(f"editor.{key}={value}" for key, value in small.items()),
        "engine.threads=1",
        "trainer.max_steps=3",
        "trainer.batch_size=2",
        "trainer.learning_rate=0.01",
        "trainer.warmup_steps=0",
        f"output_dir={tmp_path / 'run'}",
    ]
    assert run(load("train", arguments)).status is ExitStatus.DONE  # type: ignore[arg-type]
    values: dict[str, Any] = {**small, "layout": str(bases["cosxl"]), "adapter": tmp_path / "run"}
    editor = xl("cosxl", bases["file"], **values)
    plain = StableDiffusionXLInstructPix2PixPipeline.from_single_file(
        str(bases["file"]), config=str(bases["cosxl"]), is_cosxl_edit=True, local_files_only=True
    )
    plain.scheduler = edm_scheduler()
    plain.set_progress_bar_config(disable=True)

    def edited() -> np.ndarray:
        return plain(
            prompt="red hair",
            image=to_model([fixed_picture(SIDE)]) / 2 + 0.5,
            height=SIDE,
            width=SIDE,
            num_inference_steps=2,
            guidance_scale=5.0,
            image_guidance_scale=1.5,
            generator=torch.Generator().manual_seed(3),
            output_type="np",
        ).images

    before = edited()
    plain.load_lora_weights(str(tmp_path / "run/adapter"))
    ours = editor.run(editor.pipeline, [fixed_picture(SIDE)], ["red hair"], [3])
    assert np.abs(edited() - ours).max() <= 1e-4
    assert np.abs(edited() - before).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("choice", "side"), [("sdxl_ip2p", 768), ("cosxl", 1024)])
def test_the_planned_model_is_of_the_published_size(choice: str, side: int) -> None:
    config = load("train", [f"editor={choice}"])
    assert isinstance(config, Train)
    planned = planned_model(build(config.editor, "editor", SdxlIp2pEditor), None, None)
    assert (planned.model.name, planned.resolution) == (choice, side)
    network = parameter_count(planned.model.network)
    trained = sum(parameter.numel() for parameter in planned.trained)
    assert network - trained == pytest.approx(2_567e6, rel=0.01)
    assert trained == 4 * 5_806_080  # as diffusers' own examples train at rank 4


@pytest.mark.slow
def test_a_plan_of_the_true_size_is_told_without_weights(tmp_path: Path) -> None:
    keys = ["editor=cosxl", "mode=plan", "plan.samples=10", "plan.gpus=[h100]"]
    config = load("train", [f"paths.runs={tmp_path}", *keys, "trainer.batch_size=1"])
    assert isinstance(config, Train)
    result = run(config)
    assert result.output_dir is not None
    plan = json.loads((result.output_dir / "plan.json").read_text("utf-8"))
    assert plan["memory_per_gpu_bytes"]["total"] > 0
    assert "unet_sdxl" in result.message

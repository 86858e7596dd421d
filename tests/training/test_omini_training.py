"""OminiControl: its loss against diffusers' own parts, and train.py as run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from editors.tiny_kontext import LATENT_CHANNELS, SIDE, TEXT_TOKENS
from editors.tiny_omini import by_diffusers, omini, save_tiny_flux
from safetensors.torch import load_file
from training.make_pairs import make_world
from training.three_steps import three_steps

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.core.records import ExitStatus
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.condition_branch import LORA_FILE, Conditioned
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.editors.omini import OminiEditor
from unsafe2safe.jobs.train import run
from unsafe2safe.objectives.base import ObjectiveSettings
from unsafe2safe.training.draws import SampleKey, draw_normal, draw_uniform
from unsafe2safe.training.export import fixed_picture
from unsafe2safe.training.task import PairBatch
from unsafe2safe.training.token_task import TokenEditTask

KEYS = (SampleKey("a", 0), SampleKey("b", 1))
SHAPE = (LATENT_CHANNELS, SIDE // 2, SIDE // 2)
TEXTS = ("red hair", "blue")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_flux(tmp_path_factory.mktemp("flux"))


def build_task(base: Path, image_dropout: float = 0.0, **settings: Any) -> TokenEditTask:
    rates = {"text": 0.0, "image": image_dropout, "both": 0.0}
    overrides = [f"objective.{name}_dropout={rate}" for name, rate in rates.items()]
    chosen = load("train", overrides).objective  # type: ignore[attr-defined]
    objective = build(chosen, "objective", ObjectiveSettings)  # type: ignore[type-abstract]
    return TokenEditTask(omini(weights=str(base), **settings), objective, 4)


def images(seed: int) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    return to_model(list(pixels))


def losses(task: TokenEditTask) -> torch.Tensor:
    prepared = task.prepare(PairBatch(KEYS, images(0), images(1), TEXTS, TEXTS))
    return task.loss(prepared, task.draw(KEYS, prepared))


@pytest.mark.parametrize("dropped", [False, True])
def test_loss_is_that_of_the_pipelines_own_latents_ids_and_schedule(
    dropped: bool, base: Path
) -> None:
    settings = {"condition_offset": (0, -3), "independent_condition": dropped}
    task = build_task(base, image_dropout=float(dropped), **settings)
    plain = FluxPipeline.from_pretrained(base, dtype=torch.float32)
    tokens = (SIDE // 4) ** 2
    with torch.no_grad():
        ours = losses(task)
        noise = draw_normal(4, KEYS, "noise", SHAPE)
        posterior = plain.vae.encode(images(1)).latent_dist
        sampled = posterior.mean + posterior.std * draw_normal(4, KEYS, "posterior", SHAPE)
        latents, source = (sampled - 0.1) * 0.7, plain.vae.encode(images(0)).latent_dist.mean
        source = torch.zeros_like(source) if dropped else (source - 0.1) * 0.7
        normal = torch.special.ndtri(draw_uniform(4, KEYS, "timestep"))
        index = 999 - (torch.sigmoid(normal) * 1000).long()
        plain.scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 0.001, 1000), mu=task.editor.shift_mu(plain, *SHAPE[1:])
        )
        sigmas = plain.scheduler.sigmas[index][:, None, None, None]
        _, ids = plain.prepare_latents(
            2, LATENT_CHANNELS, SIDE, SIDE, torch.float32, torch.device("cpu"), None
        )
        embedded, pooled, _ = plain.encode_prompt(
            list(TEXTS), None, max_sequence_length=TEXT_TOKENS
        )
        predicted = by_diffusers(
            plain.transformer,
            plain._pack_latents((1 - sigmas) * latents + sigmas * noise, 2, *SHAPE),
            Conditioned(
                condition=plain._pack_latents(source, 2, *SHAPE),
                noisy_ids=ids,
                condition_ids=ids + torch.tensor([0.0, 0.0, -3.0]),
                text=embedded,
                pooled=pooled,
                times=plain.scheduler.timesteps[index] / 1000,
                guidance=torch.ones(2),
                condition_guidance=torch.ones(2),
                independent=dropped,
            ),
        )
        target = plain._pack_latents(noise - latents, 2, *SHAPE)
    assert predicted.shape[1] == tokens
    expected = (predicted - target).square().mean((1, 2))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "dora"), [("float32", False), ("bfloat16", False), ("float32", True)]
)
def test_the_lora_learns_alone_and_its_export_edits_as_trained(
    dtype: str, dora: bool, base: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"dtype": dtype, "use_dora": dora, "independent_condition": dora}
    task = build_task(base, **settings)
    trainable = task.trainable_parameters()
    assert {name.rpartition(".lora_")[0] for name in trainable} == {
        f"transformer.{layer}"
        for layer in (
            "x_embedder",
            "transformer_blocks.0.norm1.linear",
            *(f"transformer_blocks.0.attn.{end}" for end in ("to_q", "to_k", "to_v", "to_out.0")),
            "transformer_blocks.0.ff.net.2",
            *(f"single_transformer_blocks.0.attn.{end}" for end in ("to_q", "to_k", "to_v")),
            "single_transformer_blocks.0.proj_mlp",
            "single_transformer_blocks.0.proj_out",
            # of the last block's condition nothing but keys and values is read
            *(f"single_transformer_blocks.1.attn.{end}" for end in ("to_k", "to_v")),
        )
    }
    three_steps(task, lambda: losses(task))
    task.export(tmp_path / "adapter")  # proves to 1e-4 that it loads
    card = json.loads((tmp_path / "adapter/adapter.json").read_text())
    assert (card["targets"], card["base_dtype"]) == (list(task.editor.targets), dtype)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of three steps of train.py."""
    root = tmp_path_factory.mktemp("trained")
    small = {"dtype": "float32", "resolution": SIDE, "steps": 2, "rank": 2}
    arguments = [
        *make_world(root / "world", 3).overrides,
        "editor=omini",
        "optimizer=prodigy",
        f"editor.weights={base}",
        *(f"editor.{key}={value}" for key, value in small.items()),
        f"editor.text_tokens={TEXT_TOKENS}",
        "engine.threads=1",
        "trainer.max_steps=3",
        "trainer.batch_size=2",
        "trainer.learning_rate=1.0",
        "trainer.warmup_steps=0",
        f"output_dir={root / 'run'}",
    ]
    assert run(load("train", arguments)).status is ExitStatus.DONE  # type: ignore[arg-type]
    return root / "run"


def test_train_py_writes_an_adapter_that_plain_diffusers_refuses(trained: Path, base: Path) -> None:
    folder = trained / "adapter"
    weights = load_file(folder / LORA_FILE)
    assert any(name.endswith("condition_up") for name in weights)
    assert all(v.any() for name, v in weights.items() if name.endswith("condition_down"))
    assert not list(folder.glob("pytorch_lora*"))
    plain = FluxPipeline.from_pretrained(base, dtype=torch.float32)
    for file in (None, LORA_FILE):
        with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
            plain.load_lora_weights(str(folder), weight_name=file)
    told = (folder / "README.md").read_text()
    assert "Plain diffusers cannot load it" in told
    assert "python anonymize.py editor=omini adapter=RUN_FOLDER" in told
    assert "load_lora_weights" not in told
    assert "license_name: flux-1-dev-non-commercial-license" in told


def test_edits_follow_source_text_seed_and_guidance(trained: Path, base: Path) -> None:
    editor = omini(weights=str(base), adapter=trained)
    other = np.ascontiguousarray(fixed_picture(SIDE)[::-1])

    def edited(
        picture: np.ndarray | None = None,
        text: str = "red hair",
        seed: int = 1,
        times: float = 1.0,
    ) -> np.ndarray:
        shown = fixed_picture(SIDE) if picture is None else picture
        return editor.run(editor.pipeline, [shown], [text], [seed], times)

    others = (edited(other), edited(text="BLUE"), edited(seed=9), edited(times=2.5))
    assert all(np.abs(one - edited()).max() > 1e-5 for one in others)
    request = EditRequest(
        image=np.zeros((50, 70, 3), np.uint8),
        mask=np.zeros((50, 70), np.float32),
        regions=(),
        public_caption="a person",
        edit_instruction="red hair",
        seed=3,
    )
    assert [image.shape for image in editor.edit([request])] == [(50, 70, 3)]


def test_texts_are_cut_to_73_tokens_of_clip_for_both_encoders(trained: Path, base: Path) -> None:
    editor = omini(weights=str(base), adapter=trained, text_tokens=512)
    assert editor.clip_tokens == 73
    pipeline, long = editor.pipeline, "word " * 100
    tokens = pipeline.tokenizer(long, add_special_tokens=False).input_ids[:73]
    cut = pipeline.tokenizer.decode(tokens)
    ours = editor.encode_texts(pipeline, [long]).tokens
    theirs = pipeline.encode_prompt([cut], None, max_sequence_length=512)[0]
    torch.testing.assert_close(ours, theirs)
    whole = pipeline.encode_prompt([long], None, max_sequence_length=512)[0]
    assert not torch.allclose(ours, whole)


def test_the_papers_experiment_has_the_papers_settings() -> None:
    config: Any = load("train", ["experiment=paper_omini"])
    editor = build(config.editor, "editor", OminiEditor)
    assert (editor.rank, editor.alpha, editor.lora_init) == (16, 16.0, "gaussian")
    assert (editor.resolution, editor.steps, editor.clip_tokens) == (512, 8, 73)
    assert editor.captions == "instruction"
    assert config.optimizer["_target_"] == "prodigyopt.Prodigy"
    trainer = config.trainer
    assert (trainer.learning_rate, trainer.weight_decay) == (1.0, 0.01)
    assert (trainer.batch_size, trainer.max_steps) == (4, 12_000)
    rates = config.objective
    assert rates["text_dropout"] + rates["both_dropout"] == pytest.approx(0.1)
    assert rates["image_dropout"] + rates["both_dropout"] == pytest.approx(0.1)


def test_what_does_not_fit_is_told(trained: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainable=full: editor=omini trains a LoRA"):
        omini(trainable="full")
    with pytest.raises(UsageError, match=r"does not see the source image before it is fine-tuned"):
        omini(weights=str(base)).load_pipeline()
    with pytest.raises(UsageError, match=r"trained with editor\.condition_offset \(0, 0\)"):
        omini(weights=str(base), adapter=trained, condition_offset=(0, 2)).load_pipeline()
    damaged = tmp_path / "adapter"
    damaged.mkdir()
    card = json.loads((trained / "adapter/adapter.json").read_text())
    (damaged / "adapter.json").write_text(json.dumps(card | {"rank": 4}))
    (damaged / LORA_FILE).write_bytes((trained / "adapter" / LORA_FILE).read_bytes())
    with pytest.raises(UsageError, match=r"is no condition LoRA of this model"):
        omini(weights=str(base), adapter=damaged).load_pipeline()

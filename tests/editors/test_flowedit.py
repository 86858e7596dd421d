"""FlowEdit against its algorithm written out, on true classes at toy size."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pipelines import change_setting, save_flux, save_sd1, save_sd3
from torch import Tensor

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.flowedit import FlowEditEditor, fit
from unsafe2safe.editors.instruct_pix2pix import restore, to_model
from unsafe2safe.editors.pipeline_editor import decode_latents, encode_image

SOURCE, TARGET = "Anna with a red hat", "someone with a blue hat"
SMALL = {"device": "cpu", "dtype": "float32", "longest_side": 32, "steps": 5, "n_max": 4}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    return {"sd3": save_sd3(root / "sd3"), "flux": save_flux(root / "flux")}


def flowedit(choice: str = "flowedit", **values: Any) -> FlowEditEditor:
    config = dict(load("anonymize", [f"editor={choice}"]).editor)  # type: ignore[attr-defined]
    return build(config | SMALL | values, "editor", FlowEditEditor)


@pytest.fixture(scope="module")
def editors(folders: dict[str, Path]) -> dict[str, FlowEditEditor]:
    return {
        "sd3": flowedit(weights=str(folders["sd3"]), n_avg=2),
        "flux": flowedit("flowedit_flux", weights=str(folders["flux"]), n_avg=2),
    }


def request(seed: int, height: int = 41, width: int = 60, **values: Any) -> EditRequest:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    plain = EditRequest(image, np.zeros((height, width), np.float32), (), "", "", seed)
    texts = {"combined_caption": TARGET, "private_caption": SOURCE}
    return replace(plain, **texts | values)


def latents(seed: int = 1) -> Tensor:
    return torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(seed))


def sd3_times(steps: int) -> list[float]:
    """Shifted twice, as SD3 was published: the bounds when made, the steps between them then."""

    def shifted(sigma: Any) -> Any:
        return 3.0 * sigma / (1 + 2.0 * sigma)

    return [*shifted(np.linspace(1.0, shifted(0.001), steps)).tolist(), 0.0]


def sd3_velocity(pipeline: Any) -> Callable[[Tensor, float, str, float], Tensor]:
    def velocity(z: Tensor, t: float, text: str, guidance: float) -> Tensor:
        outputs = []
        for one in ("", text):
            states, _, pooled, _ = pipeline.encode_prompt(
                one, one, one, do_classifier_free_guidance=False
            )
            outputs.append(
                pipeline.transformer(
                    hidden_states=z,
                    timestep=torch.tensor([1000 * t]),
                    encoder_hidden_states=states,
                    pooled_projections=pooled,
                ).sample
            )
        return outputs[0] + guidance * (outputs[1] - outputs[0])

    return velocity


def flux_times(steps: int, tokens: int) -> list[float]:
    """FLUX's shift: exp(mu) / (exp(mu) + 1/s - 1), mu linear in the number of tokens."""
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    even = np.linspace(1.0, 1 / steps, steps)
    return [*(np.exp(mu) / (np.exp(mu) + 1 / even - 1)).tolist(), 0.0]


def flux_velocity(pipeline: Any) -> Callable[[Tensor, float, str, float], Tensor]:
    def velocity(z: Tensor, t: float, text: str, guidance: float) -> Tensor:
        states, pooled, text_ids = pipeline.encode_prompt(text, text)
        _, c, h, w = z.shape
        tokens, ids = [], []
        for y in range(h // 2):
            for x in range(w // 2):
                tokens.append(z[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten(1))
                ids.append([0.0, float(y), float(x)])
        output = pipeline.transformer(
            hidden_states=torch.stack(tokens, 1),
            timestep=torch.tensor([t]),
            guidance=torch.tensor([guidance]),
            encoder_hidden_states=states,
            pooled_projections=pooled,
            txt_ids=text_ids,
            img_ids=torch.tensor(ids),
        ).sample
        image = torch.empty_like(z)
        for number, token in enumerate(output.unbind(1)):
            y, x = divmod(number, w // 2)
            image[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = token.view(1, c, 2, 2)
        return image

    return velocity


def written_out(
    x: Tensor, velocity: Callable[..., Tensor], t: list[float], editor: FlowEditEditor, seed: int
) -> Tensor:
    """Algorithm 1 as printed: t is indexed from the image, T falls to 0."""
    t = t[::-1]
    random = torch.Generator().manual_seed(seed)
    source, target = editor.source_guidance_scale, editor.target_guidance_scale
    z_fe = x
    for i in range(editor.n_max, editor.n_min, -1):
        differences = []
        for _ in range(editor.n_avg):
            n = torch.randn(x.shape, generator=random)
            z_source = (1 - t[i]) * x + t[i] * n
            z_target = z_fe + z_source - x
            v_target = velocity(z_target, t[i], TARGET, target)
            differences.append(v_target - velocity(z_source, t[i], SOURCE, source))
        z_fe = z_fe + (t[i - 1] - t[i]) * torch.stack(differences).mean(0)
    if editor.n_min == 0:
        return z_fe
    i = editor.n_min
    z_target = z_fe + ((1 - t[i]) * x + t[i] * torch.randn(x.shape, generator=random)) - x
    for i in range(editor.n_min, 0, -1):
        z_target = z_target + (t[i - 1] - t[i]) * velocity(z_target, t[i], TARGET, target)
    return z_target


@torch.no_grad()
@pytest.mark.parametrize("n_min", [0, 2])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_edits_are_the_published_algorithms(
    folders: dict[str, Path], editors: dict[str, FlowEditEditor], family: str, n_min: int
) -> None:
    editor = replace(editors[family], n_min=n_min)
    editor.__dict__["pipeline"] = editors[family].pipeline  # not loaded again
    x = latents()
    if family == "sd3":
        velocity, times = sd3_velocity(editor.pipeline), sd3_times(5)
    else:
        velocity, times = flux_velocity(editor.pipeline), flux_times(5, 48)
    expected = written_out(x, velocity, times, editor, seed=11)
    found = editor.edit_latents(x, SOURCE, TARGET, seed=11)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - x).abs().max() > 0.05  # it is an edit


@torch.no_grad()
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_equal_texts_and_guidance_give_the_input_back(
    editors: dict[str, FlowEditEditor], family: str
) -> None:
    editor = replace(editors[family], source_guidance_scale=5.0, target_guidance_scale=5.0)
    editor.__dict__["pipeline"] = editors[family].pipeline  # not loaded again
    x = latents()
    assert torch.equal(editor.edit_latents(x, TARGET, TARGET, seed=3), x)
    same = request(7, private_caption=TARGET)
    vae = editor.pipeline.vae
    seen = to_model([fit(same.image, 32, 4)])
    again = decode_latents(vae, encode_image(vae, seen))
    assert np.array_equal(editor.edit([same])[0], restore(again, 41, 60))


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_randomness_is_the_requests_seed_whatever_its_batch(
    editors: dict[str, FlowEditEditor], family: str
) -> None:
    editor = editors[family]
    requests = [request(1), request(3, 7, 90, text_guidance=1.5)]
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    together = editor.edit(requests)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [image.shape for image in together] == [r.image.shape for r in requests]
    backwards = editor.edit(requests[::-1])[::-1]
    for image, other in zip(together, backwards, strict=True):
        assert np.array_equal(image, other)
    assert not np.array_equal(editor.edit([replace(requests[0], seed=9)])[0], together[0])


def test_the_target_is_the_combined_caption_or_else_caption_and_instruction(
    editors: dict[str, FlowEditEditor],
) -> None:
    both = {"public_caption": "a hat", "edit_instruction": "make it blue"}
    assert request(1, **both).target_caption == TARGET
    joined = request(1, **both | {"combined_caption": ""})
    assert joined.target_caption == "a hat make it blue"
    first, second = editors["sd3"].edit([request(1), joined])
    assert not np.array_equal(first, second)
    assert SOURCE not in repr(joined)


def test_stronger_text_guidance_begins_at_a_noisier_step() -> None:
    published = flowedit(weights="a/b", steps=50, n_max=33)
    assert [published.begin_step(times) for times in (1, 1.5, 2, 2.5)] == [33, 39, 42, 44]
    assert published.begin_step(20) == 50


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_texts_that_are_cut_are_not_printed(
    editors: dict[str, FlowEditEditor],
    family: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    logging.getLogger("diffusers").propagate = True
    with caplog.at_level(logging.DEBUG):
        editors[family].model.embed("Wq7 " * 700, 1.0)
    said = caplog.text + "".join(capfd.readouterr())
    assert "wq7" not in said.lower()


def test_without_a_private_caption_nothing_is_edited(editors: dict[str, FlowEditEditor]) -> None:
    assert editors["sd3"].reads_private_caption
    with pytest.raises(ValueError, match="private caption"):
        editors["sd3"].edit([request(1, private_caption=" ")])


def test_sides_are_stretched_to_the_nearest_multiples() -> None:
    image = np.zeros((400, 640, 3), np.uint8)
    assert fit(image, 1536, 16).shape == (960, 1536, 3)
    assert fit(image[:333], 1536, 16).shape == (800, 1536, 3)
    assert fit(image[:3], 1536, 16).shape == (16, 1536, 3)


def test_unusable_weights_and_settings_are_told(folders: dict[str, Path], tmp_path: Path) -> None:
    sd3, flux = str(folders["sd3"]), str(folders["flux"])

    def told(match: str, kind: type[Exception] = UsageError, **values: Any) -> None:
        with pytest.raises(kind, match=match):
            _ = flowedit(**{"weights": sd3, **values}).model

    told(r"editor\.n_min=0, editor\.n_max=7 and editor\.steps=5", ConfigError, n_max=7)
    told(r"is no folder", weights=str(tmp_path / "none"))
    told(r"holds no diffusers pipeline", weights=str(tmp_path))
    told(r"is a FluxPipeline; editor=flowedit needs a StableDiffusion3Pipeline", weights=flux)
    told(r"editor\.device=gpu is not a torch device", device="gpu")
    told(r"editor\.device=cuda:99: torch sees", device="cuda:99")
    told(r"editor\.dtype=float16 needs a GPU", dtype="float16")
    told(r"editor\.longest_side=65: these weights go up to 64", longest_side=65)
    copied = tmp_path / "copied"
    shutil.copytree(flux, copied)
    change_setting(copied / "transformer" / "config.json", "guidance_embeds", False)
    told(r"no guidance \(as FLUX\.1-schnell\)", family="flux", weights=str(copied))
    (copied / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    told(r"^editor\.weights=[^\n]*$", family="flux", weights=str(copied))


def test_a_run_knows_what_its_weights_hold_not_where_they_lie(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    first = flowedit(weights=str(folders["sd3"])).weights_content()
    copied = tmp_path / "elsewhere"
    shutil.copytree(folders["sd3"], copied)
    moved = flowedit(weights=str(copied))
    assert moved.weights_content() == first
    change_setting(copied / "scheduler" / "scheduler_config.json", "shift", 2.0)
    assert moved.weights_content() != first
    known = flowedit(weights="someone/sd3").weights_content()
    assert known == {"editor.weights": "someone/sd3@main"}
    with pytest.raises(UsageError, match="is a StableDiffusionPipeline"):
        flowedit(weights=str(save_sd1(tmp_path / "sd1"))).weights_content()


def test_number_types_are_as_asked_and_the_autoencoder_never_in_float16(
    folders: dict[str, Path],
) -> None:
    halves = flowedit(weights=str(folders["sd3"]), dtype="float16")
    loaded = halves.pipeline_class().from_pretrained(
        folders["sd3"], dtype=halves.number_types(), local_files_only=True
    )
    parts = (loaded.transformer, loaded.text_encoder, loaded.text_encoder_3, loaded.vae)
    assert [part.dtype for part in parts] == [torch.float16] * 3 + [torch.float32]
    brain = flowedit(weights=str(folders["sd3"]), dtype="bfloat16")
    edited = brain.edit([request(1)])[0]
    assert brain.pipeline.vae.dtype == torch.bfloat16
    assert edited.shape == (41, 60, 3)

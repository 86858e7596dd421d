"""``task=tiny_autoencoder``: the tiny editor's autoencoder, from nothing, on synthetic scenes."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from unsafe2safe.core.config.components import component
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.data.synthetic.source import world_named
from unsafe2safe.editors.tiny_model import (
    LATENT_CHANNELS,
    LATENT_SIDE,
    POSTERIOR_LOG_VARIANCE,
    SIDE,
    build_autoencoder,
    fix_posterior,
    normalize_latents,
)
from unsafe2safe.training.draws import SampleKey, draw_normal
from unsafe2safe.training.export import ExportError
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.scenes import FreshScenes, SceneBatch, scene_seed
from unsafe2safe.training.task import Task

_MEASURED_AT_ONCE = 64


@component
class TinyAutoencoder(Recipe):
    """An AutoencoderKL for 64 px learns to give scenes back, private details above all."""

    worlds: tuple[str, ...] = Field(
        default=("base",), min_length=1, description="Synthetic worlds the scenes are of."
    )
    scenes: int = Field(
        default=8000, ge=1, description="Scenes of an epoch; each epoch draws others."
    )
    private_weight: float = Field(
        default=2.0,
        ge=0,
        description="A private pixel's error counts so many times more than another's.",
    )
    ssim_weight: float = Field(default=1.0, ge=0, description="Weight of 1 - SSIM in the loss.")
    kl_weight: float = Field(
        default=1e-6, ge=0, description="Weight of the latents' divergence from a normal."
    )
    normalized_on: int = Field(
        default=2000,
        ge=2,
        description="Scenes on which the basis of the latents is chosen.",
    )
    held_out: int = Field(
        default=256, ge=1, description="Scenes, of none trained on, that the result is measured on."
    )

    exported_as: ClassVar[str] = "vae"
    unused: ClassVar[tuple[str, ...]] = ("dataset", "vision", "editor", "objective", "pairs")
    stands_for: ClassVar[Mapping[str, str] | None] = {
        "name": "synthetic",
        "task": "tiny_autoencoder",
    }

    def choice(self, config: Train) -> str:  # noqa: ARG002
        return self.name

    def data(self, config: Train, inputs: Mapping[str, Path]) -> FreshScenes:  # noqa: ARG002
        return self._scenes(scene_seed(config.seed, "training"))

    def task(self, config: Train, inputs: Mapping[str, Path]) -> Task[SceneBatch, Any, Any]:  # noqa: ARG002
        held_out = self._scenes(scene_seed(config.seed, "held-out"))
        return AutoencoderTask(self, config.seed, self.data(config, {}), held_out)

    def _scenes(self, seed: int) -> FreshScenes:
        return FreshScenes([world_named(name) for name in self.worlds], seed, self.scenes, SIDE)


class AutoencoderTask:
    """Reconstruction of scenes through latents with a narrow posterior of fixed width."""

    denoiser: None = None  # too small for it

    def __init__(
        self, recipe: TinyAutoencoder, seed: int, training: FreshScenes, held_out: FreshScenes
    ) -> None:
        """Draw the weights from ``seed``."""
        self._recipe, self._seed = recipe, seed
        self.data, self.held_out = training, held_out
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed, "", 0, "autoencoder_init"))
            vae = build_autoencoder()
        # On the CPU a third faster than the usual order.
        self.network: nn.Module = vae.to(memory_format=torch.channels_last)

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """All weights by name."""
        return dict(self.network.named_parameters())

    def prepare(self, batch: SceneBatch) -> SceneBatch:
        """The batch on the network's device."""
        device = next(self.network.parameters()).device
        images = batch.images.to(device, memory_format=torch.channels_last)
        return SceneBatch(batch.keys, images, batch.private.to(device))

    def draw(self, keys: Sequence[SampleKey], prepared: SceneBatch) -> Tensor:
        """(B, C, h, w) noise of the posterior."""
        shape = (LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE)
        return draw_normal(self._seed, keys, "posterior", shape).to(prepared.images.device)

    def loss(self, prepared: SceneBatch, draws: Tensor) -> Tensor:
        """(B,) of L1 + MSE with private pixels weighted, 1 - SSIM, and the KL divergence.

        The posterior's variance is fixed, so the divergence is the latents' mean square here, up
        to a constant (Kingma and Welling 2014, appendix B).
        """
        recipe, network = self._recipe, self._vae
        latents = network.encode(prepared.images).latent_dist.mean
        width = torch.exp(torch.tensor(0.5 * POSTERIOR_LOG_VARIANCE))
        decoded = network.decode(latents + width * draws).sample.float()
        difference = decoded - prepared.images
        weight = 1.0 + recipe.private_weight * prepared.private
        error = (weight * (difference.abs() + difference.square())).flatten(1).mean(1)
        divergence = 0.5 * latents.float().square().flatten(1).sum(1)
        unlike = 1.0 - similarity(decoded, prepared.images)
        losses: Tensor = error + recipe.ssim_weight * unlike + recipe.kl_weight * divergence
        return losses

    @property
    def _vae(self) -> Any:
        return self.network

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Write ``folder`` for ``AutoencoderKL.from_pretrained``, in fp16 and normalized.

        Raises:
            ExportError: read back it decodes otherwise than what was trained, by 1/255 in the
                mean.
        """
        vae = copy.deepcopy(self._vae).cpu().float().eval()
        normalize_latents(vae, self.data.first(self._recipe.normalized_on).images)
        fix_posterior(vae)
        temporary = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        copy.deepcopy(vae).half().save_pretrained(temporary, safe_serialization=True)
        images = self.held_out.first(_MEASURED_AT_ONCE).images
        trained, reloaded = (reconstruct(model, images) for model in (vae, load_vae(temporary)))
        difference = float((trained - reloaded).abs().mean()) / 2
        if not difference < 1 / 255:
            raise ExportError(
                f"the autoencoder does not survive fp16: pictures differ by {difference:.2g}"
            )
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)

    @torch.no_grad()
    def validate(self, folder: Path) -> Mapping[str, float]:
        """Mean PSNR in dB, over all and over private pixels, and SSIM on held-out scenes."""
        vae, scenes = load_vae(folder), self.held_out.first(self._recipe.held_out)
        decoded = reconstruct(vae, scenes.images).clamp(-1, 1)
        squares = ((decoded - scenes.images) / 2).square().mean(1, keepdim=True)
        whole = squares.flatten(1).mean(1)
        inside = (squares * scenes.private).flatten(1).sum(1)
        inside = inside / scenes.private.flatten(1).sum(1)
        return {
            "psnr": float((-10 * whole.log10()).mean()),
            "psnr_private": float((-10 * inside.log10()).nanmean()),
            "ssim": float(similarity(decoded, scenes.images).mean()),
        }


def similarity(images: Tensor, others: Tensor) -> Tensor:
    """(B,) SSIM of (B, 3, R, R) in [-1, 1], differentiable; always in full precision."""
    with torch.autocast(images.device.type, enabled=False):
        found = structural_similarity_index_measure(
            images, others, data_range=2.0, reduction="none"
        )
    assert isinstance(found, Tensor)
    return found


def load_vae(folder: Path) -> Any:
    """The AutoencoderKL in ``folder``, in fp32 and eval mode."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, torch_dtype=torch.float32
    )
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def reconstruct(vae: Any, images: Tensor) -> Tensor:
    """(N, 3, R, R) in [-1, 1] through the mode of the latents and back."""
    parts = torch.split(images, _MEASURED_AT_ONCE)
    return torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample for part in parts])

"""The task behind ``task=tiny_base``: InstructPix2Pix from nothing, its text encoder included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.tiny import TinyEditor
from unsafe2safe.editors.tiny_model import build_pipeline
from unsafe2safe.objectives.base import Objective
from unsafe2safe.training.diffusion import DiffusionDraws, draw_diffusion
from unsafe2safe.training.draws import SampleKey, draw_uniform
from unsafe2safe.training.export_pipeline import export_pipeline, quiet_loading
from unsafe2safe.training.tiny_autoencoder import load_vae
from unsafe2safe.training.truth_check import truth_figures
from unsafe2safe.training.validation.editing import editing
from unsafe2safe.training.variant_latents import VariantLatents
from unsafe2safe.training.variants import VariantBatch, VariantPairs


@dataclass(frozen=True, eq=False)
class PreparedVariants:
    """Latents (B, C, h, w) of both sides, token ids (B, L), and what each place counts
    (B, 1, h, w)."""

    source: Tensor
    target: Tensor
    tokens: Tensor
    weight: Tensor


class TinyBaseTask:
    """The UNet learns to denoise the target's latents beside the source's, told the text, and the
    text encoder learns with it. The autoencoder is fixed."""

    denoiser: None = None  # too small for it

    def __init__(
        self,
        objective: Objective,
        seed: int,
        autoencoder: Path,
        begin_from: Path | None,
        *,
        training: VariantPairs,
        held_out: VariantPairs,
        captioned: float,
        changed_weight: float,
        small_region_weight: float,
    ) -> None:
        """Draw the weights from ``seed``, or load them; encode every variant of ``training``."""
        self._objective, self._seed = objective, seed
        self.data, self.held_out = training, held_out
        self._captioned = captioned
        self._changed_weight, self._small_region_weight = changed_weight, small_region_weight
        if begin_from is None:
            init = torch_seed(seed, "", 0, "tiny_base_init")
            self.pipeline = build_pipeline(init, "v_prediction")
        else:
            self.pipeline = TinyEditor(name="tiny", weights=begin_from).load_base()
            predicted = self.pipeline.scheduler.config.prediction_type
            objective.for_base(predicted, f"task.begin_from={begin_from}")
        self.pipeline.register_modules(vae=load_vae(autoencoder))
        self.network: nn.Module = nn.ModuleDict(
            {
                "unet": self.pipeline.unet.to(memory_format=torch.channels_last),
                "text_encoder": self.pipeline.text_encoder,
            }
        )
        self.network.requires_grad_(True)
        self._no_text = self._tokens([""])
        self._latents = VariantLatents(self.pipeline.vae, training)

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        """(B, L) int64 token ids, padded to the tokenizer's length."""
        tokenizer = self.pipeline.tokenizer
        ids: Tensor = tokenizer(
            list(texts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return ids

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """All weights of UNet and text encoder by name."""
        return dict(self.network.named_parameters())

    def prepare(self, batch: VariantBatch) -> PreparedVariants:
        """Look up latents and changed cells; tokenize."""
        unet = self.pipeline.unet
        weight = self._latents.weights(batch, self._changed_weight, self._small_region_weight)
        return PreparedVariants(
            source=self._latents.sources(batch).to(unet.device, memory_format=torch.channels_last),
            target=self._latents.targets(batch).to(unet.device, memory_format=torch.channels_last),
            tokens=self._tokens(self._texts(batch)).to(unet.device),
            weight=weight.to(unet.device),
        )

    def _texts(self, batch: VariantBatch) -> list[str]:
        """Instructions, some with the public caption before them."""
        chosen = draw_uniform(self._seed, batch.keys, "captioned") < self._captioned
        return [
            f"{caption} {instruction}" if captioned else instruction
            for captioned, caption, instruction in zip(
                chosen.tolist(), batch.public_captions, batch.edit_instructions, strict=True
            )
        ]

    def draw(self, keys: Sequence[SampleKey], prepared: PreparedVariants) -> DiffusionDraws:
        """All randomness of a step; each sample's depends on its own key only."""
        return draw_diffusion(
            self._seed,
            keys,
            prepared.target.shape[1:],
            self._objective,
            self.pipeline.scheduler,
            prepared.target.device,
        )

    def loss(self, prepared: PreparedVariants, draws: DiffusionDraws) -> Tensor:
        """(B,) losses (Brooks et al. 2023, eq. 2) with a weight on each place."""
        scheduler, latents = self.pipeline.scheduler, prepared.target
        noisy, timesteps = self._objective.model_input(
            latents, draws.noise, draws.timesteps, scheduler
        )
        no_image = draws.dropped.image[:, None, None, None]
        source = torch.where(no_image, torch.zeros_like(prepared.source), prepared.source)
        no_text = draws.dropped.text[:, None]
        tokens = torch.where(no_text, self._no_text.to(prepared.tokens), prepared.tokens)
        with _fast_attention(latents.device):
            text = self.pipeline.text_encoder(tokens)[0]
            prediction = self.pipeline.unet(
                torch.cat([noisy, source], dim=1), timesteps, encoder_hidden_states=text
            ).sample
        return self._objective.loss(
            prediction, latents, draws.noise, draws.timesteps, scheduler, prepared.weight
        )

    def export(self, folder: Path, *, prove: bool = True) -> None:
        """Write the whole pipeline in fp16; see :func:`export_pipeline`."""
        export_pipeline(self.pipeline, folder, prove=prove)

    def editing(self) -> AbstractContextManager[TrainableEditor]:
        """Inside the block: the tiny editor with the weights as they are now."""
        return editing(TinyEditor(name="tiny"), self.pipeline)

    def validate(self, folder: Path) -> Mapping[str, float]:
        """Edit held-out scenes with the exported pipeline; see :func:`truth_figures`."""
        editor = TinyEditor(name="tiny", weights=folder)
        with quiet_loading():
            return truth_figures(editor, self.held_out, self._seed)


def _fast_attention(device: torch.device) -> AbstractContextManager[None]:
    """On the CPU the fused attention's backward pass takes longer than the plain formula's, by an
    eighth of a whole step here."""
    if device.type == "cpu":
        return cast(AbstractContextManager[None], sdpa_kernel(SDPBackend.MATH))
    return nullcontext()

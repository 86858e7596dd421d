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
from unsafe2safe.data.synthetic import Scene
from unsafe2safe.data.synthetic.attributes import UNITS
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

_HEAD = 1.35  # of a face's half width


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
        padded: float,
        head_weight: float,
        changed_weight: float,
        small_region_weight: float,
    ) -> None:
        """Draw the weights from ``seed``, or load them; encode every variant of ``training``."""
        self._objective, self._seed = objective, seed
        self.data, self.held_out = training, held_out
        self._captioned, self._padded, self._head_weight = captioned, padded, head_weight
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
        self._no_text = self._tokens([""], padded=True)
        self._latents = VariantLatents(self.pipeline.vae, training)

    def _tokens(self, texts: Sequence[str], padded: bool) -> Tensor:
        """(B, L) int64 token ids; L is the tokenizer's length if ``padded``, else the longest's."""
        tokenizer = self.pipeline.tokenizer
        ids: Tensor = tokenizer(
            list(texts),
            padding="max_length" if padded else "longest",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return ids

    def _head_shares(self, batch: VariantBatch, weight: Tensor) -> Tensor:
        """(B, 1, h, w): how many times as much as elsewhere a change counts at each place."""
        scenes = [self.data.variants(scene)[0] for scene in batch.scenes.tolist()]
        heads = torch.stack([head_cells(scene, weight.shape[-1]) for scene in scenes])
        return 1 + (self._head_weight - 1) * heads.unsqueeze(1).to(weight)

    def _is_padded(self, batch: VariantBatch) -> bool:
        """Whether the texts are padded as the pipeline pads them, which has to be met in training.

        Four of five places then are empty, and what is learned of words, through all of them, is
        learned the later; so most batches have only as many as their longest text needs.
        """
        return bool(draw_uniform(self._seed, batch.keys[:1], "padded").item() < self._padded)

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """All weights of UNet and text encoder by name."""
        return dict(self.network.named_parameters())

    def prepare(self, batch: VariantBatch) -> PreparedVariants:
        """Look up latents and changed cells; tokenize."""
        unet = self.pipeline.unet
        source, target = self._latents.sources(batch), self._latents.targets(batch)
        weight = self._latents.weights(batch, self._changed_weight, self._small_region_weight)
        weight = torch.where(weight > 1, weight * self._head_shares(batch, weight), weight)
        return PreparedVariants(
            source=source.to(unet.device, memory_format=torch.channels_last),
            target=target.to(unet.device, memory_format=torch.channels_last),
            tokens=self._tokens(self._texts(batch), self._is_padded(batch)).to(unet.device),
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
        nothing = self._no_text[:, : prepared.tokens.shape[1]].to(prepared.tokens)
        tokens = torch.where(no_text, nothing, prepared.tokens)
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


def head_cells(scene: Scene, cells: int) -> Tensor:
    """(cells, cells) bool: the parts of the square whose middle lies in a head, its hair included,
    or less than half a cell beside it."""
    step = UNITS / cells
    at = (torch.arange(cells) + 0.5) * step
    found = torch.zeros(cells, cells, dtype=torch.bool)
    for spot in scene.public.spots:
        across = (at - spot.x) / (_HEAD * spot.radius + step / 2)
        down = (at - spot.y) / (_HEAD * spot.radius + step / 2)
        found |= across[None].square() + down[:, None].square() <= 1
    return found


def _fast_attention(device: torch.device) -> AbstractContextManager[None]:
    """On the CPU the fused attention's backward pass takes longer than the plain formula's, by an
    eighth of a whole step here."""
    if device.type == "cpu":
        return cast(AbstractContextManager[None], sdpa_kernel(SDPBackend.MATH))
    return nullcontext()

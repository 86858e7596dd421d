"""Fine-tuning of the editors that see the source as further tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from unsafe2safe.editors.text_embedding import TextEmbedding
from unsafe2safe.editors.token_editor import TokenEditor
from unsafe2safe.objectives.conditioning import Dropped
from unsafe2safe.training.cache.rows import MadeOf, Part
from unsafe2safe.training.diffusion import draw_diffusion, mask_weights
from unsafe2safe.training.draws import SampleKey, draw_normal
from unsafe2safe.training.editor_task import PAIR_PARTS, EditDraws, FineTuningTask, frozen
from unsafe2safe.training.task import PairBatch


@dataclass(frozen=True, eq=False)
class PreparedTokenEdits:
    """What of a batch does not change while training; latents are (B, C, h, w), as the denoiser
    sees them.

    ``target_mean`` and ``target_deviation`` are moments, so that each visit can sample anew;
    ``source`` is a mode. Where the text embedding depends on the source, ``no_text`` is the empty
    text beside it, and ``unseen`` the text beside a grey picture; None where the objective drops
    neither. ``weight`` (B, 1, h, w) says what each place counts; None: all the same.
    """

    target_mean: Annotated[Tensor, MadeOf("target")]
    target_deviation: Annotated[Tensor, MadeOf("target")]
    source: Annotated[Tensor, MadeOf("source")]
    text: Annotated[TextEmbedding, MadeOf("text")]
    no_text: Annotated[TextEmbedding | None, MadeOf("text")] = None
    unseen: Annotated[TextEmbedding | None, MadeOf("text")] = None
    weight: Annotated[Tensor | None, MadeOf("mask")] = None


class TokenEditTask(FineTuningTask[PairBatch, PreparedTokenEdits]):
    """The transformer learns the target's velocity, told the text, beside the source's tokens."""

    editor: TokenEditor

    def embed_nothing(self) -> TextEmbedding:
        side = self.editor.resolution
        grey = torch.zeros(1, 3, side, side)  # for a text encoder that sees the source
        return self.editor.encode_texts(self.pipeline, [""], grey)

    def prepare(self, batch: PairBatch) -> PreparedTokenEdits:
        """Encode target, source and texts."""
        return PreparedTokenEdits(**self.prepare_parts(batch, PAIR_PARTS))

    @frozen
    def prepare_parts(self, batch: PairBatch, parts: Collection[Part]) -> dict[str, Any]:
        editor, pipeline, mask_weight = self.editor, self.pipeline, self.options.mask_weight
        made: dict[str, Any] = {"weight": None}
        if "target" in parts or ("mask" in parts and mask_weight):
            mean, deviation = editor.encode_images(pipeline, batch.target)
            made |= {"target_mean": mean, "target_deviation": deviation}
            made["weight"] = mask_weights(batch.mask, mean, mask_weight)
        if "source" in parts:
            made["source"], _ = editor.encode_images(pipeline, batch.source)
        if "text" in parts:
            made |= self._embedded(batch)
        return made

    def _embedded(self, batch: PairBatch) -> dict[str, TextEmbedding]:
        """The texts of a batch, and where they see the source what stands for dropped ones."""
        editor, pipeline, dropout = self.editor, self.pipeline, self.objective
        texts = editor.texts_of(
            batch.public_captions, batch.edit_instructions, batch.combined_captions
        )
        made = {"text": editor.encode_texts(pipeline, texts, batch.source)}
        if editor.text_sees_source and dropout.text_dropout > 0:
            made["no_text"] = editor.encode_texts(pipeline, [""] * len(texts), batch.source)
        if editor.text_sees_source and dropout.image_dropout > 0:
            grey = torch.zeros_like(batch.source)
            made["unseen"] = editor.encode_texts(pipeline, texts, grey)
        return made

    def _text(self, prepared: PreparedTokenEdits, dropped: Dropped) -> TextEmbedding:
        """What the denoiser is told; a dropped source is hidden from its texts, too."""
        text = prepared.text
        if prepared.no_text is not None:
            text = text.replaced(dropped.text, prepared.no_text)
        if prepared.unseen is not None:
            text = text.replaced(dropped.image, prepared.unseen)
        nothing = dropped.text
        if self.editor.text_sees_source:
            nothing = dropped.text & dropped.image
        return text.replaced(nothing, self._no_text)

    def draw(self, keys: Sequence[SampleKey], prepared: PreparedTokenEdits) -> EditDraws:
        shape, device = prepared.source.shape[1:], prepared.source.device
        scheduler, mu = self.pipeline.scheduler, self.editor.shift_mu(self.pipeline, *shape[1:])
        return EditDraws(
            posterior_noise=draw_normal(self.seed, keys, "posterior", shape).to(device),
            diffusion=draw_diffusion(self.seed, keys, shape, self.objective, scheduler, device, mu),
        )

    def loss(self, prepared: PreparedTokenEdits, draws: EditDraws) -> Tensor:
        """(B,) losses over the target's tokens alone; a dropped source is shown as zeros."""
        scheduler, drawn = self.pipeline.scheduler, draws.diffusion
        latents = prepared.target_mean + prepared.target_deviation * draws.posterior_noise
        noisy, timesteps = self.objective.model_input(
            latents, drawn.noise, drawn.timesteps, scheduler
        )
        no_image = drawn.dropped.image[:, None, None, None]
        source = torch.where(no_image, torch.zeros_like(prepared.source), prepared.source)
        text = self._text(prepared, drawn.dropped)
        prediction = self.editor.predict(self.pipeline, noisy, source, timesteps, text)
        return self.objective.loss(
            prediction, latents, drawn.noise, drawn.timesteps, scheduler, prepared.weight
        )

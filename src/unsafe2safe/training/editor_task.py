"""Fine-tuning: what all editor families have in common, and the InstructPix2Pix family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.editors.base_weights import drop_weights
from unsafe2safe.editors.caption_branch import caption_branch
from unsafe2safe.editors.fine_tuning import TrainableEditor, joined_fingerprint
from unsafe2safe.editors.instruct_pix2pix import InstructPix2PixEditor, embed_tokens, encode_moments
from unsafe2safe.editors.lora_targets import lora_config, targets_key
from unsafe2safe.editors.text_embedding import TextEmbedding
from unsafe2safe.objectives.base import ObjectiveSettings, prediction_of
from unsafe2safe.training.cache.rows import (
    MadeOf,
    Part,
    Row,
    batch_of,
    returned_by,
)
from unsafe2safe.training.diffusion import DiffusionDraws, draw_diffusion, mask_weights
from unsafe2safe.training.draws import SampleKey, draw_normal
from unsafe2safe.training.export import export_adapter
from unsafe2safe.training.task import Batch, PairBatch
from unsafe2safe.training.validation.editing import editing


@dataclass(frozen=True, eq=False)
class PreparedEdits:
    """What of a batch does not change while training; latents are (B, C, h, w).

    ``target_mean`` and ``target_deviation`` are unscaled latent moments, so that each visit can
    sample anew; ``source`` is the unscaled mode of what the editor sees of it. The tokens of
    ``text`` are (B, L, D), with a caption branch (B, 2L, D): the public caption behind the text;
    where the text encoder is trained they are ids, (B, L) or (B, 2L). ``weight`` (B, 1, h, w) says
    what each place counts; None: all the same.
    """

    target_mean: Annotated[Tensor, MadeOf("target")]
    target_deviation: Annotated[Tensor, MadeOf("target")]
    source: Annotated[Tensor, MadeOf("source")]
    text: Annotated[TextEmbedding, MadeOf("text")]
    weight: Annotated[Tensor | None, MadeOf("mask")] = None


@dataclass(frozen=True, eq=False)
class EditDraws:
    """The randomness of one step; ``posterior_noise`` is (B, C, h, w)."""

    posterior_noise: Tensor
    diffusion: DiffusionDraws


PreparedEdit = TypeVar("PreparedEdit")
Self = TypeVar("Self", bound="FineTuningTask[Any, Any]")


@dataclass(frozen=True)
class TaskOptions:
    """``no_text`` is the row of the embedded empty text, where a cache has it: autoencoder and
    text encoders are not loaded then. A place under the mask counts ``mask_weight`` times more."""

    no_text: Row | None = None
    mask_weight: float = 0.0

    def with_no_text(self, row: Row) -> TaskOptions:
        """For a complete cache."""
        return replace(self, no_text=row)


def frozen(
    prepare: Callable[[Self, Batch, Collection[Part]], dict[str, Any]],
) -> Callable[[Self, Batch, Collection[Part]], dict[str, Any]]:
    """``prepare`` without gradients, and with each encoder in its own number type: autocast in
    fp16 would overflow the autoencoder, and what is cached could not be used with another
    ``trainer.precision``."""

    @wraps(prepare)
    def alone(task: Self, batch: Batch, parts: Collection[Part]) -> dict[str, Any]:
        with torch.no_grad(), torch.autocast(task.denoiser.device.type, enabled=False):
            return prepare(task, batch, parts)

    return alone


class FineTuningTask(ABC, Generic[Batch, PreparedEdit]):
    """A base's weights, frozen but for what the editor's settings train. Each family of editors
    adds how a batch is prepared and what the loss is."""

    def __init__(
        self,
        editor: TrainableEditor,
        objective: ObjectiveSettings,
        seed: int,
        options: TaskOptions | None = None,
    ) -> None:
        """Load the base and make its weights or a new LoRA trainable.

        Raises:
            UsageError: the base's scheduler expects another prediction than the objective trains,
                or a LoRA target matches nothing.
        """
        self.editor, self.seed, self.options = editor, seed, options or TaskOptions()
        no_text = self.options.no_text
        self._left_out = editor.parts[1:] if no_text is not None else ()
        if editor.predicts is not None:  # told before anything is loaded
            objective.for_base(editor.predicts, f"editor={editor.name}")
        self.pipeline = (
            editor.load_base(without=self._left_out) if self._left_out else editor.load_base()
        )
        loaded = [part for part in editor.parts if part not in self._left_out]
        self._fingerprints = editor.part_fingerprints(self.pipeline, loaded)
        predicted = prediction_of(self.pipeline.scheduler)
        self.objective = objective.for_base(predicted, f"editor={editor.name}")
        self.denoiser: Any = editor.denoiser(self.pipeline)
        self._base_dtype: torch.dtype = self.denoiser.dtype
        self._add_parts()
        self.network = nn.ModuleDict(
            {
                name: getattr(self.pipeline, name)
                for name in editor.parts
                if name not in self._left_out
            }
        )
        self.network.requires_grad_(False).eval()
        if editor.trainable == "lora":
            self._add_lora()
        elif editor.trainable == "full":
            self.denoiser.requires_grad_(True)
            for name in editor.never_learning(self.denoiser):
                self.denoiser.get_submodule(name).requires_grad_(False)
        for parameter in self._added_parameters():
            parameter.requires_grad_(True)
        for parameter in self.trainable_parameters().values():
            parameter.data = parameter.data.float()
        if no_text is None:
            with torch.no_grad():
                self._no_text = self.embed_nothing()
        else:
            self._no_text = batch_of(returned_by(type(self).embed_nothing), [no_text])

    @property
    def base(self) -> str | None:
        """The fingerprint of the base; None as long as parts of it have never been loaded: the
        export, which needs them, will know."""
        if set(self._fingerprints) != set(self.editor.parts):
            return None
        return joined_fingerprint(self._fingerprints)

    @abstractmethod
    def embed_nothing(self) -> Any:
        """What stands for a dropped text, (1, ...): a tensor or a dataclass of tensors."""

    @property
    def no_text(self) -> Any:
        """As :meth:`embed_nothing`, or as the cache had it."""
        return self._no_text

    @property
    def encoders(self) -> list[nn.Module]:
        """Autoencoder and text encoders, as far as they are loaded."""
        return [
            getattr(self.pipeline, name)
            for name in self.editor.parts[1:]
            if name not in self._left_out
        ]

    def drop_encoders(self) -> None:
        """Let go of autoencoder and text encoders, after which nothing can be prepared."""
        for name in self.editor.parts[1:]:
            if name in self.network:
                drop_weights(self.pipeline, name)
                del self.network[name]
        self._left_out = self.editor.parts[1:]

    def load_encoders(self) -> None:
        """Load autoencoder and text encoders if they are not there: to edit and to export."""
        if not self._left_out:
            return
        loaded = self.editor.load_base(without=self.editor.parts[:1])
        self._fingerprints |= self.editor.part_fingerprints(loaded, self._left_out)
        for name in self._left_out:
            part = getattr(loaded, name).requires_grad_(False).eval().to(self.denoiser.device)
            self.pipeline.register_modules(**{name: part})
            self.network.add_module(name, part)
        self._left_out = ()

    def _add_parts(self) -> None:
        """What the family adds to the base before anything is frozen."""

    def _added_parameters(self) -> Iterable[nn.Parameter]:
        """Weights of :meth:`_add_parts` that are trained whatever else is."""
        return ()

    def _add_lora(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(self.seed, "", 0, "lora_init"))
            for part, targets in self.editor.lora_targets().items():
                module = getattr(self.pipeline, part)
                config = lora_config(self.editor, module, targets, targets_key(part))
                self.editor.add_lora(module, config)
        # peft leaves new layers in training mode: right for LoRA dropout, the only such layer.

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """The LoRA weights, or all of the denoiser's, and what was added to it, by name."""
        # Looked up anew: sharing the weights out puts others in their places.
        return {
            name: parameter
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad
        }

    @abstractmethod
    def prepare(self, batch: Batch) -> PreparedEdit:
        """Latents and embedded texts of a batch, from the frozen autoencoder and text encoders."""

    def prepare_parts(self, batch: Batch, parts: Collection[Part]) -> dict[str, Any]:  # noqa: ARG002
        """Of what :meth:`prepare` gives at least the fields that are made of ``parts``, by name;
        what can be left out is not encoded."""
        prepared = self.prepare(batch)
        return {field.name: getattr(prepared, field.name) for field in fields(cast(Any, prepared))}

    @abstractmethod
    def draw(self, keys: Sequence[SampleKey], prepared: PreparedEdit) -> EditDraws:
        """All randomness of a step; each sample's depends on its own key only."""

    @abstractmethod
    def loss(self, prepared: PreparedEdit, draws: EditDraws) -> Tensor:
        """(B,) losses, differentiable in the trainable weights."""

    def export(self, folder: Path, *, prove: bool = True) -> None:
        """Write the adapter and prove that it loads; see :func:`export_adapter`."""
        self.load_encoders()
        assert self.base is not None
        export_adapter(self.editor, self.pipeline, self.base, folder, prove=prove)

    def editing(self) -> AbstractContextManager[TrainableEditor]:
        """Inside the block: the editor with the weights as they are now."""
        self.load_encoders()
        return editing(self.editor, self.pipeline)

    def validate(self, folder: Path) -> Mapping[str, float]:  # noqa: ARG002
        """Nothing: evaluate.py says what an adapter is worth."""
        return {}


class EditorTask(FineTuningTask[Batch, PreparedEdits]):
    """The UNet learns to denoise the target's latents beside the source's, told the text."""

    editor: InstructPix2PixEditor

    def __init__(
        self,
        editor: InstructPix2PixEditor,
        objective: ObjectiveSettings,
        seed: int,
        options: TaskOptions | None = None,
    ) -> None:
        """Load the base and make its weights, a new LoRA or a caption branch trainable.

        Raises:
            UsageError: as :class:`FineTuningTask`; or a caption branch is to be trained where
                there is none.
        """
        if editor.trainable == "branch" and editor.caption_branch == "none":
            raise UsageError("editor.trainable=branch needs editor.caption_branch=gated or safe")
        super().__init__(editor, objective, seed, options)

    def embed_nothing(self) -> TextEmbedding:
        if self._trains_text:
            return self.editor.tokens_of(self.pipeline, [""], [""])
        return self.editor.no_text(self.pipeline)

    def _add_parts(self) -> None:
        if self.editor.trainable != "full":  # whose weights are saved, plain as safetensors wants
            self.editor.lay_out(self.pipeline)
        self.editor.add_branch(self.pipeline)

    def _added_parameters(self) -> Iterable[nn.Parameter]:
        return caption_branch(self.pipeline.unet).values()

    @torch.no_grad()
    def embedded(
        self,
        captions: Sequence[str],
        instructions: Sequence[str],
        combined: Sequence[str | None] | None = None,
    ) -> TextEmbedding:
        """The texts that the editor is given, as :class:`PreparedEdits` has them."""
        texts = self.editor.texts_of(captions, instructions, combined)
        if self._trains_text:
            return self.editor.tokens_of(self.pipeline, texts, captions)
        return self.editor.encode_texts(self.pipeline, texts, captions)

    @property
    def _trains_text(self) -> bool:
        return self.editor.trainable == "lora" and "text_encoder" in self.editor.lora_targets()

    def draw(self, keys: Sequence[SampleKey], prepared: PreparedEdits) -> EditDraws:
        """All randomness of a step; each sample's depends on its own key only."""
        shape, device = prepared.source.shape[1:], prepared.source.device
        scheduler = self.pipeline.scheduler
        return EditDraws(
            posterior_noise=draw_normal(self.seed, keys, "posterior", shape).to(device),
            diffusion=draw_diffusion(self.seed, keys, shape, self.objective, scheduler, device),
        )

    def loss(self, prepared: PreparedEdits, draws: EditDraws) -> Tensor:
        """(B,) losses (Brooks et al. 2023, eq. 2)."""
        scheduler, drawn = self.pipeline.scheduler, draws.diffusion
        scaling = self.pipeline.vae.config.scaling_factor
        sampled = prepared.target_mean + prepared.target_deviation * draws.posterior_noise
        latents = sampled * scaling
        noisy, timesteps = self.objective.model_input(
            latents, drawn.noise, drawn.timesteps, scheduler
        )
        no_image = drawn.dropped.image[:, None, None, None]
        source = torch.where(no_image, torch.zeros_like(prepared.source), prepared.source)
        if self.editor.source_scaled:
            source = source * scaling
        text = prepared.text.replaced(drawn.dropped.text, self._no_text)
        if self._trains_text:
            text = TextEmbedding(embed_tokens(self.pipeline, text.tokens))
        prediction = self.pipeline.unet(
            torch.cat([noisy, source], dim=1).to(self._base_dtype),
            timesteps,
            encoder_hidden_states=text.tokens.to(self._base_dtype),
            added_cond_kwargs=self.editor.added_conditions(text),
        ).sample
        return self.objective.loss(
            prediction, latents, drawn.noise, drawn.timesteps, scheduler, prepared.weight
        )


# What batches of pairs are prepared from.
PAIR_PARTS: tuple[Part, ...] = ("target", "source", "text", "mask")


class InstructPix2PixTask(EditorTask[PairBatch]):
    """Fine-tuning on pairs of pictures."""

    def prepare(self, batch: PairBatch) -> PreparedEdits:
        """Encode target, source and texts.

        Raises:
            UsageError: the editor must not see all of the source, and the batch has no mask.
        """
        return PreparedEdits(**self.prepare_parts(batch, PAIR_PARTS))

    @frozen
    def prepare_parts(self, batch: PairBatch, parts: Collection[Part]) -> dict[str, Any]:
        vae, mask_weight = self.pipeline.vae, self.options.mask_weight
        made: dict[str, Any] = {"weight": None}
        if "target" in parts or ("mask" in parts and mask_weight):
            mean, deviation = encode_moments(vae, batch.target.to(vae.device, vae.dtype))
            made |= {"target_mean": mean.float(), "target_deviation": deviation.float()}
            made["weight"] = mask_weights(batch.mask, mean, mask_weight)
        if "source" in parts:
            seen = self.editor.seen_source(batch.source, batch.mask)
            source, _ = encode_moments(vae, seen.to(vae.device, vae.dtype))
            made["source"] = source.float()
        if "text" in parts:
            made["text"] = self.embedded(
                batch.public_captions, batch.edit_instructions, batch.combined_captions
            )
        return made

"""What every editor that train.py can fine-tune adds to one: LoRA settings, texts, adapters."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import ItemError, UsageError
from unsafe2safe.editors.base import Canvas, Editor, EditRequest, Pixels
from unsafe2safe.editors.lora_targets import PATTERN, names_for_peft, targets_key
from unsafe2safe.editors.quantization import Quantize, check_quantize, unpacked

if TYPE_CHECKING:
    from torch import nn

_SAMPLED_PER_TENSOR = 4096
# Settings that have no part in what the encoders give, or that are part of the text, of the pixels
# or of the weights, whose content counts.
_NOT_OF_ENCODERS = frozenset(
    (
        *("name", "licence", "commercial", "adapter", "weights", "revision"),
        *("trainable", "rank", "alpha", "use_rslora", "use_dora", "lora_init", "dropout"),
        *("targets", "captions", "resolution", "batch_size", "steps", "text_guidance_scale"),
        *("image_guidance_scale", "guidance_scale", "device", "precision", "attention"),
    )
)


@component
class TrainableEditor(Editor):
    """An editor with weights that train.py can move, by LoRA or as a whole."""

    trainable: Literal["lora", "full", "branch"] = Field(
        default="lora",
        description="What is trained: low-rank updates, or all weights, and the caption branch "
        "with them where there is one; or `branch` alone.",
    )
    rank: int = Field(default=8, ge=1, description="Rank of the LoRA updates.")
    alpha: float = Field(
        default=8.0, gt=0, description="LoRA scale; the update is multiplied by alpha / rank."
    )
    use_rslora: bool = Field(
        default=False,
        description="Multiply the update by alpha / sqrt(rank) instead (Kalajdzievski 2023), which "
        "keeps high ranks learning.",
    )
    use_dora: bool = Field(
        default=False,
        description="Train each weight's magnitude apart from its direction, which the update "
        "turns (DoRA, Liu et al. 2024). Slower.",
    )
    lora_init: Literal["kaiming", "gaussian"] = Field(
        default="kaiming",
        description="What the first LoRA factor is drawn from; the second begins at zero. "
        "`gaussian`: with deviation 1 / rank.",
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout on the input of the LoRA updates."
    )
    targets: tuple[str, ...] = Field(
        default=("to_q", "to_k", "to_v", "to_out.0"),
        min_length=1,
        description="Modules that get a LoRA update, by the end of their name, or by a regular "
        "expression for all of it: `re:down_blocks.*to_[qkv]`.",
    )
    captions: Literal["instruction", "public+instruction", "combined"] = Field(
        default="instruction",
        description="The text the editor is given; `combined`: the caption of that name, where "
        "triplets and pairs have one.",
    )

    resolution: int = Field(
        default=512, ge=8, multiple_of=8, description="Side of the edited square, pixels."
    )

    batch_size: int = Field(default=1, ge=1, description="Images edited at once.")
    quantize: Quantize = Field(
        default="none",
        description="Hold the linear layers of the frozen denoiser and of text encoders other than "
        "CLIP in 4 bits (`nf4`) or 8 (`int8`), both by bitsandbytes, or in 8 by torchao.",
    )
    attention: str | None = Field(
        default=None,
        description="Attention backend of diffusers, of edits and, where trainer.attention is "
        "null, of training; null: torch's own.",
    )

    trainable_by_us: ClassVar[bool] = True
    # The file in configs/true_size that mode=plan reads; None: the one of the editor's name.
    true_size: ClassVar[str | None] = None
    # The parts of the pipeline that hold weights, by diffusers' name; the denoiser is the first.
    parts: ClassVar[tuple[str, ...]]
    # What weights are rounded to before they are hashed; None: to nothing.
    fingerprint_dtype: ClassVar[str | None] = None
    # Tag of model cards.
    family: ClassVar[str]
    # Whether its base can be loaded with `quantize`.
    quantizable: ClassVar[bool] = False
    # Whether the denoiser computes attention through diffusers' backends.
    dispatched_attention: ClassVar[bool] = True
    # Sides of pictures that are trained on are multiples of it, pixels.
    side_step: ClassVar[int] = 8
    # Whether encoding takes long enough for a cache of it to pay.
    slow_encoders: ClassVar[bool] = True
    # What the base's scheduler expects of its model where that is known before it is loaded.
    predicts: ClassVar[str | None] = None
    # The file of its LoRA where plain diffusers cannot honour it; None: diffusers' own file.
    lora_file: ClassVar[str | None] = None

    @field_validator("targets")
    @classmethod
    def _patterns_compile(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        for target in targets:
            try:
                re.compile(target.removeprefix(PATTERN) if target.startswith(PATTERN) else "")
            except re.error as error:
                raise ValueError(f"{target!r} is no regular expression ({error})") from None
        return targets

    @property
    def canvas(self) -> Canvas:
        return Canvas(self.resolution, self.side_step, square=True)

    def check_loadable(self) -> None:
        """Whether the base can be loaded as these settings ask; told before any weight is.

        Raises:
            UsageError: it cannot be quantized so.
        """
        if self.quantize != "none" and not self.quantizable:
            raise UsageError(
                f"editor.quantize={self.quantize}: the base of editor={self.name} cannot be "
                "quantized"
            )
        check_quantize(self.quantize, self.trainable, self.use_dora)

    def check_targets(self) -> None:
        """Whether the base has what the LoRA shall be on, by its configurations alone.

        Raises:
            UsageError: a target matches no layer, or there is no such base.
        """
        if self.trainable == "lora":
            for part, targets in self.lora_targets().items():
                model = self.empty_part(part)
                names_for_peft(model, targets, targets_key(part), self.never_learning(model))

    @abstractmethod
    def empty_part(self, part: str) -> nn.Module:
        """The model of one of ``parts`` on the meta device: its layers without weights.

        Raises:
            UsageError: there is no such base.
        """

    @abstractmethod
    def load_base(self, without: Collection[str] = ()) -> Any:
        """A new diffusers pipeline with the base's weights, without adapter, in eval mode.

        ``without``: of ``parts``, those that are not loaded. Of an autoencoder its config is there
        all the same."""

    def part_fingerprints(self, pipeline: Any, parts: Iterable[str]) -> dict[str, str]:
        """Hash of the weights of each of ``parts`` of ``pipeline``, which must not carry an adapter
        yet."""
        rounded_to = self.fingerprint_dtype
        return {
            part: weights_fingerprint(getattr(pipeline, part), rounded_to=rounded_to)
            for part in parts
        }

    def base_fingerprint(self, pipeline: Any) -> str:
        """Hash of all weights of ``pipeline``, which must not carry an adapter yet."""
        return joined_fingerprint(self.part_fingerprints(pipeline, self.parts))

    @abstractmethod
    def load_pipeline(self) -> Any:
        """A new pipeline with ``adapter``, if there is one.

        Raises:
            UsageError: the adapter is damaged or belongs to another editor or base.
        """

    @abstractmethod
    def run(
        self,
        pipeline: Any,
        images: Sequence[Pixels],
        texts: Sequence[str],
        seeds: Sequence[int],
        text_guidance: float = 1.0,
        public_captions: Sequence[str] | None = None,
    ) -> NDArray[np.float32]:
        """Edit squares (R, R, 3) uint8 with ``pipeline``; gives (B, R, R, 3) in [0, 1]."""

    def edit(self, requests: Sequence[EditRequest]) -> list[Pixels]:
        """Edit each request, its text followed ``text_guidance`` times as strongly as set."""
        edited: dict[int, Pixels] = {}
        # A batch shares its guidance, so requests of unequal guidance go separately.
        for guidance in sorted({request.text_guidance for request in requests}):
            chosen = [i for i, r in enumerate(requests) if r.text_guidance == guidance]
            for start in range(0, len(chosen), self.batch_size):
                batch = chosen[start : start + self.batch_size]
                edited.update(zip(batch, self._edit(requests, batch), strict=True))
        return [edited[index] for index in range(len(requests))]

    @abstractmethod
    def _edit(self, requests: Sequence[EditRequest], batch: Sequence[int]) -> list[Pixels]:
        """Edit those of ``requests``, all of one guidance, whose places are in ``batch``."""

    def on(self, pipeline: Any) -> Self:
        """The same editor on ``pipeline``, which is loaded already and taken as it is."""
        editor = replace(self)
        vars(editor)["pipeline"] = pipeline  # where the editor keeps what it has loaded
        return editor

    def with_settings(self, **settings: Any) -> Self:
        """The same editor with other settings, on the same pipeline where one is loaded."""
        editor = replace(self, **settings)
        if "pipeline" in vars(self):
            vars(editor)["pipeline"] = vars(self)["pipeline"]
        return editor

    def denoiser(self, pipeline: Any) -> Any:
        """The network of ``pipeline`` that is trained."""
        return getattr(pipeline, self.parts[0])

    @property
    def base_dtype(self) -> str:
        """What :meth:`load_base` gives the denoiser's weights in."""
        return "float32"

    @property
    def widened(self) -> bool:
        """Whether :meth:`load_base` gave the base's ``conv_in`` the source's input channels."""
        return False

    def lora_targets(self) -> dict[str, tuple[str, ...]]:
        """Which layers get a LoRA update, by the part of the pipeline."""
        return {self.parts[0]: self.targets}

    def never_learning(self, denoiser: Any) -> tuple[str, ...]:  # noqa: ARG002
        """Names of modules of ``denoiser`` on whose output no loss depends: never trained."""
        return ()

    def add_lora(self, denoiser: Any, config: Any) -> None:
        """Give ``denoiser`` the new LoRA of peft's ``config``."""
        denoiser.add_adapter(config)

    def save_lora(self, denoiser: Any, folder: Path) -> None:  # noqa: ARG002
        """With a ``lora_file``: write the LoRA of ``denoiser`` to it in ``folder``."""
        raise TypeError(f"editor={self.name} has no file of its own")

    def edits_otherwise(self) -> str:
        """For the model card: why plain diffusers edits otherwise with the adapter; or nothing."""
        return ""

    def encoded_anew(self) -> str | None:
        """Why autoencoder or text encoder are needed at every step; None: a cache can replace
        them."""
        return None

    @property
    def hides_source(self) -> bool:
        """Whether the editor sees of a source what its mask leaves."""
        return False

    def embedded_texts(
        self, public_caption: str, edit_instruction: str, combined_caption: str | None = None
    ) -> tuple[str, ...]:
        """All texts that the embedded text is made of; errors as :meth:`text_of`."""
        return (self.text_of(public_caption, edit_instruction, combined_caption),)

    def encoding_settings(self) -> dict[str, str]:
        """What embedded texts and latents depend on beside the texts and pictures themselves.

        Whatever is not known to have no part in it counts.
        """
        settings = {
            f"editor.{f.name}": str(getattr(self, f.name))
            for f in fields(cast(Any, self))
            if f.name not in _NOT_OF_ENCODERS
        }
        return {"editor": self.family, **settings, **self.weights_content()}

    def lay_out(self, pipeline: Any) -> None:
        """Lay the weights of ``pipeline`` out as its family computes fastest."""

    def settings_on_card(self) -> dict[str, Any]:
        """Settings that an adapter is bound to, as its card calls them: with others it is of no
        use."""
        return {"captions": self.captions, "quantize": self.quantize}

    def text_of(
        self, public_caption: str, edit_instruction: str, combined_caption: str | None = None
    ) -> str:
        """The text input that ``captions`` asks for.

        Raises:
            ItemError: it is the combined caption, and there is none.
        """
        if self.captions == "instruction":
            return edit_instruction
        if self.captions == "public+instruction":
            return f"{public_caption.strip()} {edit_instruction.strip()}".strip()
        if not combined_caption:
            raise ItemError("an image", "editor.captions=combined, and it has no combined caption")
        return combined_caption

    def texts_of(
        self,
        public_captions: Sequence[str],
        edit_instructions: Sequence[str],
        combined_captions: Sequence[str | None] | None = None,
    ) -> list[str]:
        """As :meth:`text_of`, for a batch."""
        combined = combined_captions or [None] * len(public_captions)
        asked = zip(public_captions, edit_instructions, combined, strict=True)
        return [self.text_of(*texts) for texts in asked]


def weights_fingerprint(module: nn.Module, rounded_to: str | None = None) -> str:
    """A hash of the module's weights: names, shapes, and evenly spaced values of each tensor.

    Enough to tell one base from another without reading billions of values. Values are rounded to
    the dtype ``rounded_to`` first, so that the same base has one hash in this and in a finer one.
    """
    import torch

    digest = blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        flat = unpacked(value.detach()).flatten()
        sample = flat[:: max(1, flat.numel() // _SAMPLED_PER_TENSOR)]
        digest.update(f"{name}{tuple(value.shape)}".encode())
        if rounded_to is not None and sample.is_floating_point():
            sample = sample.to(getattr(torch, rounded_to))
        digest.update(sample.double().cpu().numpy().tobytes())
    return digest.hexdigest()


def joined_fingerprint(parts: Mapping[str, str]) -> str:
    """The fingerprint of a base, from those of its parts by name."""
    return blake2b(repr(sorted(parts.items())).encode(), digest_size=8).hexdigest()

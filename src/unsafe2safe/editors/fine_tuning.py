"""What every editor that train.py can fine-tune adds to an editor: LoRA settings, texts, adapters.

An adapter folder holds ``adapter.json`` (:class:`AdapterCard`) beside its weights. It is checked
against the editor before any weight is loaded.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base import Editor, Pixels
from unsafe2safe.editors.concealment import SourceView

if TYPE_CHECKING:
    import torch
    from torch import nn

CARD = "adapter.json"
# Where the other weights lie when a caption branch belongs to them. Diffusers would load them from
# the adapter folder without it and say nothing; from this folder's parent it loads nothing.
BESIDE_BRANCH_FOLDER = "beside_caption_branch"

_SAMPLED_PER_TENSOR = 4096


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter belongs to; lies as ``adapter.json`` beside the weights.

    ``base`` is :func:`weights_fingerprint` of the base it was trained on. Cards written before
    there were ``caption_branch`` and ``source`` have neither: their editors had no branch and saw
    the whole source.
    """

    editor: str
    base: str
    trainable: Literal["lora", "full", "branch"]
    rank: int | None
    alpha: float | None
    targets: tuple[str, ...]
    captions: str
    prediction_type: str
    resolution: int
    dtype: str
    licence: str
    caption_branch: Literal["none", "gated"] = "none"
    source: SourceView = "full"

    def weights_folder(self, folder: Path) -> Path:
        """Where in the adapter folder everything but a caption branch lies."""
        return folder if self.caption_branch == "none" else folder / BESIDE_BRANCH_FOLDER

    def write(self, folder: Path) -> None:
        """Write ``folder/adapter.json``."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        (folder / CARD).write_text(text, "utf-8")


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
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout on the input of the LoRA updates."
    )
    targets: tuple[str, ...] = Field(
        default=("to_q", "to_k", "to_v", "to_out.0"),
        min_length=1,
        description="Modules that get a LoRA update, by the end of their name.",
    )
    captions: Literal["instruction", "public+instruction"] = Field(
        default="instruction", description="The text the editor is given."
    )

    resolution: int = Field(
        default=512, ge=8, multiple_of=8, description="Side of the edited square, pixels."
    )

    trainable_by_us: ClassVar[bool] = True
    # The file in configs/true_size that mode=plan reads; None: the one of the editor's name.
    true_size: ClassVar[str | None] = None
    # The parts of the pipeline that hold weights, by diffusers' name; the denoiser is the first.
    parts: ClassVar[tuple[str, ...]]
    # Tag of model cards.
    family: ClassVar[str]
    # What the base's scheduler expects of its model where that is known before it is loaded.
    predicts: ClassVar[str | None] = None

    @abstractmethod
    def load_base(self) -> Any:
        """A new diffusers pipeline with the base's weights, without adapter, in eval mode."""

    @abstractmethod
    def base_fingerprint(self, pipeline: Any) -> str:
        """Hash of the weights of ``pipeline``, which must not carry an adapter yet."""

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
        strength: int = 0,
        public_captions: Sequence[str] | None = None,
    ) -> NDArray[np.float32]:
        """Edit squares (R, R, 3) uint8 with ``pipeline``; gives (B, R, R, 3) in [0, 1]."""

    def denoiser(self, pipeline: Any) -> Any:
        """The network of ``pipeline`` that is trained."""
        return getattr(pipeline, self.parts[0])

    def settings_on_card(self) -> dict[str, str]:
        """Settings that an adapter is bound to: it is of no use with others."""
        return {"captions": self.captions}

    def text_of(self, public_caption: str, edit_instruction: str) -> str:
        """The text input that ``captions`` asks for."""
        if self.captions == "instruction":
            return edit_instruction
        return f"{public_caption.strip()} {edit_instruction.strip()}".strip()


def target_modules(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Full names of the modules of ``model`` whose name is or ends with one of ``targets``.

    Raises:
        UsageError: a target matches no linear or convolutional layer.
    """
    from torch import nn

    kinds = (nn.Linear, nn.Conv2d)
    layers = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    found: set[str] = set()
    for target in targets:
        matching = [name for name in layers if name == target or name.endswith(f".{target}")]
        if not matching:
            raise UsageError(f"editor.targets: {target!r} matches no layer of the model")
        found.update(matching)
    return sorted(found)


def names_for_peft(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """``targets``, or the full names of their layers where a target names other modules as well:
    peft then refuses it (``attn.to_out`` of FLUX.2 is a layer in some blocks, a list in others).

    Raises:
        UsageError: a target matches no linear or convolutional layer.
    """
    layers = target_modules(model, targets)
    ends = tuple(f".{target}" for target in targets)
    named = {name for name, _ in model.named_modules() if name in targets or name.endswith(ends)}
    return sorted(targets) if named == set(layers) else layers


def weights_fingerprint(
    modules: dict[str, nn.Module], rounded_to: torch.dtype | None = None
) -> str:
    """A hash of the modules' weights: names, shapes, and evenly spaced values of each tensor.

    Enough to tell one base from another without reading billions of values. Values are rounded to
    ``rounded_to`` first, so that the same base has one hash in this and in a finer dtype.
    """
    digest = blake2b(digest_size=8)
    for part, module in sorted(modules.items()):
        for name, value in sorted(module.state_dict().items()):
            flat = value.detach().flatten()
            sample = flat[:: max(1, flat.numel() // _SAMPLED_PER_TENSOR)]
            digest.update(f"{part}.{name}{tuple(value.shape)}".encode())
            if rounded_to is not None and sample.is_floating_point():
                sample = sample.to(rounded_to)
            digest.update(sample.double().cpu().numpy().tobytes())
    return digest.hexdigest()


def adapter_folder(path: Path) -> Path:
    """The folder with ``adapter.json``: ``path`` itself, or ``path/adapter`` of a run folder.

    Raises:
        UsageError: neither holds one.
    """
    for candidate in (path, path / "adapter"):
        if (candidate / CARD).is_file():
            return candidate
    raise UsageError(f"adapter={path} holds no {CARD}; give a run folder of train.py")


def read_card(folder: Path) -> AdapterCard:
    """The card of an adapter folder.

    Raises:
        UsageError: it is damaged.
    """
    try:
        content = json.loads((folder / CARD).read_text("utf-8"))
        return TypeAdapter(AdapterCard).validate_python(content)
    except (OSError, json.JSONDecodeError, ValidationError) as error:
        raise UsageError(f"{folder / CARD}: {str(error).splitlines()[0]}") from None


def check_card(card: AdapterCard, folder: Path, editor: TrainableEditor, base: str) -> None:
    """Refuse an adapter of another editor or base, or trained with other settings.

    Raises:
        UsageError: says what differs.
    """
    wanted = {
        "editor": (card.editor, editor.name),
        **{
            f"editor.{setting}": (getattr(card, setting), now)
            for setting, now in editor.settings_on_card().items()
        },
        "base weights": (card.base, base),
    }
    for what, (trained, now) in wanted.items():
        if trained != now:
            raise UsageError(f"{folder} was trained with {what} {trained!r}, this is {now!r}")

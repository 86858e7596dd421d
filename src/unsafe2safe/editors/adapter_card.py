"""What an adapter belongs to.

An adapter folder holds ``adapter.json`` (:class:`AdapterCard`) beside its weights. It is checked
against the editor before any weight is loaded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter, ValidationError

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.concealment import SourceView
from unsafe2safe.editors.quantization import Quantize

if TYPE_CHECKING:
    from unsafe2safe.editors.fine_tuning import TrainableEditor

CARD = "adapter.json"
# Where the other weights lie when a caption branch belongs to them. Diffusers would load them from
# the adapter folder without it and say nothing; from this folder's parent it loads nothing.
BESIDE_BRANCH_FOLDER = "beside_caption_branch"

# The editor's key of a setting that the card calls something else.
_KEY_OF = {"base_dtype": "dtype"}


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter belongs to; lies as ``adapter.json`` beside the weights.

    ``base`` is :func:`weights_fingerprint` of the base it was trained on, ``base_dtype`` what its
    weights were in, ``dtype`` what the trained ones are in. ``widened``: its ``conv_in`` got as
    many input channels again, of zeros. Fields with a default are later than the first cards:
    editors then were what the defaults say.
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
    caption_branch: Literal["none", "gated", "safe"] = "none"
    source: SourceView = "full"
    use_rslora: bool = False
    use_dora: bool = False
    lora_init: Literal["kaiming", "gaussian"] = "kaiming"
    base_dtype: str = "float32"
    widened: bool = False
    text_encoder_targets: tuple[str, ...] = ()
    condition_offset: tuple[int, int] = (0, 0)
    independent_condition: bool = False
    quantize: Quantize = "none"

    def weights_folder(self, folder: Path) -> Path:
        """Where in the adapter folder everything but a caption branch lies."""
        return folder if self.caption_branch == "none" else folder / BESIDE_BRANCH_FOLDER

    def write(self, folder: Path) -> None:
        """Write ``folder/adapter.json``."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        (folder / CARD).write_text(text, "utf-8")


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


def check_card(
    card: AdapterCard, folder: Path, editor: TrainableEditor, base: str | None = None
) -> None:
    """Refuse an adapter of another editor or base, or trained with other settings.

    ``base`` is None before the base is loaded: it is not looked at then.

    Raises:
        UsageError: says what differs.
    """
    wanted = {
        "editor": (card.editor, editor.name),
        **{
            f"editor.{_KEY_OF.get(setting, setting)}": (getattr(card, setting), now)
            for setting, now in editor.settings_on_card().items()
        },
        "base weights": (card.base, card.base if base is None else base),
    }
    for what, (trained, now) in wanted.items():
        if trained != now:
            raise UsageError(f"{folder} was trained with {what} {trained!r}, this is {now!r}")

"""A trained editor without an adapter: its LoRA fused into the base, proven before it is kept."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.training.export import TOLERANCE, ExportError, fixed_picture, forget_origin
from unsafe2safe.training.export_pipeline import quiet_loading
from unsafe2safe.training.model_card import merged_card

NOTE = "merged.json"
# Rounded weights may move edits by so much of what the adapter moves them.
_ROUNDING = 0.5


@dataclass(frozen=True)
class Merged:
    """What was written: ``difference`` is the most that any value of an edit of the fixed picture,
    in [0, 1], differs from that with the adapter."""

    dtype: str
    size: int  # bytes on disk
    difference: float


def check_mergeable(editor: TrainableEditor, merge: bool | Literal["denoiser"] = True) -> None:
    """Refuse what plain diffusers cannot hold, or one part of a pipeline alone.

    Raises:
        UsageError: says what, before any weight is loaded.
    """
    branch = editor.settings_on_card().get("caption_branch", "none")
    if branch != "none":
        raise UsageError(
            f"export.merge: editor.caption_branch={branch} is an attention that plain diffusers "
            "does not know; its adapter cannot be merged"
        )
    if merge == "denoiser" and editor.trainable == "lora" and len(editor.lora_targets()) > 1:
        raise UsageError(
            "export.merge=denoiser leaves out what the text encoder has learnt "
            "(editor.text_encoder_targets); use export.merge=true"
        )


def export_merged(
    editor: TrainableEditor,
    folder: Path,
    merge: bool | Literal["denoiser"],
    dtype: str | None,
    device: str = "cpu",
) -> Merged:
    """Write ``editor``, which has an adapter, to ``folder`` without one; whole or not at all.

    With ``merge="denoiser"`` the folder is of that part's ``from_pretrained``, else of the
    pipeline's. ``dtype`` of the weights, None: the base's.

    Raises:
        ExportError: what was written does not load as it was, its edits are not those of the
            adapter, or not finite.
    """
    pipeline = editor.load_pipeline()
    denoiser = editor.denoiser(pipeline)
    if getattr(denoiser, "is_quantized", False):
        raise UsageError("export.merge: the base is quantized; merge into one that is not")
    if dtype is not None:
        _cast(pipeline, editor, getattr(torch, dtype))
    pipeline.to(device)
    trained = _edit(editor, pipeline)
    _fuse(editor, pipeline, trained)
    fused = _edit(editor, pipeline)
    if not np.isfinite(fused).all():
        raise ExportError("the merged editor gives values that are not finite; nothing is saved")
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    saved = pipeline if merge is True else denoiser
    with quiet_loading():
        saved.to("cpu")
        saved.save_pretrained(temporary, safe_serialization=True)
        _mend(temporary)
        fresh = _reloaded(editor, pipeline, temporary, whole=merge is True)
        kind = type(saved).__name__
        name = str(denoiser.dtype).removeprefix("torch.")
        del pipeline, denoiser, saved  # two of them may be too much
        gc.collect()
        difference = _most(_edit(editor, fresh.to(device)), fused)
    if not difference <= TOLERANCE:
        raise ExportError(
            f"the merged weights do not load as they were: edits differ by {difference:.2g}"
        )
    size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
    made = Merged(name, size, _most(fused, trained))
    (temporary / "README.md").write_text(merged_card(editor, kind, name, size), "utf-8")
    note = {"merge": merge, **asdict(made)}
    (temporary / NOTE).write_text(json.dumps(note, indent=2, sort_keys=True) + "\n", "utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    return made


def _cast(pipeline: Any, editor: TrainableEditor, dtype: torch.dtype) -> None:
    """All weights but those of the LoRA, which is rounded with the sum and not before."""
    for part in editor.parts:
        for name, value in (*_tensors(getattr(pipeline, part)),):
            if value.is_floating_point() and ".lora_" not in name:
                value.data = value.data.to(dtype)


def _tensors(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _fuse(editor: TrainableEditor, pipeline: Any, trained: NDArray[np.float32]) -> None:
    """Add the LoRA of ``pipeline``, if it has one, to the weights below.

    Raises:
        ExportError: rounding loses what was trained.
    """
    if editor.trainable != "lora":
        return
    dtype = editor.denoiser(pipeline).dtype
    pipeline.disable_lora()
    untrained = _edit(editor, pipeline)
    pipeline.enable_lora()
    pipeline.fuse_lora(components=list(editor.lora_targets()), safe_fusing=True)
    pipeline.unload_lora_weights()
    fused = _edit(editor, pipeline)
    effect, error = (float(np.abs(x - trained).mean()) for x in (untrained, fused))
    exact = dtype == torch.float32
    if not (_most(fused, trained) <= TOLERANCE if exact else error <= _ROUNDING * effect):
        raise ExportError(
            f"edits of the merged weights in {dtype} differ from the adapter's by {error:.2g} in "
            f"the mean, and the adapter itself moves them by {effect:.2g}; "
            "export.dtype=float32 rounds nothing"
        )


def _mend(folder: Path) -> None:
    """Drop where the base was loaded from; let text encoders load as all else does: transformers
    would load them in the dtype of their files, diffusers its models in fp32."""
    forget_origin(folder)
    for config in folder.glob("text_encoder*/config.json"):
        content = json.loads(config.read_text("utf-8")) | {"dtype": "float32"}
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def _reloaded(editor: TrainableEditor, pipeline: Any, folder: Path, *, whole: bool) -> Any:
    """A pipeline with what ``folder`` holds, loaded as plain diffusers does."""
    if whole:
        dtypes = {part: getattr(pipeline, part).dtype for part in editor.parts}
        fresh = type(pipeline).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtypes
        )
        fresh.set_progress_bar_config(disable=True)
        return fresh
    denoiser = editor.denoiser(pipeline)
    alone = type(denoiser).from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=denoiser.dtype
    )
    pipeline.register_modules(**{editor.parts[0]: alone})
    return pipeline


def _edit(editor: TrainableEditor, pipeline: Any) -> NDArray[np.float32]:
    picture = fixed_picture(editor.resolution)
    return editor.run(pipeline, [picture], ["give the person red hair"], [0], 0, ["a person"])


def _most(edited: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(edited - other).max())


def merged_already(folder: Path, merge: bool | Literal["denoiser"], dtype: str | None) -> bool:
    """Whether ``folder`` holds just that: a fused copy is written once."""
    try:
        note = json.loads((folder / NOTE).read_text("utf-8"))
    except FileNotFoundError:
        return False
    return bool(note["merge"] == merge and dtype in (None, note["dtype"]))

"""Writing a whole InstructPix2Pix pipeline in fp16, and proving that it loads before saying so."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.training.export import TOLERANCE, ExportError, fixed_picture, forget_origin

_PARTS = ("vae", "unet", "text_encoder")
_PROOF_STEPS = 4


def export_pipeline(pipeline: Any, folder: Path, *, prove: bool = True) -> None:
    """Write ``pipeline`` to ``folder``, whole or not at all; without ``prove`` not loaded back.

    Weights are fp16 safetensors. ``StableDiffusionInstructPix2PixPipeline.from_pretrained`` loads
    the folder as it stands, in fp32.

    Raises:
        ExportError: a plainly loaded pipeline edits a fixed picture otherwise than ``pipeline``
            with weights rounded to fp16, or not to finite values.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    rounded = _with_parts(pipeline, torch.float16)
    with quiet_loading():
        rounded.save_pretrained(temporary, safe_serialization=True)
        _say_fp32(temporary / "text_encoder" / "config.json")
        forget_origin(temporary)
        if prove:
            _prove(_with_parts(rounded, torch.float32), temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def _with_parts(pipeline: Any, dtype: torch.dtype) -> Any:
    """A copy on the CPU with all weights in ``dtype``, in torch's usual memory order."""
    copies = {name: copy.deepcopy(getattr(pipeline, name)).cpu().eval() for name in _PARTS}
    for part in copies.values():
        # By hand: diffusers' ``to`` warns of every cast.
        for value in (*part.parameters(), *part.buffers()):
            if value.is_floating_point():
                value.data = value.data.to(dtype).contiguous()
    return type(pipeline)(
        **copies,
        tokenizer=pipeline.tokenizer,
        scheduler=pipeline.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the bars that diffusers and transformers draw for files of a few megabytes."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [
        module
        for module in (diffusers_logging, transformers_logging)
        if module.is_progress_bar_enabled()
    ]
    for module in shown:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in shown:
            module.enable_progress_bar()


def _say_fp32(config: Path) -> None:
    """Transformers would load the text encoder in the dtype of its file, diffusers all else in
    fp32, and the two would not fit together."""
    content = json.loads(config.read_text("utf-8")) | {"dtype": "float32"}
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def _prove(trained: Any, folder: Path) -> None:
    loaded = type(trained).from_pretrained(folder, local_files_only=True)
    before, after = _edit(trained), _edit(loaded)
    if not np.isfinite(before).all():
        raise ExportError("the trained pipeline gives values that are not finite; nothing is saved")
    difference = float(np.abs(before - after).max())
    if not difference <= TOLERANCE:
        raise ExportError(
            f"the saved pipeline does not load as trained: edits differ by {difference:.2g}"
        )


def _edit(pipeline: Any) -> NDArray[np.float32]:
    """(1, R, R, 3) in [0, 1]: one short edit of a fixed picture."""
    pipeline.set_progress_bar_config(disable=True)
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    image = to_model([fixed_picture(side)]) / 2 + 0.5
    with torch.inference_mode():
        edited: NDArray[np.float32] = pipeline(
            prompt=["give the person red hair"],
            image=image,
            num_inference_steps=_PROOF_STEPS,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images
    return edited

"""Checkpoint files: written whole, the last two kept, the newest that loads resumed from."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

log = logging.getLogger("unsafe2safe")

KEPT = 2
_NAME = re.compile(r"step-(\d{8})\.ckpt")


class StreamedCheckpoints(TorchCheckpointIO):
    """Writes to the file as it goes; Lightning's own builds the whole file in memory first, which
    for full training is three times the weights. That no half file stays is the caller's work."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: Any,
        storage_options: Any = None,  # noqa: ARG002 - the signature is Lightning's
    ) -> None:
        torch.save(checkpoint, path)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimizer steps lies."""
    return folder / f"step-{step:08d}.ckpt"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the checkpoints in ``folder``, oldest first."""
    found = []
    for path in folder.glob("step-*.ckpt"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), path))
    return sorted(found)


def newest_loadable(folder: Path) -> tuple[int, Path] | None:
    """The newest checkpoint that can be read; damaged ones are named, passed over and deleted."""
    for step, path in reversed(list_checkpoints(folder)):
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if int(content["global_step"]) == step:
                return step, path
            reason = f"it is of step {content['global_step']}"
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("checkpoint %s is passed over: %s", path.name, reason)
        path.unlink(missing_ok=True)
    return None


def drop_old(folder: Path) -> None:
    """Delete all checkpoints but the newest ``KEPT``."""
    for _, path in list_checkpoints(folder)[:-KEPT]:
        path.unlink(missing_ok=True)

"""An editor on the very weights that are trained, between two steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from unsafe2safe.editors.fine_tuning import TrainableEditor


@contextmanager
def editing(editor: TrainableEditor, pipeline: Any) -> Iterator[TrainableEditor]:
    """Inside the block ``editor`` edits with ``pipeline`` as it is; training finds all unchanged.

    The base is not loaded a second time. An edit sets its scheduler's steps, so that it gets one
    of its own, and everything is in eval mode.
    """
    modules = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    modes = [(module, module.training) for part in modules for module in part.modules()]
    scheduler = pipeline.scheduler
    pipeline.scheduler = copy.deepcopy(scheduler)
    for part in modules:
        part.eval()
    try:
        yield editor.on(pipeline)
    finally:
        pipeline.scheduler = scheduler
        for module, training in modes:
            module.training = training


class EditingTask(Protocol):
    """A task whose weights, while they are trained, edit pictures."""

    def editing(self) -> AbstractContextManager[TrainableEditor]:
        """Inside the block: the editor with the weights as they are now."""

    def export(self, folder: Path, *, prove: bool = True) -> None:
        """As :meth:`Task.export`; without ``prove`` the weights are only written, since a second
        base may not fit beside the one that is trained."""

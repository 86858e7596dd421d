"""A sheet of scenes with their edits and targets, to look at.

    python -m unsafe2safe.jobs.scene_sheet FILE.png [OVERRIDE of evaluate.py suite=truth ...]

Scenes are drawn, so nobody is shown on it; edits are shown as they are, unverified.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.files import atomic_path
from unsafe2safe.data.synthetic import render, slot_mask
from unsafe2safe.evaluation.editor_rows import EditorRow
from unsafe2safe.jobs import evaluate_truth

_ACROSS = 8
_GAP = 6


def sheet(overrides: Sequence[str]) -> Image.Image:
    """64 scenes, each as source, edit and target side by side, eight to a row.

    The editor is the last of ``runs``, or else ``editor`` as it is.
    """
    config = load("evaluate", ["suite=truth", "dataset.size=64", *overrides])
    assert isinstance(config, Evaluate)
    work = evaluate_truth.work(config)
    row = [row for row in work.rows if isinstance(row, EditorRow)][-1]
    image_ids = work.subjects.image_ids
    row.prepare(image_ids)
    strips = []
    for image_id in image_ids:
        edit = work.subjects.edit_of(image_id)
        assert edit is not None
        source = render(edit.redrawn.source)
        mask = slot_mask(edit.redrawn.source, source.shape[0])
        edited = row.edited(image_id, source, mask)
        strips.append(np.hstack([source, edited, render(edit.redrawn.scene)]))
    height, width = strips[0].shape[:2]
    down = -(-len(strips) // _ACROSS)
    size = (_ACROSS * (width + _GAP), down * (height + _GAP))
    whole = Image.new("RGB", size, "white")
    for number, strip in enumerate(strips):
        place = (number % _ACROSS * (width + _GAP), number // _ACROSS * (height + _GAP))
        whole.paste(Image.fromarray(strip), place)
    return whole


if __name__ == "__main__":
    with atomic_path(Path(sys.argv[1])) as temporary:
        sheet(sys.argv[2:]).save(temporary, "PNG", optimize=True)

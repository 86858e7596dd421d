"""Rows that edit scenes themselves, as they are asked for: an editor's base, and its adapters.

For data sets whose truth is known (``suite=truth``). What an editor gives is measured as it is:
nothing is pasted back, nothing is held back, and nothing of it is shown or written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from typing_extensions import override

from unsafe2safe.core.errors import UsageError, describe_fault
from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.data.synthetic import render, slot_mask
from unsafe2safe.data.synthetic.source import KnownEdit
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.instruct_pix2pix import InstructPix2PixEditor, restore, square, to_model
from unsafe2safe.evaluation.rows import Kind, MissingEditError, ReferenceRow, Row
from unsafe2safe.evaluation.subjects import BoolMask, Subjects
from unsafe2safe.vision.arrays import RgbImage


class EditorRow(Row):
    """The edits of one editor, a unit of scenes at a time."""

    kind: Kind = "editor"

    def __init__(
        self, name: str, title: str, editor: InstructPix2PixEditor, subjects: Subjects, seed: int
    ) -> None:
        super().__init__(name, title)
        self._editor, self._subjects, self._seed = editor, subjects, seed
        self._edits: Mapping[str, RgbImage] = {}
        self._failures: dict[str, str] = {}

    @override
    def prepare(self, image_ids: Sequence[str]) -> None:
        requests = {}
        for image_id in image_ids:
            pixels = self._subjects.source.decode(self._subjects.record(image_id)).pixels
            requests[image_id] = self._request(image_id, pixels)
        try:
            edits = self._editor.edit(list(requests.values()))
        except UsageError:
            raise
        except Exception as error:  # a unit that cannot be edited is missing, and says so
            self._edits = {}
            self._failures |= dict.fromkeys(image_ids, f"the editor raised {describe_fault(error)}")
            return
        self._edits = dict(zip(requests, edits, strict=True))

    def _request(self, image_id: str, pixels: RgbImage) -> EditRequest:
        edit = _known(self._subjects, image_id)
        return EditRequest(
            image=pixels,
            mask=slot_mask(edit.redrawn.source, pixels.shape[0]).astype(np.float32),
            regions=(),
            public_caption=edit.texts.public_caption,
            edit_instruction=edit.texts.edit_instruction,
            seed=torch_seed(self._seed, image_id, 0, "edit"),
            strength=0,
        )

    @override
    def edited(self, image_id: str, original: RgbImage, mask: BoolMask) -> RgbImage:
        if image_id not in self._edits:
            raise MissingEditError(image_id, self._failures.get(image_id, "never edited"))
        return self._edits[image_id]

    @override
    def held_back(self, image_ids: Sequence[str]) -> dict[str, int]:
        reasons: dict[str, int] = {}
        for image_id in image_ids:
            if reason := self._failures.get(image_id):
                reasons[reason] = reasons.get(reason, 0) + 1
        return reasons


class _TruthRow(ReferenceRow):
    """A reference computed from an image's scene and counterpart."""

    def __init__(
        self,
        name: str,
        title: str,
        subjects: Subjects,
        picture: Callable[[KnownEdit, RgbImage], RgbImage],
    ) -> None:
        super().__init__(name, title, lambda pixels, _: pixels)
        self._subjects, self._picture = subjects, picture

    @override
    def edited(self, image_id: str, original: RgbImage, mask: BoolMask) -> RgbImage:
        return self._picture(_known(self._subjects, image_id), original)


def target_row(subjects: Subjects) -> Row:
    """The perfect edit: what the counterpart's record draws."""
    return _TruthRow(
        "target",
        "target (the perfect edit)",
        subjects,
        lambda edit, original: render(edit.redrawn.scene, original.shape[0]),
    )


def reconstruction_row(editor: InstructPix2PixEditor, subjects: Subjects, of: str) -> Row:
    """The original (``of="identity"``) or the target, through the editor's autoencoder and back:
    no edit can be nearer to it."""

    def picture(edit: KnownEdit, original: RgbImage) -> RgbImage:
        if of == "target":
            return _through(editor, render(edit.redrawn.scene, original.shape[0]))
        return _through(editor, original)

    if of == "target":
        name, title = "target_reconstruction", "target through the autoencoder"
    else:
        name, title = "reconstruction", "identity through the autoencoder"
    return _TruthRow(name, title, subjects, picture)


@torch.inference_mode()
def _through(editor: InstructPix2PixEditor, pixels: RgbImage) -> RgbImage:
    vae = editor.pipeline.vae
    images = to_model([square(pixels, editor.resolution)]).to(vae.device, vae.dtype)
    decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample
    image = (decoded / 2 + 0.5)[0].permute(1, 2, 0).float().cpu().numpy()
    return restore(image, *pixels.shape[:2])


def _known(subjects: Subjects, image_id: str) -> KnownEdit:
    edit = subjects.edit_of(image_id)
    if edit is None:
        raise UsageError("suite=truth needs a data set whose truth is known: dataset=synthetic")
    return edit

"""Editing whole frames, or frames pasted back through their masks, or region by region.

Outside the masks ``composite`` and ``crops`` leave the source bit for bit; where the mask is 1 all
is the editor's, and in the feathered rim between the two are mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from unsafe2safe.anonymize.fitting import Fit
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.core.records import Region
from unsafe2safe.editors.base import Canvas, Editor, EditRequest, Mask, Pixels
from unsafe2safe.vision.arrays import blended
from unsafe2safe.vision.masks import Shape, Window, connected_shapes
from unsafe2safe.vision.regions import overlap

_LEAST_CROP = 64  # pixels: less than that around a region tells an editor nothing
_AROUND_EDIT = 0.1  # of its size on each side, beside the margin that a mask has already
_STRIP = 64  # rows that are pasted at once


def edit_regions(
    editor: Editor, requests: Sequence[EditRequest], config: Anonymize
) -> list[Pixels | str]:
    """The final frame of each request, of its size, or the reason why there is none.

    A request's mask is 1 where everything is to be replaced and falls to 0 over a feathered rim;
    editors are given the first part of it only. What has no mask at all is not edited, unless
    whole frames are.

    Whatever the editor raises is raised.
    """
    if config.region == "full":
        return _edit_fitted(editor, requests)
    masked = [index for index, request in enumerate(requests) if request.mask.any()]
    chosen = [requests[index] for index in masked]
    if config.region == "composite":
        hardened = [replace(request, mask=_hard(request.mask)) for request in chosen]
        frames: list[Pixels | str] = [
            edited if isinstance(edited, str) else composite(r.image, edited, r.mask)
            for r, edited in zip(chosen, _edit_fitted(editor, hardened), strict=True)
        ]
    else:
        frames = _edit_crops(editor, chosen, config)
    edited_frames = dict(zip(masked, frames, strict=True))
    return [
        edited_frames[index] if index in edited_frames else request.image.copy()
        for index, request in enumerate(requests)
    ]


def composite(source: Pixels, edited: Pixels, mask: Mask) -> Pixels:
    """``edited`` inside the mask, the source bit for bit where the mask is 0.

    ``source`` and ``edited`` are (H, W, 3) uint8, ``mask`` (H, W) float32 in [0, 1].
    """
    result = source.copy()
    _paste(result, edited, mask)
    return result


def _paste(target: Pixels, edited: Pixels, mask: Mask) -> None:
    """Mix ``edited`` into ``target`` in place; by strips, where there is something to mix."""
    for top in range(0, len(target), _STRIP):
        rows = slice(top, top + _STRIP)
        if mask[rows].any():
            target[rows] = blended(target[rows], edited[rows], mask[rows])


def _hard(mask: Mask) -> Mask:
    """``mask`` without its rim."""
    return (mask >= 1).astype(np.float32)


def _edit_fitted(editor: Editor, requests: Sequence[EditRequest]) -> list[Pixels | str]:
    """Edit whole frames, those of an editor with a square canvas as they are: it stretches them,
    as it did in its training."""
    if not requests:
        return []
    canvas = editor.canvas
    if canvas == Canvas() or canvas.square:
        return _checked(editor.edit(requests), requests)
    fits = [Fit.to(canvas, *request.image.shape[:2]) for request in requests]
    fitted = [
        replace(
            request,
            image=fit.image(request.image),
            mask=fit.mask(request.mask),
            regions=tuple(map(fit.region, request.regions)),
        )
        for request, fit in zip(requests, fits, strict=True)
    ]
    answers = _checked(editor.edit(fitted), fitted)
    return [
        answer if isinstance(answer, str) else fit.restored(answer)
        for answer, fit in zip(answers, fits, strict=True)
    ]


def _edit_crops(
    editor: Editor, requests: Sequence[EditRequest], config: Anonymize
) -> list[Pixels | str]:
    """Edit each region by itself, so many at a time as images are, and paste it back."""
    results: list[Pixels | str] = [request.image.copy() for request in requests]
    canvas = editor.canvas
    crops = [
        crop
        for index, request in enumerate(requests)
        for crop in plan_crops(request.mask, canvas, config.crops.context, index)
    ]
    for start in range(0, len(crops), config.batch_size):
        batch = crops[start : start + config.batch_size]
        fitted = [crop.request(requests[crop.index], canvas) for crop in batch]
        answers = _checked(editor.edit(fitted), fitted)
        for crop, answer in zip(batch, answers, strict=True):
            frame = results[crop.index]
            if isinstance(frame, str):
                continue
            if isinstance(answer, str):
                results[crop.index] = answer
                continue
            window = crop.window
            edited = crop.fit(canvas).restored(answer)
            _paste(
                frame[window.rows, window.columns], edited, crop.weight(requests[crop.index].mask)
            )
    return results


@dataclass(frozen=True, eq=False)
class Crop:
    """A window of a frame that is edited by itself, for the sake of the ``shapes`` in it.

    ``index`` is its frame's place among the requests, ``number`` its own among the frame's crops.
    """

    index: int
    number: int
    window: Window
    shapes: tuple[Shape, ...]

    def fit(self, canvas: Canvas) -> Fit:
        return Fit.to(canvas, self.window.height, self.window.width)

    def request(self, request: EditRequest, canvas: Canvas) -> EditRequest:
        """What the editor is asked for; all that is masked in the window counts as sensitive."""
        fit, window = self.fit(canvas), self.window
        return replace(
            request,
            image=fit.image(request.image[window.rows, window.columns]),
            mask=fit.mask(_hard(request.mask[window.rows, window.columns])),
            regions=tuple(fit.region(moved) for moved in _inside(request.regions, window)),
            # Else all faces of a picture would be drawn from the same noise, and look alike.
            seed=torch_seed(request.seed, "", self.number, "crop"),
        )

    def weight(self, mask: Mask) -> Mask:
        """(h, w) of the window: ``mask`` (H, W) where it belongs to ``shapes``, else 0."""
        weight: Mask = np.zeros((self.window.height, self.window.width), np.float32)
        for shape in self.shapes:
            place = shape.window.within(self.window)
            weight[place] = np.where(
                shape.own, mask[shape.window.rows, shape.window.columns], weight[place]
            )
        return weight


def plan_crops(mask: Mask, canvas: Canvas, context: float, index: int = 0) -> list[Crop]:
    """Windows around all that is masked in ``mask`` (H, W), each with ``context`` x its size more
    on every side.

    Windows that meet become one, unless that would cost resolution: not beyond the editor's own
    side and not beyond what the larger of them has already. Each part of the mask is in one crop.
    """
    height, width = mask.shape

    def group(core: Window, shapes: tuple[Shape, ...]) -> _Group:
        return _Group(core, _with_context(core, context, height, width, canvas), shapes)

    groups = [group(shape.window, (shape,)) for shape in connected_shapes(mask)]
    while (merged := _first_merger(groups, group, canvas.side or 0)) is not None:
        groups = merged
    ordered = sorted(groups, key=lambda one: (one.core.top, one.core.left))
    return [Crop(index, number, one.window, one.shapes) for number, one in enumerate(ordered)]


@dataclass(frozen=True, eq=False)
class _Group:
    """Shapes that are cropped together: what holds them, and that with its context."""

    core: Window
    window: Window
    shapes: tuple[Shape, ...]

    @property
    def side(self) -> int:
        return max(self.window.height, self.window.width)


def _first_merger(
    groups: Sequence[_Group],
    group: Callable[[Window, tuple[Shape, ...]], _Group],
    editor_side: int,
) -> list[_Group] | None:
    """``groups`` with the first two that can become one; None: there are no such two."""
    for first, second in combinations(groups, 2):
        if first.window.meets(second.window):
            joined = group(first.core.joined(second.core), (*first.shapes, *second.shapes))
            if joined.side <= max(editor_side, first.side, second.side):
                return [one for one in groups if one not in (first, second)] + [joined]
    return None


def edited_windows(mask: Mask) -> list[Window]:
    """Windows around all that is masked in ``mask`` (H, W), with a little of what surrounds it."""
    return [crop.window for crop in plan_crops(mask, Canvas(), _AROUND_EDIT)]


def _with_context(core: Window, context: float, height: int, width: int, canvas: Canvas) -> Window:
    """The window to crop: square for editors that edit squares, as far as the frame reaches."""
    down, across = (
        max(round(side * (1 + 2 * context)), _LEAST_CROP, side)
        for side in (core.height, core.width)
    )
    if canvas.square:
        down = across = max(down, across)
    top, bottom = _placed(core.top, core.bottom, down, height)
    left, right = _placed(core.left, core.right, across, width)
    return Window(top, left, bottom, right)


def _placed(start: int, end: int, length: int, frame: int) -> tuple[int, int]:
    """``length`` pixels around ``start`` to ``end``, moved into a frame of so many pixels."""
    length = min(length, frame)
    first = min(max((start + end - length) // 2, 0), frame - length)
    return first, first + length


def _inside(regions: Sequence[Region], window: Window) -> Iterator[Region]:
    """The regions that reach into a window, as it counts pixels."""
    for region in regions:
        if overlap(region.box, window.box) > 0:
            yield replace(region, box=region.box.moved(-window.left, -window.top))


def _checked(answers: Sequence[Pixels], requests: Sequence[EditRequest]) -> list[Pixels | str]:
    """The answers, those that are no image of the asked size replaced by a reason."""
    return [
        unusable(answer, request) or answer
        for answer, request in zip(answers, requests, strict=True)
    ]


def unusable(answer: Pixels, request: EditRequest) -> str:
    """Why an editor's answer is no image of the asked size, or an empty string."""
    if not isinstance(answer, np.ndarray) or answer.dtype != np.uint8:
        return "editor returned no uint8 image"
    if answer.size == 0:
        return "editor returned no image"
    if answer.shape != request.image.shape:
        return "editor returned another size"
    return ""

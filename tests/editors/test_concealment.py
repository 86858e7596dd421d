"""What a hidden region may still tell: nothing when blank, colours when blurred."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.concealment import SourceView, concealed, hidden_in_square
from unsafe2safe.editors.instruct_pix2pix import square, to_model
from unsafe2safe.editors.tiny import TinyEditor


def tiny(**values: Any) -> TinyEditor:
    config = dict(load("train").editor)  # type: ignore[attr-defined]
    return build(config | {"steps": 2, "init_seed": 0} | values, "editor", TinyEditor)


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box_mask(height: int, width: int, top: int, left: int, tall: int, wide: int) -> np.ndarray:
    mask = np.zeros((height, width), np.float32)
    mask[top : top + tall, left : left + wide] = 0.3  # a feathered rim counts as well
    return mask


def twins(height: int, width: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two images that differ under the mask only, and there as much as two can."""
    first = noise(1, height, width)
    second = np.where(mask[..., None] > 0, 255 - first, first).astype(np.uint8)
    return first, second


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(5, 150), st.integers(5, 150)),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    share=st.tuples(st.floats(0, 0.7), st.floats(0, 0.7)),
    resolution=st.sampled_from([16, 64]),
)
def test_no_pixel_of_the_square_outside_what_is_hidden_depends_on_the_mask(
    size: tuple[int, int],
    corner: tuple[float, float],
    share: tuple[float, float],
    resolution: int,
) -> None:
    (height, width), (tall, wide) = (
        size,
        (max(1, int(s * n)) for s, n in zip(share, size, strict=True)),
    )
    mask = box_mask(height, width, int(corner[0] * height), int(corner[1] * width), tall, wide)
    first, second = twins(height, width, mask)
    hidden = hidden_in_square(mask, resolution)
    seen = [concealed(square(image, resolution), hidden, "blank") for image in (first, second)]
    assert np.array_equal(*seen)
    assert np.array_equal(seen[0][~hidden], square(first, resolution)[~hidden])


def test_nothing_masked_hides_nothing_and_a_pixel_hides_no_more_than_its_filter_reaches() -> None:
    assert not hidden_in_square(np.zeros((90, 120), np.float32), 64).any()
    one = box_mask(640, 640, 320, 320, 1, 1)
    assert 36 <= hidden_in_square(one, 64).sum() <= 49
    same_size = box_mask(64, 64, 10, 20, 5, 7)
    assert np.array_equal(hidden_in_square(same_size, 64), same_size > 0)


def edit(editor: TinyEditor, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return editor.edit([EditRequest(image, mask, (), "a person", "red hair", seed=3)])[0]


@pytest.mark.parametrize("size", [(64, 64), (50, 90), (200, 130)])
def test_with_blank_two_images_that_differ_under_the_mask_only_give_equal_edits(
    size: tuple[int, int],
) -> None:
    mask = box_mask(*size, size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 3)
    first, second = twins(*size, mask)
    blind = tiny(source="blank")
    assert np.array_equal(edit(blind, first, mask), edit(blind, second, mask))
    seeing = tiny()
    assert not np.array_equal(edit(seeing, first, mask), edit(seeing, second, mask))


def test_with_blank_what_lies_outside_the_mask_is_still_seen() -> None:
    mask = box_mask(64, 64, 20, 20, 20, 20)
    first, blind = noise(1, 64, 64), tiny(source="blank")
    other = np.where(mask[..., None] > 0, first, 255 - first).astype(np.uint8)
    assert not np.array_equal(edit(blind, first, mask), edit(blind, other, mask))


@pytest.mark.parametrize("source", ["full", "blur", "blank"])
def test_training_and_editing_see_the_same(source: SourceView) -> None:
    images = [noise(seed, 64, 64) for seed in range(3)]
    masks = [box_mask(64, 64, 8 * n, 10, 20, 30) for n in range(3)]
    editor = tiny(source=source)
    at_edit = [
        editor._seen_square(EditRequest(image, mask, (), "", "", 0))
        for image, mask in zip(images, masks, strict=True)
    ]
    mask = torch.from_numpy(np.stack(masks))[:, None]
    in_training = editor.seen_source(to_model(images), mask)
    assert torch.equal(in_training, to_model(at_edit))


def test_without_masks_nothing_can_be_hidden_and_training_says_so() -> None:
    images = to_model([noise(1, 64, 64)])
    assert tiny().seen_source(images, None) is images
    for source in ("blur", "blank"):
        with pytest.raises(UsageError, match=f"editor.source={source} needs pairs"):
            tiny(source=source).seen_source(images, None)


def spectrum(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (cycles per image side) and the power at each."""
    side = image.shape[0]
    grey = image.astype(np.float64).mean(-1)
    power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    frequency = np.fft.fftfreq(side) * side
    return np.hypot(frequency[:, None], frequency[None]), power


@pytest.mark.parametrize("side", [64, 256])
def test_a_blur_leaves_nothing_finer_than_its_cells(side: int) -> None:
    image = noise(7, side, side)  # as much in every frequency
    mirrored = np.tile(image, (2, 2, 1))
    mirrored[side:], mirrored[:, side:] = mirrored[:side][::-1], mirrored[:, :side][:, ::-1]
    blurred = concealed(image, np.ones((side, side), bool), "blur")
    seam_free = np.block(
        [[[blurred], [blurred[:, ::-1]]], [[blurred[::-1]], [blurred[::-1, ::-1]]]]
    )
    frequency, before = spectrum(mirrored)
    _, after = spectrum(seam_free)
    fine = frequency > 2 * 8  # half a wave per cell or less; the mirrored image is twice as wide
    assert after[fine].sum() < 1e-4 * before[fine].sum()


def test_a_blur_keeps_the_colour_of_a_region_and_a_small_one_becomes_flat() -> None:
    image = noise(3, 64, 64)
    image[20:28, 20:28, 0] = 255
    hidden = np.zeros((64, 64), bool)
    hidden[20:28, 20:28] = True
    seen = concealed(image, hidden, "blur")
    region = seen[hidden].astype(int)
    assert np.ptp(region, axis=0).max() <= 1
    assert np.abs(region[0] - image[hidden].mean(0)).max() <= 1
    assert np.array_equal(seen[~hidden], image[~hidden])


def test_requests_without_anything_masked_are_edited_alike() -> None:
    image, nothing = noise(2, 70, 60), np.zeros((70, 60), np.float32)
    whole = tiny()
    assert np.array_equal(
        edit(whole, image, nothing), edit(replace(whole, source="blank"), image, nothing)
    )

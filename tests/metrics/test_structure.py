import numpy as np
import pytest
import torch
from metrics.pairs import blank, box_mask, noise, plain_pair
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio as torch_psnr
from torchmetrics.functional.image import structural_similarity_index_measure as torch_ssim

from unsafe2safe.metrics.structure import (
    Psnr,
    PsnrInside,
    PsnrOutside,
    Ssim,
    SsimInside,
    SsimOutside,
    mean_ssim,
    psnr,
    ssim_map,
    windows,
)


def value(metric, original, edited, mask=None):
    return metric.measure([plain_pair(original, edited, mask)])[0].values[0]


@pytest.fixture
def changed_pair():
    first = noise()
    second = np.clip(first.astype(int) + noise(seed=1) // 6 - 20, 0, 255).astype(np.uint8)
    return first, second


def test_ssim_is_skimages(changed_pair):
    expected = structural_similarity(*changed_pair, channel_axis=2, data_range=255)
    assert value(Ssim(), *changed_pair) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [(7, 7), (40, 56), (64, 31)])
def test_each_window_of_the_map_is_skimages(size):
    first = noise(*size)
    for second in (first, noise(*size, seed=1), first // 2, blank(*size), 255 - first):
        _, full = structural_similarity(first, second, channel_axis=2, data_range=255, full=True)
        inner = full[3:-3, 3:-3].mean(axis=2)
        assert np.abs(ssim_map(first, second) - inner).max() < 1e-9
        mask = np.zeros(size, np.bool_)
        mask[: size[0] // 2, 2:] = True
        for metric, part in ((SsimInside(), "inside"), (SsimOutside(), "outside")):
            where = windows(mask, part)
            if where.any():
                expected = inner[where].mean()
                assert value(metric, first, second, mask) == pytest.approx(expected, abs=1e-9)


def test_ssim_is_torchmetrics_over_windows_that_lie_in_the_image(changed_pair):
    first, second = (
        torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None] for image in changed_pair
    )
    _, full = torch_ssim(
        first,
        second,
        gaussian_kernel=False,
        kernel_size=7,
        data_range=255.0,
        return_full_image=True,
    )
    # torchmetrics averages windows of the mirrored border too, skimage does not; and it takes the
    # population's covariance, which changes 58.5225 = (0.03 * 255)^2 by 48 / 49 in effect
    expected = full[0].numpy()[:, 3:-3, 3:-3].mean()
    assert value(Ssim(), *changed_pair) == pytest.approx(expected, abs=1e-4)


def test_psnr_is_skimages_and_torchmetrics(changed_pair):
    found = psnr(*changed_pair)
    expected = peak_signal_noise_ratio(*changed_pair, data_range=255)
    assert found == pytest.approx(expected, abs=1e-4)
    tensors = [torch.from_numpy(image.astype(np.float64)) for image in changed_pair]
    assert found == pytest.approx(float(torch_psnr(*tensors, data_range=255.0)), abs=1e-4)


def test_psnr_of_equal_images_is_100():
    assert psnr(blank(), blank()) == 100.0
    assert value(Psnr(), noise(), noise()) == 100.0


def test_psnr_of_each_part_is_of_its_pixels(changed_pair):
    mask = box_mask()
    for metric, where in ((PsnrInside(), mask), (PsnrOutside(), ~mask), (Psnr(), mask | True)):
        parts = [image[where][None] for image in changed_pair]
        expected = peak_signal_noise_ratio(*parts, data_range=255)
        assert value(metric, *changed_pair, mask) == pytest.approx(expected, abs=1e-9)


def test_the_three_parts_of_a_pair_take_one_map(changed_pair, monkeypatch):
    calls = []

    def counted(*images):
        calls.append(1)
        return ssim_map(*images)

    monkeypatch.setattr("unsafe2safe.metrics.structure.ssim_map", counted)
    sample = plain_pair(*changed_pair, box_mask())
    for metric in (Ssim(), SsimInside(), SsimOutside()):
        assert metric.measure([sample])[0].values
    assert len(calls) == 1


def test_a_change_inside_the_mask_leaves_what_is_measured_outside_at_its_best():
    original, mask = noise(), box_mask()
    edited = original.copy()
    edited[mask] = 0
    assert value(SsimOutside(), original, edited, mask) == pytest.approx(1.0, abs=1e-12)
    assert value(PsnrOutside(), original, edited, mask) == 100.0
    assert value(SsimInside(), original, edited, mask) < 0.3


def test_a_change_outside_the_mask_hardly_shows_inside():
    original, mask = noise(), box_mask()
    edited = np.where(mask[..., None], original, 255 - original)
    assert value(SsimInside(), original, edited, mask) > 0.4
    assert value(SsimOutside(), original, edited, mask) < 0.0
    assert value(PsnrOutside(), original, edited, mask) < 10.0


def test_windows_outside_never_touch_the_mask():
    mask = np.zeros((20, 20), np.bool_)
    mask[10, 10] = True
    outside = windows(mask, "outside")
    assert outside.shape == (14, 14)
    touched = np.zeros((14, 14), np.bool_)
    touched[4:11, 4:11] = True
    assert np.array_equal(outside, ~touched)
    assert windows(mask, "inside").sum() == 1


@pytest.mark.parametrize("size", [(6, 40), (40, 6), (1, 1)])
@pytest.mark.parametrize("metric", [Ssim(), SsimInside(), SsimOutside()])
def test_images_under_7_pixels_do_not_apply(metric, size):
    small = blank(*size)
    score = metric.measure([plain_pair(small, small, np.ones(size, np.bool_))])[0]
    assert (score.values, score.not_applicable) == ((), 1)


def test_images_of_7_pixels_apply():
    assert ssim_map(blank(7, 7), blank(7, 7)).shape == (1, 1)
    assert value(Ssim(), blank(7, 7), blank(7, 7)) == 1.0


def test_without_a_mask_only_inside_does_not_apply():
    sample = plain_pair(noise(), noise())
    assert SsimInside().measure([sample])[0].not_applicable == 1
    assert PsnrInside().measure([sample])[0].not_applicable == 1
    assert SsimOutside().measure([sample])[0].values == (pytest.approx(1.0),)


def test_a_mask_over_everything_leaves_no_outside():
    sample = plain_pair(noise(), noise(), np.ones((40, 56), np.bool_))
    assert SsimOutside().measure([sample])[0].not_applicable == 1
    assert PsnrOutside().measure([sample])[0].not_applicable == 1


def test_swapped_colour_channels_are_noticed():
    original = noise()
    original[..., 0] //= 4
    assert value(Ssim(), original, original[..., ::-1]) < 0.9


def test_a_missing_pair_is_missing():
    score = Ssim().measure([plain_pair(noise(), None)])[0]
    assert (score.values, score.missing, score.not_applicable) == ((), 1, 0)


def test_measured_in_bands_ssim_is_that_of_the_whole(changed_pair, monkeypatch):
    first, second = changed_pair
    where = windows(box_mask(*first.shape[:2]), "outside")
    whole = mean_ssim(first, second, where)
    assert whole == ssim_map(first, second)[where].mean()
    for rows in (1, 5, where.shape[0] - 1):
        monkeypatch.setattr("unsafe2safe.metrics.structure._MOST_AT_ONCE", rows * where.shape[1])
        assert mean_ssim(first, second, where) == pytest.approx(whole, abs=1e-9)

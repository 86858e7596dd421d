"""The metrics order known truths rightly on the package's photographs."""

from functools import cache

import cv2
import numpy as np
import pytest
from metrics.pairs import pair
from scipy.stats import spearmanr

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.metrics.base import Metric
from unsafe2safe.metrics.faces import FaceLeakRate, FaceSim, FaceSimPaper
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.metrics.reidentification import ReidentificationRank1
from unsafe2safe.metrics.text import TextLeakRecall, TextStrokes
from unsafe2safe.vision.arrays import bounded
from unsafe2safe.vision.perception import Perception
from unsafe2safe.vision.regions import mask_of


@cache
def perception():
    return Perception(load("evaluate").vision, 2)


@cache
def seen(name):
    return ImageFeatures(decode_file(photos_folder() / name, name).pixels, perception())


def changed(name, change):
    return ImageFeatures(change(seen(name).pixels), perception())


def value(metric, original, edited):
    scores = metric.measure([pair(original, edited)])
    return metric.aggregate(scores, 10, np.random.default_rng(0)).value


def test_three_photographs_of_one_person_are_told_from_another_person():
    presidents = [seen(f"president_{letter}.jpg") for letter in "abc"]
    same = [
        value(FaceSimPaper(), presidents[i], presidents[j]) for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    other = [value(FaceSimPaper(), one, seen("vice_president.jpg")) for one in presidents]
    assert min(same) > 0.5 > max(other)


def test_more_blur_leaves_less_of_a_face():
    def blurred(sigma):
        return changed("president_a.jpg", lambda pixels: cv2.GaussianBlur(pixels, (0, 0), sigma))

    found = [value(FaceSim(), seen("president_a.jpg"), blurred(sigma)) for sigma in (2, 8, 16, 32)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.7
    assert found[-1] < 0.55
    assert value(FaceLeakRate(), seen("president_a.jpg"), blurred(2)) == 1.0
    assert value(FaceLeakRate(), seen("president_a.jpg"), blurred(32)) == 0.0


def test_of_a_gallery_of_people_the_right_one_is_nearest():
    presidents = [seen(f"president_{letter}.jpg") for letter in "abc"]
    strangers = [seen("vice_president.jpg"), seen("astronaut.jpg")]
    pairs = [pair(presidents[0], presidents[1]), *(pair(one, one) for one in strangers)]
    rank1 = ReidentificationRank1()
    result = rank1.aggregate(rank1.measure(pairs), 50, np.random.default_rng(0))
    assert (result.value, result.n) == (1.0, 3)  # by another photograph of the same man
    exchanged = [pair(presidents[0], strangers[1]), *(pair(one, one) for one in strangers)]
    result = rank1.aggregate(rank1.measure(exchanged), 50, np.random.default_rng(0))
    assert result.value < 1.0
    embeddings = np.concatenate([one.embeddings for one in (*presidents, *strangers)])
    apart = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=2)
    assert apart[:3, :3].max() < apart[:3, 3:].min()


def test_similarity_falls_with_each_of_ten_steps_of_blur():
    pixels = seen("president_a.jpg").pixels
    box = seen("president_a.jpg").faces[0].box
    around = pixels[
        max(0, int(box.y - box.height / 2)) : int(box.bottom + box.height / 2),
        max(0, int(box.x - box.width / 2)) : int(box.right + box.width / 2),
    ]
    face = ImageFeatures(bounded(around, 192), perception())
    assert len(face.faces) == 1
    sigmas = np.geomspace(0.5, 24, 10)
    similar = [
        value(
            FaceSim(), face, ImageFeatures(cv2.GaussianBlur(face.pixels, (0, 0), s), perception())
        )
        for s in sigmas
    ]
    assert spearmanr(sigmas, similar).statistic <= -0.95
    assert similar[0] > 0.8
    assert similar[-1] < 0.5


def test_swapped_colour_channels_are_not_the_same_face():
    swapped = changed("astronaut.jpg", lambda pixels: np.ascontiguousarray(pixels[..., ::-1]))
    assert value(FaceSim(), seen("astronaut.jpg"), swapped) < 0.9
    one = seen("astronaut.jpg")
    direct = perception().identity.embed(one.pixels, one.faces)
    assert np.array_equal(one.embeddings, direct)


@pytest.mark.parametrize(("line", "left"), [(0, 3), (2, 3)])
def test_each_line_that_is_painted_over_is_one_leak_less(line, left):
    original = seen("cat_poster.jpg")
    box = original.lines[line].box

    def paint(pixels):
        edited = pixels.copy()
        cv2.rectangle(
            edited,
            (int(box.x) - 4, int(box.y) - 4),
            (int(box.right) + 4, int(box.bottom) + 4),
            (200, 190, 180),
            -1,
        )
        return edited

    found = value(TextLeakRecall(), original, changed("cat_poster.jpg", paint))
    assert found == pytest.approx(left / len(original.lines))


def test_blurred_letters_are_read_by_nobody_but_people_and_so_by_their_strokes():
    original = seen("cat_poster.jpg")
    told = []
    for sigma in (0.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        edited = changed(
            "cat_poster.jpg", lambda p, s=sigma: cv2.GaussianBlur(p, (0, 0), s) if s else p.copy()
        )
        told.append(
            (value(TextLeakRecall(), original, edited), value(TextStrokes(), original, edited))
        )
    strokes = [kept for _, kept in told]
    assert strokes[0] == pytest.approx(1.0)
    assert strokes == sorted(strokes, reverse=True)
    assert strokes[-1] < 0.1
    read, kept = told[3]
    assert read < 0.5 < kept  # people read these lines on


def figures(change, *names):
    """What pairs of photographs come to whose faces are sensitive."""
    settings = load("evaluate").metrics
    samples = []
    for name in ("president_a.jpg", "vice_president.jpg"):
        mask = mask_of([face.box for face in seen(name).faces], *seen(name).size) > 0.5
        samples.append(pair(seen(name), changed(name, lambda p, m=mask: change(p, m)), mask))
    built = {name: build(settings[name], name, Metric) for name in names}
    return {
        name: metric.aggregate(metric.measure(samples), 10, np.random.default_rng(0)).value
        for name, metric in built.items()
    }


def test_a_planted_cheater_is_caught_by_cheating_and_privacy():
    """It returns the input: quality has nothing to say against it."""
    names = ("copy_rate_inside", "ssim_inside", "st_lpips_inside", "face_leak_rate",
             "reidentification_rank1", "ssim_outside", "kid_efficientnet_lite0")  # fmt: skip
    found = figures(lambda pixels, _: pixels.copy(), *names)
    assert found["copy_rate_inside"] == 1.0
    assert found["ssim_inside"] == pytest.approx(1.0)
    assert found["st_lpips_inside"] == 0.0
    assert found["face_leak_rate"] == found["reidentification_rank1"] == 1.0
    assert found["ssim_outside"] == pytest.approx(1.0)
    assert found["kid_efficientnet_lite0"] == pytest.approx(0.0, abs=1e-9)


def test_a_planted_destroyer_is_caught_by_quality():
    """It returns grey: cheating and privacy have nothing to say against it."""
    names = ("copy_rate_outside", "ssim_outside", "psnr_outside", "st_lpips_outside",
             "sharpness_change", "kid_efficientnet_lite0", "fid_efficientnet_lite0",
             "face_leak_rate", "copy_rate_inside")  # fmt: skip
    grey = figures(lambda pixels, _: np.full_like(pixels, 127), *names)
    masked = figures(lambda pixels, mask: np.where(mask[..., None], 127, pixels), *names)
    assert grey["face_leak_rate"] == grey["copy_rate_inside"] == grey["copy_rate_outside"] == 0.0
    assert masked["copy_rate_outside"] == 1.0
    assert grey["ssim_outside"] < 0.75 < masked["ssim_outside"]
    assert grey["psnr_outside"] < 15 < masked["psnr_outside"]
    assert grey["st_lpips_outside"] > 0.4 > masked["st_lpips_outside"]
    assert grey["sharpness_change"] < -0.3 < masked["sharpness_change"]
    for name in ("kid_efficientnet_lite0", "fid_efficientnet_lite0"):
        assert grey[name] > 1.5 * masked[name]

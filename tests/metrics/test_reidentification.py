import numpy as np
import pytest
from metrics.pairs import Seen, pair

from unsafe2safe.core.records import Box
from unsafe2safe.metrics.reidentification import (
    FOUND,
    GALLERY,
    IN_PLACE,
    ReidentificationMap,
    ReidentificationRank1,
    ReidentificationTar,
    assigned_faces,
    probes,
)

RANK1, MAP, TAR = ReidentificationRank1(), ReidentificationMap(), ReidentificationTar()
ALL = pytest.mark.parametrize("metric", [RANK1, MAP, TAR])


def people(count, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, (count, 128)).astype(np.float32)


def images(gallery, in_place, found=None, per_image=2):
    """Arrays of images with so many faces each; nothing found after the edit by default."""
    found = np.full_like(gallery, np.nan) if found is None else found
    cuts = range(per_image, len(gallery), per_image)
    parts = [np.split(array, cuts) for array in (gallery, in_place, found)]
    return [
        dict(zip((GALLERY, IN_PLACE, FOUND), one, strict=True)) for one in zip(*parts, strict=True)
    ]


def conclude(metric, *arrays, **options):
    return metric.conclude(images(*arrays, **options), 300, np.random.default_rng(0))


@ALL
def test_unedited_faces_are_all_found(metric):
    result = conclude(metric, people(240), people(240))
    assert result.value == 1.0
    assert result.n == 240
    assert result.details["measurable"] == 1.0
    assert result.details["half_width"] == 0.0


@ALL
def test_faces_of_strangers_are_at_chance_and_told_so(metric):
    result = conclude(metric, people(300), people(300, seed=1))
    assert result.value <= 2 * result.details["chance_high"] + 0.01
    assert result.details["chance"] < 0.03
    assert result.details["identities"] == 300.0


@ALL
def test_the_more_noise_the_fewer_are_found(metric):
    gallery = people(250)
    noise = people(250, seed=1)
    found = [conclude(metric, gallery, gallery + s * noise).value for s in (0, 1, 2, 3, 4, 6)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 1.0
    assert found[-1] < 0.5


def test_rank_and_precision_are_those_of_the_definition():
    gallery, probe = people(40), people(40) + 6 * people(40, seed=1)
    apart = np.linalg.norm(probe[:, None].astype(float) - gallery[None], axis=2)
    rank = 1 + (apart < np.diag(apart)[:, None]).sum(axis=1)
    assert conclude(RANK1, gallery, probe).value == pytest.approx((rank == 1).mean())
    assert conclude(MAP, gallery, probe).value == pytest.approx((1 / rank).mean())
    assert rank.max() > 1


def test_verification_accepts_one_stranger_in_a_thousand_at_most():
    gallery, probe = people(100), people(100) + 2 * people(100, seed=1)
    apart = np.linalg.norm(probe[:, None].astype(float) - gallery[None], axis=2)
    strangers = np.sort(apart[~np.eye(100, dtype=bool)])
    threshold = strangers[int(1e-3 * len(strangers))]
    result = conclude(TAR, gallery, probe)
    assert result.value == pytest.approx((np.diag(apart) < threshold).mean())
    assert result.details["distance"] == pytest.approx(threshold)
    assert (strangers < threshold).mean() <= 1e-3
    assert 0.0 < result.value < 1.0


def test_the_nearer_of_place_and_found_face_is_compared_whoever_it_shows():
    gallery = people(50)
    far = np.full_like(gallery, 9.0)
    assert conclude(RANK1, gallery, far, gallery).value == 1.0  # moved, but found
    assert conclude(RANK1, gallery, gallery, far).value == 1.0  # overlooked, but in place
    stranger = np.roll(gallery, 1, axis=0)  # somebody else's face, as near as one's own
    assert conclude(RANK1, gallery, gallery + 1e-3, stranger).value < 0.2


def test_equal_distances_share_the_rank():
    gallery = people(40)
    grey = np.repeat(people(1, seed=9), 40, axis=0)  # every place looks the same
    result = conclude(RANK1, gallery, grey)
    assert result.value == pytest.approx(1 / 40)
    twins = np.repeat(people(20), 2, axis=0)
    assert conclude(RANK1, twins, twins).value == pytest.approx(0.5)
    assert conclude(MAP, twins, twins).value == pytest.approx((1 + 1 / 2) / 2)


@ALL
def test_one_identity_says_nothing(metric):
    result = conclude(metric, people(1), people(1))
    assert (result.value, result.n, result.n_not_applicable) == (None, 0, 1)


@ALL
def test_few_identities_or_a_wide_interval_are_not_measurable(metric):
    assert conclude(metric, people(199), people(199)).details["measurable"] == 0.0
    gallery = people(220)
    probe = gallery.copy()
    half = (np.arange(220) // 22) % 2 == 0
    probe[half] = people(220, seed=1)[half]
    crowds = conclude(metric, gallery, probe, per_image=22).details  # ten images, half edited
    assert crowds["half_width"] > 0.05
    assert crowds["measurable"] == 0.0
    assert conclude(metric, gallery, gallery, per_image=22).details["measurable"] == 1.0


def test_chance_is_measured_by_permutation():
    result = conclude(RANK1, people(200), people(200, seed=1))
    assert result.details["chance"] == pytest.approx(1 / 200, abs=2e-3)
    assert 1 / 200 < result.details["chance_high"] < 0.03
    hits = sum(
        conclude(RANK1, people(200, seed=s), people(200, seed=s + 50)).value
        > result.details["chance_high"]
        for s in range(20)
    )
    assert hits <= 4  # 5 % of twenty


def test_the_interval_draws_whole_images():
    gallery = people(400)
    probe = gallery.copy()
    half = (np.arange(400) // 20) % 2 == 0
    probe[half] = people(400, seed=1)[half]
    alone = conclude(RANK1, gallery, probe, per_image=1).details["half_width"]
    crowds = conclude(RANK1, gallery, probe, per_image=20).details["half_width"]
    assert crowds > 2.5 * alone


def test_found_faces_are_assigned_by_place_and_one_to_one():
    before = [Box(0, 0, 10, 10), Box(100, 0, 10, 10), Box(200, 0, 10, 10)]
    after = [Box(202, 4, 9, 9), Box(1, 1, 12, 12)]
    assert assigned_faces(before, after) == [1, None, 0]
    assert assigned_faces(before, []) == [None, None, None]
    assert assigned_faces([], after) == []


def test_probes_of_an_image_are_its_places_and_the_faces_there():
    sample = pair(Seen([0, 1], at=[0, 5]), Seen([7], at=[5], in_place=[None, 3]))
    arrays = probes(sample)
    assert np.array_equal(arrays[GALLERY], sample.original.embeddings)
    assert np.array_equal(arrays[IN_PLACE], sample.faces_in_place)
    assert np.isnan(arrays[FOUND][0]).all()
    assert np.array_equal(arrays[FOUND][1], sample.after.embeddings[0])


@ALL
def test_vanished_missing_and_absent_faces_are_counted_apart(metric):
    samples = [
        pair(Seen([0, 1]), Seen([], in_place=[None, None])),  # vanished: not found again
        pair(Seen([2]), None),
        pair(Seen([]), Seen([5], in_place=[])),
        pair(Seen([3]), Seen([3])),
    ]
    result = metric.aggregate(metric.measure(samples), 50, np.random.default_rng(0))
    assert (result.n, result.n_missing, result.n_not_applicable) == (3, 1, 1)
    assert result.value < 0.9
    assert result.details["identities"] == 3.0

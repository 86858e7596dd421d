import numpy as np
import pytest
from metrics.pairs import Seen, pair

from unsafe2safe.metrics.faces import FaceLeakRate, FaceSim, FaceSimPaper, FacesVanished, similarity


def score(metric, original, edited):
    return metric.measure([pair(original, edited)])[0]


def test_similarity_is_one_for_equal_faces_half_at_the_threshold_and_never_negative():
    assert similarity(np.array([0.0, 0.6, 1.2, 5.0])).tolist() == [1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("metric", [FaceSim(), FaceSimPaper(), FaceLeakRate()])
def test_an_unedited_image_gives_exactly_one_for_each_face(metric):
    people = Seen([0, 1, 2])
    assert score(metric, people, people).values == (1.0, 1.0, 1.0)


def test_a_vanished_face_is_left_out_by_the_papers_form_and_counted_by_ours():
    original, edited = Seen([0, 1]), Seen([], in_place=[None, None])
    paper = score(FaceSimPaper(), original, edited)
    assert (paper.values, paper.not_applicable) == ((), 2)
    assert score(FaceSim(), original, edited).values == (0.0, 0.0)
    assert score(FaceLeakRate(), original, edited).values == (0.0, 0.0)
    assert score(FacesVanished(), original, edited).values == (1.0, 1.0)


def test_a_leak_that_the_detector_overlooks_is_still_seen_in_its_place():
    original, edited = Seen([0]), Seen([], in_place=[0])
    assert score(FaceSimPaper(), original, edited).values == ()
    assert score(FaceSim(), original, edited).values == (1.0,)
    assert score(FaceLeakRate(), original, edited).values == (1.0,)


def test_a_face_that_moved_is_still_recognised():
    original = Seen([0, 1])
    edited = Seen([1, 0], in_place=[None, None])
    assert score(FaceLeakRate(), original, edited).values == (1.0, 1.0)


def test_matching_is_one_to_one():
    original = Seen([0.0, 0.1])  # alike: one edited face is near both
    edited = Seen([0.0, 3.0], in_place=[None, None])
    paper = score(FaceSimPaper(), original, edited).values
    ours = score(FaceSim(), original, edited).values
    assert paper == pytest.approx((1.0, 1 - 0.2 / 1.2))
    assert ours == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize("metric", [FaceSim(), FaceSimPaper(), FaceLeakRate(), FacesVanished()])
def test_no_face_anywhere_does_not_apply(metric):
    scores = metric.measure([pair(Seen(), Seen()), pair(Seen(), Seen([5], in_place=[]))])
    assert [item.not_applicable for item in scores] == [1, 1]
    result = metric.aggregate(scores, 100, np.random.default_rng(0))
    assert (result.value, result.n, result.n_not_applicable) == (None, 0, 2)
    assert result.interval is None


@pytest.mark.parametrize("metric", [FaceSim(), FaceSimPaper(), FaceLeakRate(), FacesVanished()])
def test_a_missing_pair_counts_as_many_missing_faces_as_it_should_have_had(metric):
    missing, without_faces = metric.measure([pair(Seen([0, 1, 2]), None), pair(Seen(), None)])
    assert (missing.values, missing.missing) == ((), 3)
    assert (without_faces.missing, without_faces.not_applicable) == (0, 1)


def test_vanished_faces_are_told_by_place():
    original = Seen([0, 1, 2])
    assert score(FacesVanished(), original, Seen([7], at=[1])).values == (1.0, 0.0, 1.0)


def test_mean_is_over_faces_not_over_images():
    scores = FaceLeakRate().measure(
        [pair(Seen([0, 1, 2]), Seen([0, 1, 2])), pair(Seen([0]), Seen([], in_place=[None]))]
    )
    result = FaceLeakRate().aggregate(scores, 100, np.random.default_rng(0))
    assert (result.value, result.n) == (0.75, 4)

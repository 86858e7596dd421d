from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsafe2safe.core.records import Box
from unsafe2safe.vision.matching import match_boxes, normalize_text, text_leaks
from unsafe2safe.vision.regions import iou

boxes = st.builds(Box, *[st.floats(0, 20)] * 2, *[st.floats(1, 20)] * 2)
words = st.text(string.ascii_letters, min_size=4, max_size=10)


@given(st.lists(boxes, max_size=5), st.lists(boxes, max_size=5), st.floats(0, 1))
def test_matching_is_one_to_one_and_never_under_the_least_iou(a, b, least):
    pairs = match_boxes(a, b, least)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(iou(a[i], b[j]) >= least and iou(a[i], b[j]) > 0 for i, j in pairs)


@given(st.lists(boxes, max_size=5))
def test_a_list_matches_itself_completely(a):
    pairs = match_boxes(a, a, 1.0 - 1e-9)
    assert len(pairs) == len(a)


def test_a_box_too_far_away_takes_no_partner_from_another():
    a = [Box(0, 0, 10, 10), Box(4, 0, 10, 10)]
    b = [Box(4, 0, 10, 10)]
    assert match_boxes(a, b, 0.5) == [(1, 0)]
    assert match_boxes(a, [Box(50, 50, 5, 5)], 0.0) == []
    assert match_boxes([], b, 0.1) == match_boxes(a, [], 0.1) == []


def test_a_pair_is_not_given_up_for_two_that_are_too_far_apart():
    a = [Box(2.5, 0, 10, 1), Box(-3.8, 0, 10, 1)]
    b = [Box(0, 0, 10, 1), Box(6.3, 0, 10, 1)]  # IoU 0.6 for (0, 0), 0.45 for (0, 1) and (1, 0)
    assert match_boxes(a, b, 0.5) == [(0, 0)]
    assert match_boxes(a, b, 0.4) == [(0, 1), (1, 0)]


def test_a_fragment_of_a_string_is_not_the_string():
    """The trap of token_set_ratio, which gives 100 both ways."""
    assert text_leaks(["STOP main street 42"], ["STOP"]) == [False]
    assert text_leaks(["STOP"], ["STOP main street 42"]) == [True]


@pytest.mark.parametrize(
    "readable",
    [["call ANNA weber"], ["CallAnnaWeber"], ["Call Ánna, Weber!"], ["Call Anna", "Weber"],
     ["Cal1 Anna Weber"], ["x", "please Call Anna Weber today", "y"], ["Call Ann Weber"]],
)  # fmt: skip
def test_case_spacing_punctuation_line_breaks_and_misreadings_do_not_hide_a_leak(readable):
    assert text_leaks(["Call Anna Weber"], readable) == [True]


@pytest.mark.parametrize("readable", [[], [""], ["Lorem ipsum"], ["Coffee", "house 9"]])
def test_what_cannot_be_read_is_no_leak(readable):
    assert text_leaks(["Call Anna Weber", "555-0142"], readable) == [False, False]


def test_nothing_to_leak_gives_an_empty_answer():
    assert text_leaks([], ["STOP"]) == []
    assert text_leaks(["", "--"], ["STOP"]) == [False, False]


def test_a_short_string_leaks_only_as_a_word():
    assert text_leaks(["42", "Ann", "Bo"], ["Room 42, Anna"]) == [True, False, False]
    assert text_leaks(["Bo"], ["B o"]) == [True]


@given(st.lists(words, min_size=1, max_size=4), st.lists(words, max_size=3))
def test_an_unchanged_string_always_leaks(lines, others):
    assert all(text_leaks(lines, [*others, *lines]))


@given(st.text(max_size=20))
def test_normalizing_twice_changes_nothing(text):
    once = normalize_text(text)
    assert normalize_text(once) == once


def test_normalized_text_is_plain_words():
    assert normalize_text("  \uff23AFÉ-Straße, 12! ") == "cafe strasse 12"

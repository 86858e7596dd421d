import numpy as np
import pytest
from metrics.pairs import Seen, pair
from rapidfuzz import fuzz

from unsafe2safe.metrics.text import TextLeakRecall, TextSimPaper, token_set_similarity


def score(metric, before, after):
    return metric.measure([pair(Seen(texts=before), Seen(texts=after))])[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [("STOP main street 42", "STOP"), ("Anna Weber", "anna weber"), ("a b c", "c d"), ("x", "")],
)
def test_the_papers_form_is_rapidfuzz(before, after):
    expected = fuzz.token_set_ratio(before, after) / 100
    assert token_set_similarity(before, after) == pytest.approx(expected, abs=1e-4)


def test_a_subset_scores_one_in_the_papers_form_and_nothing_in_ours():
    assert score(TextSimPaper(), ["STOP main street 42"], ["STOP"]).values == (1.0,)
    assert score(TextLeakRecall(), ["STOP main street 42"], ["STOP"]).values == (0.0,)


def test_case_matters_in_the_papers_form_only():
    assert score(TextSimPaper(), ["ANNA WEBER"], ["anna weber"]).values[0] < 0.5
    assert score(TextLeakRecall(), ["ANNA WEBER"], ["anna weber"]).values == (1.0,)


def test_small_errors_of_reading_do_not_hide_a_leak():
    assert score(TextLeakRecall(), ["Garden Lane 14"], ["Gardon Lane l4"]).values == (1.0,)


def test_each_line_counts_wherever_it_is_read():
    found = score(TextLeakRecall(), ["LOST CAT", "call 555 0199"], ["call 555", "0199 today"])
    assert found.values == (0.0, 1.0)


@pytest.mark.parametrize("metric", [TextLeakRecall(), TextSimPaper()])
def test_no_text_in_the_original_does_not_apply_whatever_the_edit_wrote(metric):
    assert score(metric, [], []).not_applicable == 1
    assert score(metric, [], ["NEW SIGN"]).not_applicable == 1


@pytest.mark.parametrize("metric", [TextLeakRecall(), TextSimPaper()])
def test_text_that_is_gone_counts_as_zero_not_as_missing(metric):
    found = score(metric, ["LOST CAT"], [])
    assert (found.values, found.missing, found.not_applicable) == ((0.0,), 0, 0)


def test_a_missing_pair_counts_its_lines():
    missing = TextLeakRecall().measure([pair(Seen(texts=["a sign", "another"]), None)])
    assert missing[0].missing == 2
    result = TextLeakRecall().aggregate(missing, 100, np.random.default_rng(0))
    assert (result.value, result.n, result.n_missing) == (None, 0, 2)

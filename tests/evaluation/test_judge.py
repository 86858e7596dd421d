"""VLMScore: what counts as a score, both orders, controls, and what is missing."""

import numpy as np
import pytest
from metrics.pairs import box_mask, noise, plain_pair

from unsafe2safe.backends.base import ChatAnswer, ChatModel
from unsafe2safe.core.config.components import component
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.evaluation.judge import SCHEMA, VlmScore, read_score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"score": 85}', 85),
        ("85", 85),
        (" 0 ", 0),
        ("100.", 100),
        ("85/100", 85),
        ("85 / 100", 85),
        ("<85>", None),
        ("70-90", None),
        ("101", None),
        ("-5", None),
        ("85/10", None),
        ("8.5", None),
        ("Score: 85", None),
        ("I give 85 because 3 people differ", None),
        ('{"score": "85"}', None),
        ('{"score": true}', None),
        ('{"score": 85.5}', None),
        ('{"score": 185}', None),
        ('{"score": 85, "why": "hair"}', None),
        ("", None),
        ("[" * 100_000, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_only_a_score_is_a_score(text, score):
    assert read_score(ChatAnswer(text)) == score


def test_an_answer_that_was_cut_off_or_failed_is_no_score():
    assert read_score(ChatAnswer("85", finished=False)) is None
    assert read_score(ChatAnswer("85", error="timeout")) is None


@component
class Comparing(ChatModel):
    """Judges by pixels: 0 for two equal halves, else ``different``; other words at every
    ``babbles``-th question."""

    different: int = 80
    babbles: int = 0
    lean: int = 0  # added where the brighter picture stands on the left

    def answer(self, requests):
        answers = []
        for number, request in enumerate(requests):
            assert request.schema == SCHEMA
            width = (request.image.shape[1] - 8) // 2
            left, right = request.image[:, :width], request.image[:, -width:]
            score = 0 if np.array_equal(left, right) else self.different
            score += self.lean * int(left.mean() > right.mean())
            babble = self.babbles and number % self.babbles == 0
            answers.append(ChatAnswer("70-90" if babble else f'{{"score": {score}}}'))
        return answers


@component
class Absent(ChatModel):
    def answer(self, requests):
        raise UsageError("no such model")


def judge(kind="Comparing", **settings):
    vlm = {"_target_": f"{__name__}.{kind}", "name": "a", "model": "b", **settings}
    return VlmScore(vlm=vlm)


def figures(metric, samples):
    scores = metric.measure(samples)
    return scores, metric.aggregate(scores, 100, np.random.default_rng(0))


def pairs(count=4):
    mask = box_mask()
    return [plain_pair(noise(seed=n), noise(seed=n + 50) // 2, mask) for n in range(count)]


def test_identical_pairs_score_nothing_and_others_what_the_judge_says():
    identity = [plain_pair(noise(seed=n), noise(seed=n), box_mask()) for n in range(3)]
    assert figures(judge(), identity)[1].value == 0
    _, result = figures(judge(), pairs())
    assert (result.value, result.n, result.n_missing) == (80, 8, 0)


def test_both_orders_are_asked_and_their_gap_is_told():
    _, result = figures(judge(lean=10), pairs())
    assert result.value == 85  # each original is brighter than its edit: one order of two
    assert result.details["order_gap"] == 10


def test_what_is_no_score_is_missing_and_counted():
    scores, result = figures(judge(babbles=2), pairs())
    assert all((len(score.values), score.missing) == (1, 1) for score in scores)
    assert (result.n, result.n_missing, result.n_not_applicable) == (4, 4, 0)
    assert "order_gap" not in result.details
    _, result = figures(judge(babbles=1), pairs())
    assert (result.value, result.n, result.n_missing) == (None, 0, 8)


def test_missing_edits_are_missing_twice_and_safe_images_do_not_count():
    samples = [plain_pair(noise(), None, box_mask()), plain_pair(noise(), noise(seed=3))]
    _, result = figures(judge(), samples)
    assert (result.n, result.n_missing, result.n_not_applicable) == (0, 2, 1)


def test_a_model_that_is_not_there_makes_the_metric_unavailable():
    assert judge("Absent").unavailable() == "no such model"
    assert judge().unavailable() == ""


def test_the_group_brings_the_papers_judge_and_takes_others():
    config = load("evaluate", ["metrics=[default,judge]"])
    assert config.metrics["vlm_score"]["vlm"]["name"] == "internvl3_5_8b"
    other = load(
        "evaluate", ["metrics=[default,judge]", "stage1/vlm@metrics.vlm_score.vlm=qwen3_vl_2b"]
    )
    assert other.metrics["vlm_score"]["vlm"]["name"] == "qwen3_vl_2b"

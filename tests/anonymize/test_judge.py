"""The judge's answers: whole and of the asked form, or not verified."""

import logging
from pathlib import Path

import numpy as np
import pytest
from injected_witnesses import ASKED, RaisingJudge, ScriptedJudge

from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.anonymize.judge import Judge, read_answer, side_by_side
from unsafe2safe.backends.base import ChatAnswer
from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import (
    Box,
    Category,
    ImageRecord,
    PrivacyFlag,
    Provenance,
    Region,
    Triplet,
    TripletState,
)
from unsafe2safe.data.decode import DecodedImage

GOOD = '{"still_shown": false, "linkable": true}'


def test_a_whole_answer_of_the_asked_form_is_read():
    assert read_answer(ChatAnswer(GOOD)) == {"still_shown": False, "linkable": True}
    assert read_answer(ChatAnswer(f"\n {GOOD} \n")) is not None


@pytest.mark.parametrize(
    "answer",
    [
        ChatAnswer(GOOD, finished=False),
        ChatAnswer(GOOD, error="timeout"),
        ChatAnswer(""),
        ChatAnswer("No, neither."),
        ChatAnswer(f"Here is my answer: {GOOD}"),
        ChatAnswer(f"```json\n{GOOD}\n```"),
        ChatAnswer(GOOD + GOOD),
        ChatAnswer('{"still_shown": false}'),
        ChatAnswer('{"still_shown": false, "linkable": false, "note": "but"}'),
        ChatAnswer('{"still_shown": "false", "linkable": false}'),
        ChatAnswer('{"still_shown": 0, "linkable": 0}'),
        ChatAnswer('{"still_shown": null, "linkable": false}'),
        ChatAnswer('{"still_shown": true, "linkable": false, "still_shown": false}'),
        ChatAnswer("[false, false]"),
        ChatAnswer("[" * 100_000),
    ],
    ids=lambda answer: answer.text[:30] or "nothing",
)
def test_every_other_answer_says_nothing(answer):
    assert read_answer(answer) is None


def test_both_pictures_are_shown():
    left, right = np.zeros((5, 7, 3), np.uint8), np.full((5, 7, 3), 9, np.uint8)
    shown = side_by_side(left, right)
    assert shown.shape[0] == 5
    assert np.array_equal(shown[:, :7], left)
    assert np.array_equal(shown[:, -7:], right)


def candidate():
    """Of a picture with two strings; its witnesses have looked already."""
    pixels = np.zeros((9, 9, 3), np.uint8)
    image = DecodedImage(pixels, "PNG", False, (), None, None, b"")
    triplet = Triplet(
        "a.png", PrivacyFlag.UNSAFE, TripletState.COMPLETE, "", "", None, "", Provenance("")
    )
    region = Region("a.png", Box(0, 0, 3, 3), Category.PLATE, 1.0, "")
    made = Candidate(ImageRecord("a.png", Path("a.png")), image, triplet, [region], None)
    vars(made)["source_texts"] = ("Call Anna {now}", '"quoted"')
    return made


def judged(model, count=1):
    edits = [(candidate(), np.full((9, 9, 3), 7, np.uint8)) for _ in range(count)]
    return Judge(model, seed=0).checks(edits)


@pytest.mark.parametrize(
    ("model", "failed"),
    [
        (ScriptedJudge(), []),
        (ScriptedJudge(says='{"still_shown": true, "linkable": false}'), ["judge_still_shown"]),
        (ScriptedJudge(says=GOOD), ["judge_linkable"]),
        (ScriptedJudge(says="All is well."), ["judge_answered"]),
        (ScriptedJudge(error="timeout"), ["judge_answered"]),
        (ScriptedJudge(finished=False), ["judge_answered"]),
        (RaisingJudge(), ["judge_answered"]),
    ],
    ids=["agrees", "shown", "linkable", "unparsed", "error", "cut", "raises"],
)
def test_an_edit_passes_on_two_clear_noes_alone_and_no_prompt_is_logged(model, failed, caplog):
    with caplog.at_level(logging.DEBUG):
        (checks,) = judged(model)
    assert [check.name for check in checks if not check.passed] == failed
    assert "Anna" not in caplog.text


def test_the_question_names_what_was_private_and_shows_both_pictures():
    ASKED.clear()
    judged(ScriptedJudge())
    assert "license plates" in ASKED[0]
    assert '"Call Anna {now}", "\\"quoted\\""' in ASKED[0]


def test_one_question_that_raises_fails_its_own_edit_only():
    @component
    class OneAtATime(ScriptedJudge):
        def answer(self, requests):
            if len(requests) > 1:
                raise RuntimeError
            return super().answer(requests)

    assert all(check.passed for checks in judged(OneAtATime(), 2) for check in checks)


def test_a_judge_that_loses_an_answer_has_judged_nothing():
    @component
    class Loses(ScriptedJudge):
        def answer(self, requests):
            return super().answer(requests)[1:]

    assert [checks[0].name for checks in judged(Loses(), 2)] == ["judge_answered"] * 2


def test_a_judge_that_cannot_be_used_at_all_ends_the_run():
    @component
    class Gone(ScriptedJudge):
        def answer(self, requests):
            raise UsageError("the server is gone")

    with pytest.raises(UsageError, match="gone"):
        judged(Gone(), 2)

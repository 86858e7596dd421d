"""The leak guard: what must be found, what must pass, and that spelling hides nothing."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage1 import clean_captions, planted_leaks

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.records import Category, Finding
from unsafe2safe.stage1.guard import Leak, PrivateSide, find_leaks, leaks
from unsafe2safe.stage1.instruct import draw_plan, edit_instruction
from unsafe2safe.stage1.lexicon import words_of

NOTHING = PrivateSide((), "")
ATTRIBUTES = load("generate_triplets").stage1["attributes"]
LETTERS = st.text("bcdfghjkmnpqrtvwxyz", min_size=4, max_size=9)


def reading(text):
    return Finding(Category.TEXT, 0.9, "rapidocr", None, text)


def kinds(text, *readings, allowed=(), private_caption=""):
    private = PrivateSide(tuple(reading(one) for one in readings), private_caption)
    return {leak.kind for leak in find_leaks(text, private, allowed)}


def found(planted):
    return planted.kind in kinds(
        planted.text,
        *planted.readings,
        allowed=planted.allowed,
        private_caption=planted.private_caption,
    )


@pytest.mark.parametrize("planted", planted_leaks.PLANTED, ids=lambda planted: planted.text)
def test_every_planted_leak_is_found_with_its_kind(planted):
    assert found(planted)


def test_at_least_95_of_100_clean_captions_pass():
    flagged = [text for text in clean_captions.CLEAN if find_leaks(text, NOTHING)]
    assert len(clean_captions.CLEAN) >= 60
    assert len(flagged) <= 0.05 * len(clean_captions.CLEAN), flagged


def test_lists_written_after_the_guard_fare_alike():
    missed = [planted.text for planted in planted_leaks.HELD_OUT if not found(planted)]
    flagged = [text for text in clean_captions.HELD_OUT if find_leaks(text, NOTHING)]
    assert len(missed) <= 2, missed
    assert len(flagged) <= 2, flagged


@given(st.lists(LETTERS, min_size=1, max_size=4), st.data())
def test_case_spacing_and_punctuation_never_hide_a_reading(parts, data):
    private = PrivateSide((reading(" ".join(parts)),), "")
    spelled = "".join(
        data.draw(st.sampled_from((c.upper(), c.lower())))
        + data.draw(st.sampled_from(("", "", "", " ", "-", ".", "\u200b", "\u0301", "\n")))
        for c in "".join(parts)
    )
    assert find_leaks(f"a chair, {spelled}, and a table", private)


@given(LETTERS.filter(lambda word: len(word) >= 5), st.data())
def test_one_character_more_or_less_does_not_hide_a_reading(word, data):
    at = data.draw(st.integers(0, len(word) - 1))
    other = data.draw(st.sampled_from("bdkz"))
    for spelled in (word[:at] + word[at + 1 :], word[:at] + other + word[at:]):
        assert find_leaks(f"a chair and {spelled} on it", PrivateSide((reading(word),), ""))


@given(st.integers(0, 500), st.integers(1, 3))
def test_a_planned_instruction_passes_and_a_word_more_does_not(seed, persons):
    plan = draw_plan(ATTRIBUTES, persons, seed, "a.jpg")
    allowed = [phrase for values in plan for phrase in values.values()]
    told = edit_instruction("A photo of several people.", plan, has_text=True)
    assert not find_leaks(told, NOTHING, allowed)
    assert "demographic" in kinds(told.replace("person", "woman", 1), allowed=allowed)


def test_a_plan_allows_exactly_its_words():
    terms = [
        leak.term for leak in find_leaks("An Asian man with brown skin", NOTHING, ("brown skin",))
    ]
    assert terms == ["Asian", "man"]
    assert kinds("Give the person dark brown skin", allowed=("brown skin",)) == {"demographic"}
    assert kinds("Give the person brown skin") == {"demographic"}
    assert not kinds("Give the person Brown  skin.", "BROWN SKIN", allowed=("brown skin",))


def test_a_part_of_a_reading_leaks_but_its_plain_words_do_not():
    assert kinds("A note about Weber.", "Call Anna Weber") >= {"text"}
    assert not kinds("A person calls someone on a phone.", "Call Anna Weber")
    assert not kinds("A bus at a bus stop beside a stop sign.", "BUS", "STOP")
    assert kinds("The word stop on a wall.", "STOP") == {"text"}


def test_what_a_finding_tells_does_not_return():
    seen = Finding(Category.PERSON, 0.9, "vlm", None, "person with a butterfly necklace of jade")
    private = PrivateSide((seen,), "")
    assert Leak("finding", "butterfly necklace") in find_leaks(
        "A person with a butterfly necklace on a bench.", private
    )
    assert not find_leaks("A person on a bench.", private)


def test_a_name_of_the_private_caption_is_found_in_any_case():
    assert kinds("zorvik at a table", private_caption="A person, Zorvik, eats.") == {"name"}


def test_the_embedded_detectors_are_judged_by_their_findings_alone():
    assert leaks("A badge of ANNA WEBER.", [reading("Anna Weber")])
    assert not leaks("A wide photo of a teddy bear.", [reading("Anna Weber")])


@given(st.text(max_size=60), st.text(max_size=12), st.text(max_size=30))
def test_any_text_is_judged_without_an_exception(text, read, told):
    for leak in find_leaks(text, PrivateSide((reading(read),), told), (read,)):
        assert words_of(leak.term)
        assert re.fullmatch("[a-z]+", leak.kind)

"""Replacement plans tell nothing of the original: uniform, and independent of every finding."""

import numpy as np
import pytest
from scipy.stats import chisquare
from stage1.scripted import PLAN_ATTRIBUTES

from unsafe2safe.stage1.instruct import (
    MAX_WORDS,
    draw_plan,
    edit_instruction,
    planned_words,
    says_plan,
)

IMAGES = 5000


@pytest.fixture(scope="module")
def plans():
    return [draw_plan(PLAN_ATTRIBUTES, 1, 0, f"train/{i:06d}.jpg")[0] for i in range(IMAGES)]


@pytest.mark.parametrize("name", sorted(PLAN_ATTRIBUTES))
def test_planned_values_do_not_reject_uniformity_at_one_percent(plans, name):
    counts = [sum(plan[name] == value for plan in plans) for value in PLAN_ATTRIBUTES[name]]
    assert sum(counts) == IMAGES
    assert chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("name", sorted(PLAN_ATTRIBUTES))
def test_plans_and_findings_have_the_mutual_information_of_independent_draws(plans, name):
    values = list(PLAN_ATTRIBUTES[name])
    planned = np.array([values.index(plan[name]) for plan in plans])
    # What was there before: findings cluster by folder and by order, as real data sets do.
    rng = np.random.default_rng(7)
    original = (np.arange(IMAGES) // 500 + rng.integers(0, 2, IMAGES)) % len(values)
    observed = mutual_information(planned, original)
    shuffled = [mutual_information(planned, rng.permutation(original)) for _ in range(300)]
    assert np.mean([value >= observed for value in shuffled]) > 0.01


def mutual_information(a, b):
    """In nats, from the joint counts of two arrays of small integers."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1)
    joint /= joint.sum()
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / product[seen])).sum())


def test_a_plan_is_said_when_each_of_its_values_is():
    plan = ({"hair": "a shaved head", "skin": "light skin"},)
    for said in ("Give them a SHAVED head and light-skin.", "A shaved head; light skin!"):
        assert says_plan(said, "A person.", plan, False), said
    for said in ("Give them light skin.", "a shaved dog's head, light skin", ""):
        assert not says_plan(said, "A person.", plan, False), said
    assert not says_plan("a shaved head, light skin", "A person.", plan, True)
    assert says_plan("a shaved head, light skin; blur all text", "A person.", plan, True)


def test_a_value_is_said_once_for_each_person_and_not_inside_another():
    light, very = {"skin": "light skin"}, {"skin": "very light skin"}
    assert not says_plan("very light skin for one", "People.", (light, very), False)
    assert says_plan("very light skin, then light skin", "People.", (light, very), False)
    assert not says_plan("light skin for both", "People.", (light, light), False)


def test_a_plan_that_45_words_cannot_hold_loses_persons_not_its_text_clause():
    for index in range(200):
        plan = draw_plan(PLAN_ATTRIBUTES, 3, 0, str(index))
        told = edit_instruction("Three people.", plan, True)
        assert len(told.split()) <= MAX_WORDS
        assert says_plan(told, "Three people.", plan, True)
        assert planned_words("Three people.", plan, True)[-1].startswith("replace all text")

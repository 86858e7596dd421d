"""A redraw changes what it says, there and nowhere else."""

from __future__ import annotations

import dataclasses

import pytest
from data.synthetic.redraws import redraws

from unsafe2safe.core.errors import UsageError
from unsafe2safe.data.synthetic import WORLDS, change_mask, draw_scene, private_mask, redraw, render
from unsafe2safe.data.synthetic.redrawing import PERSON_ATTRIBUTES


def test_pixels_that_differ_lie_in_the_change_mask_and_the_mask_in_the_private_layers():
    for index, (_, scene, redrawn, _) in enumerate(redraws()):
        differs = (render(scene) != render(redrawn.scene)).any(axis=2)
        mask = change_mask(scene, redrawn.scene)
        assert not (differs & ~mask).any(), index
        if index % 10 == 0:  # draws as much again
            private = private_mask(scene) | private_mask(redrawn.scene)
            assert not (mask & ~private).any(), index


def test_a_full_redraw_leaves_no_scored_value_as_it_was():
    bare = hatted = 0
    for _, scene, redrawn, _ in redraws(shares=(1.0,)):
        old, new = scene.private, redrawn.scene.private
        for before, after in zip(old.persons, new.persons, strict=True):
            for name in ("skin", "hair_color", "hair_style", "clothing", "glasses"):
                assert getattr(before, name) != getattr(after, name), name
            if before.headwear != "none":
                assert after.headwear != before.headwear
            else:
                bare += 1
                hatted += after.headwear != "none"
            _assert_other_letters(before.tag, after.tag)
        _assert_other_letters(old.sign, new.sign)
        _assert_other_letters(old.plate, new.plate)
        if old.timepiece:
            assert new.timepiece
            assert new.timepiece.kind == old.timepiece.kind
            assert new.timepiece.value != old.timepiece.value
    assert 0.06 < hatted / bare < 0.2  # most bare heads stay bare, so that hair is seen


def _assert_other_letters(before: str | None, after: str | None) -> None:
    assert (before is None) == (after is None)
    if before is not None and after is not None:
        assert before != after
        assert all(a != b for a, b in zip(before, after, strict=False))


def test_changes_tell_all_that_differs_and_the_public_part_stays():
    for _, scene, redrawn, _ in redraws(600):
        assert redrawn.scene.public == scene.public
        assert redrawn.source == scene
        told = {(change.layer, change.attribute) for change in redrawn.changes}
        differing = set()
        old, new = scene.private, redrawn.scene.private
        for index, (before, after) in enumerate(zip(old.persons, new.persons, strict=True)):
            for name in PERSON_ATTRIBUTES:
                if getattr(before, name) != getattr(after, name):
                    differing.add((f"person-{index}", name))
        for name in ("sign", "plate", "timepiece"):
            if getattr(old, name) != getattr(new, name):
                differing.add((name, name))
        assert told == differing != set()


def test_a_redraw_that_holds_other_things_is_refused():
    scene = next(
        scene
        for scene in (draw_scene(WORLDS["base"], 0, index) for index in range(100))
        if scene.private.sign and len(scene.private.persons) == 1
    )
    person = scene.private.persons[0]
    for other in (
        dataclasses.replace(scene.private, sign=None),
        dataclasses.replace(scene.private, persons=(person, person)),
    ):
        with pytest.raises(UsageError):
            redraw(scene, other)

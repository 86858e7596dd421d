"""What is said of scenes: no word is unknown, and public texts keep the source's secrets."""

from __future__ import annotations

import dataclasses
import re

from data.synthetic.redraws import redraws

from unsafe2safe.core.randomness import generator
from unsafe2safe.data.synthetic import WORLDS, Private, Scene, draw_scene, redraw
from unsafe2safe.data.synthetic.attributes import CLOTHING, HAIR, HEADWEAR, SKIN, STYLES
from unsafe2safe.data.synthetic.captions import (
    combined_caption,
    instruction,
    private_caption,
    public_caption,
    vocabulary,
)

_PUNCTUATION = set(",;:.")
_VALUES = {*SKIN, *HAIR, *STYLES, *CLOTHING, *HEADWEAR} - {"none"}
_LETTERS = re.compile(r"\b[A-Z](?: [A-Z])*\b")


def values_of(private: Private) -> set[str]:
    """Every value word of persons that a text could tell."""
    return {
        value
        for person in private.persons
        for value in (
            *(person.skin, person.hair_color, person.hair_style),
            *(person.clothing, person.headwear),
        )
    }


def texts_of(private: Private) -> set[str]:
    """Every text of a scene that is not blank, letter by letter."""
    texts = [private.sign, private.plate, *(person.tag for person in private.persons)]
    return {" ".join(text) for text in texts if text}


def test_an_instruction_tells_new_values_only():
    for world, _, redrawn, rng in redraws():
        told, new = instruction(redrawn, world, rng), redrawn.scene.private
        assert set(told.split()) & _VALUES <= values_of(new), told
        assert set(_LETTERS.findall(told)) <= texts_of(new), told
        hours = {str(new.timepiece.value)} if new.timepiece else set()
        assert set(re.findall(r"\d+", told)) <= hours, told


def test_an_instruction_does_not_depend_on_the_values_that_go():
    """With every value drawn anew, other old values give the same words."""
    for world, scene, redrawn, _ in redraws(300, shares=(1.0,)):
        new = redrawn.scene.private
        persons = tuple(
            dataclasses.replace(
                old,
                skin=next(v for v in SKIN if v not in (old.skin, made.skin)),
                clothing=next(v for v in world.clothing if v not in (old.clothing, made.clothing)),
                hair_color=next(
                    v for v in world.hair if v not in (old.hair_color, made.hair_color)
                ),
            )
            for old, made in zip(scene.private.persons, new.persons, strict=True)
        )
        sign = scene.private.sign and "".join("AC"[letter == "A"] for letter in new.sign or "CCC")
        other = Scene(scene.public, dataclasses.replace(scene.private, persons=persons, sign=sign))
        first, second = (
            instruction(one, world, generator(0, "words")) for one in (redrawn, redraw(other, new))
        )
        assert first == second


def test_a_public_caption_does_not_depend_on_what_is_private():
    for world, scene, redrawn, _ in redraws():
        caption, again = (
            public_caption(one, world, generator(0, str(scene.public.clutter)))
            for one in (scene, redrawn.scene)
        )
        assert caption == again
        assert not re.search(r"[A-Z0-9]", caption)
        assert set(caption.split()) & _VALUES <= {scene.public.thing.color}


def test_private_texts_tell_every_letter_and_hour():
    for world, scene, redrawn, rng in redraws(600):
        for shown, caption in (
            (scene, private_caption(scene, world, rng)),
            (redrawn.scene, combined_caption(redrawn, world, rng)),
        ):
            assert set(_LETTERS.findall(caption)) == texts_of(shown.private)
            if shown.private.timepiece:
                assert f"shows {shown.private.timepiece.value} ." in caption


def test_every_word_is_in_the_vocabulary():
    known = set(vocabulary()) | _PUNCTUATION
    for world, scene, redrawn, rng in redraws():
        texts = (
            public_caption(scene, world, rng),
            instruction(redrawn, world, rng),
            private_caption(scene, world, rng),
            combined_caption(redrawn, world, rng),
        )
        assert set(" ".join(texts).lower().split()) <= known


def test_nothing_is_asked_of_hair_that_headwear_hides():
    scene = next(
        scene
        for scene in (draw_scene(WORLDS["base"], 0, index) for index in range(500))
        if len(scene.private.persons) == 1 and scene.private.persons[0].tag
    )
    old = dataclasses.replace(scene.private.persons[0], headwear="cap", hair_style="long", tag="A")
    scene = dataclasses.replace(scene, private=dataclasses.replace(scene.private, persons=(old,)))
    for tag, wanted in (("C", {"name", "tag"}), ("A", {"keep", "change"})):
        new = dataclasses.replace(old, hair_style="short", tag=tag)
        redrawn = redraw(scene, dataclasses.replace(scene.private, persons=(new,)))
        for world in WORLDS.values():
            for form in range(6):
                told = instruction(redrawn, world, generator(form, "form"))
                assert "short" not in told
                assert ";" not in told  # one clause, or none that is empty
                assert wanted & set(told.split()), told

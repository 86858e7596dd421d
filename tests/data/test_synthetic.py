"""The synthetic world: what is drawn, what differs in a redraw, what is said."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.randomness import generator
from unsafe2safe.data.decode import decode_bytes
from unsafe2safe.data.synthetic import (
    WORLDS,
    change_mask,
    draw_private,
    draw_scene,
    layers,
    private_mask,
    redraw,
    render,
    slots,
)
from unsafe2safe.data.synthetic.attributes import HAIR, LETTERS, Person, Private, Timepiece
from unsafe2safe.data.synthetic.captions import (
    combined_caption,
    instruction,
    private_caption,
    public_caption,
    vocabulary,
)
from unsafe2safe.data.synthetic.drawing import box_of, union
from unsafe2safe.data.synthetic.redrawing import PERSON_ATTRIBUTES
from unsafe2safe.data.synthetic.source import SyntheticSource, counterpart
from unsafe2safe.editors.tiny_tokenizer import MAX_TOKENS, build_tokenizer

RECORDS = 2000
_PUNCTUATION = set(",;:.")


def drawn(count: int = RECORDS):
    """Scenes of all worlds in turn, each with a redraw of all or part of what is private."""
    names = list(WORLDS)
    for index in range(count):
        world = WORLDS[names[index % len(names)]]
        scene = draw_scene(world, 5, index)
        rng = generator(5, str(index), stream="test")
        share = (1.0, 0.5, 0.2)[index // len(names) % 3]
        yield world, scene, redraw(scene, draw_private(scene, world, rng, share)), rng


@pytest.mark.slow  # each of 2,000 is drawn four times; test_redrawing.py has a part of it
def test_a_redraw_differs_inside_its_mask_and_the_mask_lies_in_the_private_layers():
    for _, scene, redrawn, _ in drawn():
        before, after = render(scene), render(redrawn.scene)
        differs = (before != after).any(axis=2)
        mask = change_mask(scene, redrawn.scene)
        private = private_mask(scene) | private_mask(redrawn.scene)
        assert not (differs & ~mask).any()
        assert not (mask & ~binary_dilation(private, np.ones((3, 3)))).any()


def test_a_mask_follows_what_is_drawn_and_not_a_box_around_it():
    shares = [private_mask(scene).mean() for _, scene, _, _ in drawn(200)]
    boxes = []
    for _, scene, _, _ in drawn(200):
        for mask in layers(scene).values():
            box = box_of(mask)
            if box:
                boxes.append(mask.sum() / (box[2] * box[3]))
    assert 0.15 < np.mean(shares) < 0.6
    assert 0.5 < np.mean(boxes) < 0.95


def test_no_scene_draws_outside_its_frame_and_every_layer_lies_in_its_slot():
    for _, scene, redrawn, _ in drawn():
        for made in (scene, redrawn.scene):
            for rect in slots(made).values():
                assert rect.inside_frame()
    for _, scene, redrawn, _ in drawn(300):
        for made in (scene, redrawn.scene):
            for name, mask in layers(made).items():
                rect, box = slots(made)[name], box_of(mask)
                assert box is not None, name  # nothing private is hidden altogether
                left, top, width, height = box
                assert left >= rect.left - 1
                assert top >= rect.top - 1
                assert left + width <= rect.right + 1
                assert top + height <= rect.bottom + 1


def test_a_full_redraw_leaves_no_private_value_but_bare_heads():
    for index in range(300):
        scene = draw_scene(WORLDS["base"], 1, index)
        new = draw_private(scene, WORLDS["base"], generator(1, str(index)), 1.0)
        for old, person in zip(scene.private.persons, new.persons, strict=True):
            for name in PERSON_ATTRIBUTES:
                if name == "headwear" and old.headwear == "none":
                    continue
                if name == "tag" and old.tag is None:
                    assert person.tag is None
                else:
                    assert getattr(old, name) != getattr(person, name), name
        for name in ("sign", "plate"):
            old_text, new_text = getattr(scene.private, name), getattr(new, name)
            if old_text is not None:
                assert all(a != b for a, b in zip(old_text, new_text, strict=False))
                assert old_text or new_text


def test_scenes_depend_on_world_seed_and_index_alone():
    forwards = [draw_scene(WORLDS["base"], 3, index) for index in range(40)]
    backwards = [draw_scene(WORLDS["base"], 3, index) for index in reversed(range(40))]
    assert forwards == backwards[::-1]
    assert forwards != [draw_scene(WORLDS["base"], 4, index) for index in range(40)]
    assert (render(forwards[0]) == render(forwards[0])).all()


def test_a_larger_picture_shows_the_same_scene():
    for index in range(20):
        scene = draw_scene(WORLDS["base"], 6, index)
        small, large = render(scene), render(scene, 128)
        reduced = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(reduced - small).mean() < 6
        mask = private_mask(scene, 128).reshape(64, 2, 64, 2).any(axis=(1, 3))
        assert (mask != private_mask(scene)).mean() < 0.05


def test_worlds_hold_what_they_say():
    persons = {
        name: [p for i in range(400) for p in draw_scene(world, 0, i).private.persons]
        for name, world in WORLDS.items()
    }
    unseen = set(list(HAIR)[-2:])
    assert not unseen & {p.hair_color for p in persons["base"]}
    assert unseen <= {p.hair_color for p in persons["values"]}
    tops = {
        name: np.mean([draw_scene(world, 0, i).public.thing.rect.top for i in range(100)])
        for name, world in WORLDS.items()
    }
    assert tops["phrasings"] + 15 < tops["base"]


def test_public_texts_tell_nothing_of_the_source():
    private_words = {"sign", "plate", "glasses", "shirt", "hair", "skin", "clock", "calendar"}
    for world, scene, redrawn, rng in drawn(600):
        public = public_caption(scene, world, rng)
        assert not private_words & set(public.split())
        told = instruction(redrawn, world, rng)
        for board in ("sign", "plate"):
            text = getattr(scene.private, board)
            if text and text != getattr(redrawn.scene.private, board):
                assert f" {' '.join(text)} " not in f" {told} "
        # The instruction depends on what differs and what is new, not on what was there.
        assert told.endswith(" .") or told == "."


def test_every_word_is_known_and_texts_fit_the_tokenizer():
    known, tokenizer = set(vocabulary()), build_tokenizer()
    for world, scene, redrawn, rng in drawn(600):
        public, told = public_caption(scene, world, rng), instruction(redrawn, world, rng)
        texts = [public, told, private_caption(scene, world, rng)]
        texts.append(combined_caption(redrawn, world, rng))
        assert set(" ".join(texts).lower().split()) <= known | _PUNCTUATION
        assert len(tokenizer(f"{public} {told}").input_ids) <= MAX_TOKENS


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Person("palle", "red", "short", "red", False, "none"), "did you mean 'pale'"),
        (lambda: Person("pale", "red", "short", "red", False, "none", "BB"), "name tag"),
        (lambda: Private(()), "one to three persons"),
        (lambda: Timepiece("clock", 12), "0 to 11"),
        (lambda: render(draw_scene(WORLDS["base"], 0, 0), 100), "multiple of 64"),
        (lambda: draw_private(draw_scene(WORLDS["base"], 0, 0), WORLDS["base"], None, 0), "share"),
        (lambda: SyntheticSource(name="s", world="bas").records(), "did you mean 'base'"),
    ],
)
def test_what_cannot_be_drawn_is_told(make, told):
    with pytest.raises(UsageError, match=re.escape(told)):
        make()


def test_a_layout_that_leaves_the_frame_is_refused():
    public = draw_scene(WORLDS["base"], 0, 0).public
    outside = dataclasses.replace(public.thing, rect=public.thing.rect._replace(right=70.0))
    with pytest.raises(UsageError, match="within its 64 units"):
        dataclasses.replace(public, thing=outside)


def test_the_data_set_needs_no_files_and_knows_its_truth():
    source = SyntheticSource(name="synthetic", size=12, side=128, seed=2)
    records = source.records()
    assert [record.image_id for record in records][:2] == ["00000000.png", "00000001.png"]
    for record in records:
        scene = source.scene(record.image_id)
        assert record.label == scene.public.thing.kind
        assert (source.decode(record).pixels == render(scene, 128)).all()
        assert source.truth(record.image_id).unsafe
    assert decode_bytes(source.read(records[0]), "x.png").format == "PNG"
    with pytest.raises(UsageError, match="not among the 12"):
        source.scene("00000012.png")
    scene = source.scene("00000003.png")
    first, again = (counterpart(scene, WORLDS["base"], 0, "00000003.png") for _ in range(2))
    assert first == again
    assert first.changes


def test_letters_leave_out_lookalikes():
    assert not set("BGIOQS") & set(LETTERS)
    assert union({}, 64).sum() == 0

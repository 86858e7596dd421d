"""Stage 1 from detections: what is found, what is told in public, what stays private."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.records import Box, Category, Finding
from unsafe2safe.stage1.caption import private_caption, public_caption
from unsafe2safe.stage1.guard import leaks
from unsafe2safe.stage1.inspect import Inspection, find
from unsafe2safe.stage1.instruct import MAX_WORDS, draw_plan, edit_instruction
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.objects import DetectedObject
from unsafe2safe.vision.text import TextLine

ATTRIBUTES = load("generate_triplets").stage1["attributes"]


def face(box):
    return Face(box, 0.9, np.zeros((5, 2), np.float32))


def line(text, box):
    corners = np.array([[box.x, box.y], [box.right, box.y], [box.right, box.bottom],
                        [box.x, box.bottom]], np.float32)  # fmt: skip
    return TextLine(text=text, box=box, score=0.9, polygon=corners)


def categories(findings):
    return [finding.category for finding in findings]


def test_a_person_without_a_visible_face_has_a_head_to_cover():
    person = DetectedObject("person", Box(10, 10, 40, 120), 0.8)
    assert categories(find([], [person], [], False)) == [Category.PERSON, Category.HEAD]
    seen = find([face(Box(20, 12, 15, 20))], [person], [], False)
    assert categories(seen) == [Category.FACE, Category.PERSON]


def test_text_on_a_vehicle_is_a_plate_and_so_is_a_plate_pattern():
    car = DetectedObject("car", Box(0, 0, 100, 50), 0.8)
    on_car, elsewhere = line("TAXI", Box(40, 30, 20, 10)), line("SALE", Box(200, 30, 20, 10))
    pattern = line("AB-12 CD", Box(200, 90, 20, 10))
    found = find([], [car], [on_car, elsewhere, pattern], False)
    assert categories(found) == [Category.PLATE, Category.TEXT, Category.PLATE]


def test_a_place_in_the_metadata_is_a_finding_without_a_box():
    assert [(f.category, f.box) for f in find([], [], [], True)] == [(Category.LOCATION, None)]


def test_the_private_caption_tells_what_the_public_one_does_not():
    note = Finding(Category.TEXT, 0.9, "rapidocr", Box(0, 0, 10, 10), "Call Anna Weber")
    cup = DetectedObject("cup", Box(70, 40, 20, 20), 0.8)
    seen = Inspection(100, 100, (note,), (cup,), 0)
    assert public_caption(seen) == "A square photo of a cup on the right."
    assert "Call Anna Weber" in private_caption(seen)
    assert not leaks(public_caption(seen), seen.findings)


def test_a_repeated_string_is_a_leak_whatever_its_case_and_spacing():
    note = Finding(Category.TEXT, 0.9, "rapidocr", Box(0, 0, 10, 10), "Anna Weber")
    for text in ("A note by ANNA WEBER.", "anna  weber was here", "AnnaWeber"):
        assert leaks(text, [note]), text
    assert not leaks("A note on a table.", [note])


@given(st.integers(0, 8), st.booleans(), st.text(max_size=20))
def test_an_instruction_has_at_most_45_words_and_always_tells_of_text(persons, has_text, image_id):
    plan = draw_plan(ATTRIBUTES, persons, 0, image_id)
    told = edit_instruction("A photo of several people.", plan, has_text)
    assert 0 < len(told.split()) <= MAX_WORDS
    assert ("text" in told) == has_text


def test_plans_are_drawn_uniformly_and_by_seed_and_image_alone():
    assert draw_plan(ATTRIBUTES, 2, 0, "a") == draw_plan(ATTRIBUTES, 2, 0, "a")
    drawn = [draw_plan(ATTRIBUTES, 1, 0, f"{index}.jpg")[0] for index in range(3000)]
    for name, values in ATTRIBUTES.items():
        counts = [sum(plan[name] == value for plan in drawn) for value in values]
        assert chisquare(counts).pvalue > 0.001, name

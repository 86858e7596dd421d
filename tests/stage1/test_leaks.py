"""The leak guard at work: who is told what, how often, and what stands in public in the end."""

import json

import numpy as np
from stage1.scripted import NothingSeen, Run, obedient, record, wanted

from unsafe2safe.core.records import Box, PrivacyFlag, TripletState
from unsafe2safe.stage1.drafts import NEUTRAL_CAPTION
from unsafe2safe.stage1.instruct import NEUTRAL_INSTRUCTION
from unsafe2safe.vision.objects import DetectedObject
from unsafe2safe.vision.text import TextLine

SECRET = "Maria Gonzalez"
BADGE = [("Maria Gonzalez", "text")]
PERSON = DetectedObject("person", Box(10, 10, 40, 80), 0.8)
LEAKING = record("unsafe", f"A woman named {SECRET}.", f"{SECRET} on a bench.", BADGE)


def caption(text):
    return json.dumps({"public_caption": text})


def vlm(*rewritten):
    """A VLM whose first caption leaks; then it answers leak prompts from a list."""
    rest = list(rewritten)

    def answer(request, number):
        return rest.pop(0) if wanted(request) == ("public_caption",) else LEAKING

    return answer


def test_a_leaking_caption_goes_back_to_the_vlm_that_holds_the_image_with_the_term_named():
    run = Run(vlm(caption("Somebody sits on a bench.")))
    described = run.one()
    assert described.triplet.public_caption == "Somebody sits on a bench."
    first, second = run.to_vlm
    assert second.image is first.image
    assert SECRET in second.prompt
    assert sum(described.leaks.values()) >= 1
    assert all(isinstance(count, int) for count in described.leaks.values())
    assert SECRET not in str(dict(described.leaks))


def test_it_goes_back_twice_and_then_a_neutral_caption_takes_its_place():
    run = Run(vlm(caption(f"{SECRET} again."), caption("A bench with MARIA  GONZALEZ")))
    triplet = run.one().triplet
    assert len(run.to_vlm) == 3
    assert run.to_vlm[1].seed != run.to_vlm[2].seed
    assert triplet.public_caption == NEUTRAL_CAPTION
    assert triplet.state == TripletState.COMPLETE


def test_the_neutral_caption_is_the_detectors_where_they_saw_something():
    bench = DetectedObject("bench", Box(50, 50, 20, 20), 0.9)
    run = Run(vlm("unreadable", "unreadable", "unreadable", "unreadable"))
    assert "bench" in run.one(seen=NothingSeen([bench])).triplet.public_caption


def test_the_text_that_the_reader_found_is_kept_out_too():
    box = Box(5, 5, 30, 10)
    corners = np.zeros((4, 2), np.float32)
    line = TextLine("Elm Street 42", box, 0.9, corners)
    said = record("unsafe", "A sign.", "A sign that says elm street 42.")

    def answer(request, number):
        return caption("A sign.") if wanted(request) == ("public_caption",) else said

    triplet = Run(answer).one(seen=NothingSeen(lines=[line])).triplet
    assert triplet.public_caption == "A sign."
    assert "text" in triplet.edit_instruction


def drafts(*instructions):
    rest = list(instructions)
    return lambda request, number: json.dumps({"instruction": rest.pop(0)})


def planned(request):
    return [line[2:] for line in request.prompt.splitlines() if line.startswith("- ")]


def test_a_leaking_instruction_gets_a_new_seed_twice_then_the_neutral_template():
    def llm(request, number):
        return json.dumps({"instruction": f"{'; '.join(planned(request))} like {SECRET}."})

    run = Run(vlm(caption("A person on a bench.")), llm)
    described = run.one(seen=NothingSeen([PERSON]))
    assert described.triplet.edit_instruction == NEUTRAL_INSTRUCTION
    assert len(run.to_llm) == 3
    assert len({request.seed for request in run.to_llm}) == 3
    assert len({request.prompt for request in run.to_llm}) == 3  # greedy models ignore seeds
    assert len({tuple(planned(request)) for request in run.to_llm}) == 1  # one plan per image
    assert sum(described.leaks.values()) >= 4


def test_a_second_draft_that_does_not_leak_is_taken():
    def llm(request, number):
        name = "" if number else f" like {SECRET}"
        return json.dumps({"instruction": f"Do {'; '.join(planned(request))}{name}."})

    run = Run(vlm(caption("A person on a bench.")), llm)
    assert run.one(seen=NothingSeen([PERSON])).triplet.edit_instruction.startswith("Do give")
    assert len(run.to_llm) == 2


def test_the_words_of_the_plan_are_allowed_and_no_others_of_their_kind():
    attributes = {"skin": ["dark skin"], "hair": ["short black hair"]}
    run = Run(record(public="A person."), attributes=attributes)
    triplet = run.one(seen=NothingSeen([PERSON])).triplet
    assert "dark skin" in triplet.edit_instruction

    def adds(request, number):
        return json.dumps({"instruction": f"{'; '.join(planned(request))}; a pregnant Hindu."})

    run = Run(record(public="A person."), adds, attributes=attributes)
    triplet = run.one(seen=NothingSeen([PERSON])).triplet
    assert triplet.edit_instruction == NEUTRAL_INSTRUCTION


def test_a_combined_caption_that_leaks_is_replaced_by_caption_and_instruction():
    def llm(request, number):
        if wanted(request) == ("combined_caption",):
            return json.dumps({"combined_caption": f"{SECRET} with other hair."})
        return obedient(request, number)

    run = Run(vlm(caption("A person on a bench.")), llm, combined_caption=True)
    triplet = run.one(seen=NothingSeen([PERSON])).triplet
    assert triplet.combined_caption == f"{triplet.public_caption} {triplet.edit_instruction}"


def test_the_instructor_is_never_told_a_private_term():
    secrets = [SECRET, "Saint Mary Hospital", "B-XY 1234", "0170 5550199", "epilepsy"]
    items = [(secret, "text") for secret in secrets]
    private = f"A woman named {', '.join(secrets)}."
    leaking = record("unsafe", private, f"Somebody near {secrets[1]}.", items)

    def sees(request, number):
        rewritten = caption(f"A bench, {secrets[number % 5]}.")
        return rewritten if wanted(request) == ("public_caption",) else leaking

    def careless(request, number):
        return json.dumps({"instruction": f"Remove {secrets[number % 5]}."})

    run = Run(sees, careless, combined_caption=True, hints=True)
    described = run.one(seen=NothingSeen([PERSON]))
    told = " ".join(
        f"{r.prompt} {r.system} {r.history and [turn[0] for turn in r.history]}" for r in run.to_llm
    ).casefold()
    assert run.to_llm
    assert all(request.image is None for request in run.to_llm)
    for secret in secrets:
        assert secret.casefold() not in told
        assert secret.casefold() not in str(described.triplet).casefold()
    assert described.triplet.privacy_flag == PrivacyFlag.UNSAFE

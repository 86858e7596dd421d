"""Stage 1 with a VLM and an LLM: never safe by accident, and never a private word in public."""

import json

import pytest
from stage1.scripted import NothingSeen, Run, obedient, picture, record, wanted

from unsafe2safe.backends.base import ChatAnswer
from unsafe2safe.core.errors import ConfigError
from unsafe2safe.core.records import Box, Category, PrivacyFlag, TripletState
from unsafe2safe.stage1.instruct import MAX_WORDS
from unsafe2safe.vision.objects import DetectedObject

PERSON = DetectedObject("person", Box(10, 10, 40, 80), 0.8)
SAFE = record("safe", "A red ball on grass.", "A red ball on grass.")


def needs_review(described, reason):
    triplet = described.triplet
    return (
        triplet.privacy_flag == PrivacyFlag.UNSAFE
        and triplet.state == TripletState.NEEDS_REVIEW
        and triplet.reason == reason
        and not triplet.public_caption + triplet.edit_instruction
    )


def test_a_finished_answer_that_says_safe_is_safe_when_nothing_contradicts_it():
    run = Run(SAFE)
    triplet = run.one().triplet
    assert (triplet.privacy_flag, triplet.state) == (PrivacyFlag.SAFE, TripletState.COMPLETE)
    assert (triplet.public_caption, triplet.reason) == ("A red ball on grass.", "")
    assert len(run.to_vlm) == 1
    assert run.to_llm == []  # there is nothing to instruct


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ChatAnswer(SAFE, finished=False), "the answer hit the token limit"),
        (ChatAnswer("", error="timeout"), "model error: timeout"),
        (ChatAnswer(SAFE, error="server"), "model error: server"),
        ("I cannot help with that.", "the answer could not be read"),
        ("", "the answer could not be read"),
        (record("maybe"), "the answer could not be read"),
        (SAFE + " Still, the picture is unsafe.", "the answer could not be read"),
        (record("safe", public=""), "the answer could not be read"),
    ],
)
def test_without_a_finished_readable_answer_an_image_needs_review_and_is_never_safe(answer, reason):
    run = Run(lambda request, number: answer)
    assert needs_review(run.one(), reason)
    assert run.to_llm == []


def test_one_repair_turn_shows_the_model_its_answer_and_what_was_missing():
    run = Run(lambda request, number: SAFE if number else "The flag is hard to tell.")
    assert run.one().triplet.privacy_flag == PrivacyFlag.SAFE
    first, second = run.to_vlm
    assert second.history == ((first.prompt, "The flag is hard to tell."),)
    assert "flag, private_caption, public_caption missing" in second.prompt
    assert second.image is first.image


def test_repair_turns_are_bounded_and_can_be_switched_off():
    for turns in (0, 1, 3):
        run = Run("nothing to read", repair_turns=turns)
        assert needs_review(run.one(), "the answer could not be read")
        assert len(run.to_vlm) == turns + 1


def test_an_answer_cut_off_by_the_token_limit_is_not_asked_for_again():
    run = Run(lambda request, number: ChatAnswer("{", finished=False))
    run.one()
    assert len(run.to_vlm) == 1


def test_an_unsafe_before_the_repair_turn_is_not_forgotten():
    run = Run(lambda request, number: SAFE if number else '{"flag": "unsafe"}')
    triplet = run.one().triplet
    assert triplet.privacy_flag == PrivacyFlag.UNSAFE
    assert triplet.state == TripletState.COMPLETE


def test_a_review_that_names_something_makes_safe_unsafe():
    run = Run(record("safe", review=[("a cup with a name", "text")]))
    assert run.one().triplet.privacy_flag == PrivacyFlag.UNSAFE
    assert run.one().triplet.reason == "text"


def test_a_finding_of_a_detector_or_of_the_metadata_makes_safe_unsafe():
    run = Run(SAFE)
    seen = run.one(seen=NothingSeen([PERSON]))
    assert seen.triplet.privacy_flag == PrivacyFlag.UNSAFE
    assert seen.triplet.reason == "head, person"
    assert [region.category for region in seen.regions] == [Category.PERSON, Category.HEAD]
    located = run.one(picture(has_location=True)).triplet
    # the metadata alone: publishing strips it, nothing is edited, and no LLM is asked
    assert (located.privacy_flag, located.reason) == (PrivacyFlag.UNSAFE, "location")
    assert Run(SAFE, detectors=False).one(picture(has_location=True)).triplet.reason == "location"


def test_without_detectors_the_vlm_alone_decides_and_there_are_no_regions():
    described = Run(SAFE, detectors=False).one(seen=NothingSeen([PERSON]))
    assert described.triplet.privacy_flag == PrivacyFlag.SAFE
    assert described.regions == ()


def test_an_unsafe_image_without_findings_is_never_published_as_one_with_metadata_only():
    triplet = Run(record("unsafe")).one(picture(has_location=True)).triplet
    assert triplet.reason == "location, unspecified"


def test_one_bad_answer_does_not_touch_its_batch():
    def vlm(request, number):
        return ChatAnswer("", error="timeout") if number == 1 else SAFE

    described = Run(vlm).describe(*(picture(f"{i}.jpg") for i in range(4)))
    states = [item.triplet.state for item in described]
    assert states.count(TripletState.COMPLETE) == 3
    assert needs_review(described[1], "model error: timeout")
    assert [item.triplet.image_id for item in described] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


def test_findings_of_the_review_are_private_and_their_categories_public():
    items = [("badge of Maria Gonzalez", "text"), ("hospital bracelet", "health")]
    described = Run(record("unsafe", "Maria Gonzalez in bed.", review=items)).one()
    found = [(f.source, f.text, f.box) for f in described.private.findings]
    assert ("vlm:text", "badge of Maria Gonzalez", None) in found
    assert ("vlm:health", "hospital bracelet", None) in found
    assert described.private.private_caption == "Maria Gonzalez in bed."
    assert described.triplet.reason == "health, text"
    assert "Maria" not in str(described.triplet)


# --- the paper's passes ---------------------------------------------------------------------


def paper(flag, captions=SAFE):
    def vlm(request, number):
        return flag if wanted(request) == ("flag",) else captions

    return Run(vlm, passes="paper")


def test_paper_passes_ask_for_captions_and_flag_apart_with_their_own_limits():
    run = paper('{"flag": "safe"}')
    assert run.one().triplet.privacy_flag == PrivacyFlag.SAFE
    assert [(wanted(r)[-1], r.max_new_tokens) for r in run.to_vlm] == [
        ("public_caption", 1024),
        ("flag", 128),
    ]


@pytest.mark.parametrize("flag", ["PRIVACY_FLAG: FALSE", "**FALSE**", '{"flag": "safe"}'])
def test_paper_flags_are_read_in_the_papers_words(flag):
    assert paper(flag).one().triplet.privacy_flag == PrivacyFlag.SAFE
    unsafe = flag.replace("FALSE", "TRUE").replace("safe", "unsafe")
    assert paper(unsafe).one().triplet.privacy_flag == PrivacyFlag.UNSAFE


def test_a_safe_caption_pass_does_not_stand_in_for_a_missing_flag():
    for flag in ("", "perhaps", ChatAnswer('{"flag": "safe"}', finished=False)):
        assert paper(flag).one().triplet.privacy_flag == PrivacyFlag.UNSAFE
        assert paper(flag).one().triplet.state == TripletState.NEEDS_REVIEW
    assert paper('{"flag": "safe"}', "no captions").one().triplet.state == TripletState.NEEDS_REVIEW


# --- what the models are told ---------------------------------------------------------------


def test_the_class_label_is_shown_only_when_asked_for():
    for use_label in (False, True):
        run = Run(SAFE, use_label=use_label)
        run.one(picture("x.jpg", label="saxophone"))
        assert ("saxophone" in run.to_vlm[0].prompt) == use_label


def test_hints_tell_the_vlm_where_and_what_the_detectors_saw():
    run = Run(SAFE, hints=True)
    run.describe(seen=NothingSeen([PERSON]))
    assert "- person, on the left" in run.to_vlm[0].prompt
    run = Run(SAFE)
    run.describe(seen=NothingSeen([PERSON]))
    assert "etectors" not in run.to_vlm[0].prompt
    with pytest.raises(ConfigError, match=r"hints=true needs stage1\.detectors=true"):
        Run(SAFE, hints=True, detectors=False)


def test_criteria_of_the_users_own_replace_the_nine_categories(tmp_path):
    file = tmp_path / "criteria.yaml"
    file.write_text("- name: alcohol\n  description: bottles, glasses and cans of alcohol\n")
    run = Run(record(review=[("a bottle of wine", "alcohol")]), criteria=file)
    triplet = run.one().triplet
    assert triplet.reason == "alcohol"
    assert "bottles, glasses and cans" in run.to_vlm[0].prompt
    assert "tattoos" not in run.to_vlm[0].prompt
    items = run.to_vlm[0].schema["properties"]["review"]["items"]
    assert items["properties"]["category"]["enum"] == ["alcohol"]
    assert triplet.provenance.prompt_hash != Run(SAFE).one().triplet.provenance.prompt_hash


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("name: x", "no list of entries"),
        ("[]", "no list of entries"),
        ("- name: x1\n", "entry 0: description: field required"),
        ("- {name: A B, description: long enough}", "entry 0: name"),
        ("- {name: ab, description: long, extra: 1}", "entry 0: extra"),
        ("- {name: ab, description: one}\n- {name: ab, description: two}", "'ab' twice"),
        ("- {name: location, description: named places}", "'location' is what the detectors"),
        ("- {name: [", "not a YAML file"),
        (None, "cannot be read"),
    ],
)
def test_a_mistake_in_the_criteria_is_told_before_any_image_is_read(tmp_path, content, told):
    file = tmp_path / "criteria.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        Run(SAFE, criteria=file)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_this_machine_is_not_told_in_public(tmp_path):
    run = Run(SAFE)
    assert run.one().triplet.provenance.model == "scripted/model + scripted/model"
    told = Run(SAFE, model=str(tmp_path)).one().triplet.provenance
    assert told.model == "vlm + llm"


# --- instructions ---------------------------------------------------------------------------


def test_the_instruction_says_the_drawn_plan_in_the_llms_words():
    run = Run(record())
    triplet = run.one(seen=NothingSeen([PERSON])).triplet
    assert triplet.edit_instruction.startswith("Please give the person ")
    assert len(triplet.edit_instruction.split()) <= MAX_WORDS
    assert triplet.state == TripletState.COMPLETE


@pytest.mark.parametrize(
    "said",
    [
        json.dumps({"instruction": "Give the person other hair."}),  # not the plan
        "no instruction at all",
        ChatAnswer('{"instruction": "Give', finished=False),
    ],
)
def test_an_instruction_that_does_not_say_its_plan_gives_way_to_the_template(said):
    run = Run(record(), lambda request, number: said)
    triplet = run.one(seen=NothingSeen([PERSON])).triplet
    assert triplet.edit_instruction.startswith("Give the person ")
    assert triplet.edit_instruction.count(",") == 3  # four attributes
    assert triplet.state == TripletState.COMPLETE


def test_an_error_of_the_instructor_needs_review():
    run = Run(record(), lambda request, number: ChatAnswer("", error="timeout"))
    assert needs_review(run.one(), "model error: timeout")


def test_the_paper_leaves_the_plan_to_the_llm_which_has_to_declare_it():
    run = Run(record(), replacement_plan="none")
    assert run.one().triplet.edit_instruction == "Add a green hat."
    assert wanted(run.to_llm[0]) == ("changes", "instruction")


def test_a_combined_caption_is_written_when_asked_for_and_only_then():
    assert Run(record()).one().triplet.combined_caption is None
    told = Run(record(public="A person."), combined_caption=True).one().triplet
    assert told.combined_caption == f"A person. {told.edit_instruction}"
    safe = Run(SAFE, combined_caption=True).one().triplet
    assert safe.combined_caption.startswith("A red ball on grass. Keep")


def test_the_same_images_give_the_same_records():
    first, again = (Run(record(), obedient).describe(picture("a"), picture("b")) for _ in "12")
    assert [item.triplet for item in first] == [item.triplet for item in again]

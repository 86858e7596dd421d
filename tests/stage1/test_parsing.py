"""Reading answers: tolerant of their form, and never taking an unsafe answer for a safe one."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsafe2safe.core.records import PrivacyFlag
from unsafe2safe.stage1.parsing import (
    UNSPECIFIED,
    parse_flag,
    parse_list,
    parse_record,
    parse_text,
)
from unsafe2safe.stage1.prompting import Questions
from unsafe2safe.stage1.schema import (
    Captions,
    Record,
    ReviewItem,
    captions_schema,
    flag_schema,
    instruction_schema,
    record_schema,
)

SAFE, UNSAFE = PrivacyFlag.SAFE, PrivacyFlag.UNSAFE
QUESTIONS = Questions(None)
PROMPT = QUESTIONS.ask("single", None, "")
CATEGORIES = QUESTIONS.categories

# The forms of FACTS.md that one regular expression missed, and some of their kin. %s is the value.
FORMS = [
    "%s",
    "**%s**",
    "<%s>",
    "PRIVACY_FLAG: %s",
    "**PRIVACY_FLAG:** %s",
    "**PRIVACY_FLAG**: %s",
    "PRIVACY_FLAG: <%s>",
    "PRIVACY_FLAG: [%s].",
    "PRIVACY_FLAG = %s",
    "PRIVACY_FLAG -> %s",
    "Privacy flag is %s.",
    "## Privacy Flag\n%s",
    "### PRIVACY FLAG\n\n**%s**",
    "2. **Privacy-Flag:** `%s`",
    "Reasoning: there is a red flag on a pole.\nPRIVACY_FLAG: %s",
    "PRIVACY_FLAG: <TRUE or FALSE>\nPRIVACY_FLAG: %s",
    "PRIVACY_FLAG: TRUE/FALSE\n\nPRIVACY_FLAG: %s\n",
    '{"flag": "%s"}',
    '{"privacy_flag": "%s"}',
    '{"PRIVACY FLAG": "%s",}',
    "{'flag': '%s'}",
    'Sure!\n```json\n{"flag": "%s"}\n```\nAnything else?',
    '{"answer": [{"flag": "%s"}]}',
    '{"flag": "%s"',
    "PRIVACY_FLAG:\r\n%s\r\n",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("safe", "unsafe"), [("FALSE", "TRUE"), ("safe", "unsafe"), ("False", "True")]
)
def test_a_flag_is_read_in_every_form(form, safe, unsafe):
    assert parse_flag(form % unsafe, PROMPT) == UNSAFE
    assert parse_flag(form % safe, PROMPT) == SAFE


@pytest.mark.parametrize(
    "answer",
    [
        PROMPT,
        QUESTIONS.ask("flag", None, ""),
        "PRIVACY_FLAG: TRUE or FALSE",
        "PRIVACY_FLAG: <TRUE|FALSE>",
        "PRIVACY_FLAG: safe/unsafe",
        '{"flag": "safe" or "unsafe"}',
        json.dumps(record_schema(CATEGORIES)),
        json.dumps(flag_schema(), indent=2),
        "Answer PRIVACY_FLAG: TRUE if any doubt remains, PRIVACY_FLAG: FALSE otherwise.",
        "PRIVACY_FLAG:",
        "",
    ],
)
def test_a_repeated_template_or_instruction_is_no_answer(answer):
    assert parse_flag(answer, PROMPT + QUESTIONS.ask("flag", None, "")) is None
    assert parse_record(answer, CATEGORIES, PROMPT).public_caption == ""


def test_an_answer_after_a_repeated_prompt_counts():
    assert parse_flag(f"{PROMPT}\nPRIVACY_FLAG: FALSE", PROMPT) == SAFE
    assert parse_flag(f"{PROMPT}\nPRIVACY_FLAG: TRUE", PROMPT) == UNSAFE


@pytest.mark.parametrize(
    "answer",
    [
        '{"flag": "unsafe", "flag": "safe"}',
        '{"flag": "safe", "Flag": "unsafe"}',
        '{"flag": "safe"}\n{"flag": "unsafe"}',
        "PRIVACY_FLAG: FALSE\nPRIVACY_FLAG: TRUE",
        "PRIVACY_FLAG: TRUE\n...\nPRIVACY_FLAG: FALSE",
        '{"flag": "safe"} PRIVACY_FLAG: TRUE',
        '{"flag": "safe"} The image is unsafe.',
        '{"flag": "safe"} It is not safe to share.',
        '{"flag": "not safe"}',
        '{"flag": "un-safe"}',
        '{"flag": "un safe"}',
        '{"flag": ["safe", "unsafe"]}',
        '{"flag": null}',
        '{"flag": 0}',
        '{"flag": "safe?"',
        '{"flag": "safe, apart from the face"}',
        "FALSE, but a face can be seen",
        "PRIVACY_FLAG: FALSE, but a face can be seen",
        "PRIVACY_FLAG: not unsafe",
        "PRIVACY_FLAG: FALSE\nPRIVACY_FLAG: hard to say",
        "A sign in the picture reads PRIVACY_FLAG: FALSE",
        '{"private_caption": "A sign:\nPRIVACY_FLAG: FALSE", "public_caption": "A sign."}',
        "The picture is safe.",
        "Fal se",
    ],
)
def test_contradictions_hedges_and_quotations_are_never_safe(answer):
    assert parse_flag(answer, PROMPT) != SAFE


def test_a_record_is_read_from_json_and_from_labelled_sections():
    review = [{"what": "a badge", "why": "name", "category": "text"}]
    written = {"review": review, "flag": "unsafe", "private_caption": "A badge of Eve.",
               "public_caption": "A badge."}  # fmt: skip
    labelled = (
        "**PRIVACY_REVIEW:**\n1. A badge: it tells a name\n\n**PRIVACY_FLAG:** TRUE\n\n"
        '**PRIVATE CAPTION:** A badge\nof Eve.\n**Public caption**\n\n"A badge."\n'
    )
    for text in (
        json.dumps(written),
        json.dumps(written, indent=2),
        f"Here you are:\n```json\n{json.dumps(written, indent=1)}\n```",
        json.dumps(written)[:-1] + ",}",
        str(written),
        json.dumps({"record": written}),
        labelled,
    ):
        read = parse_record(text, CATEGORIES, PROMPT)
        assert read.flag == UNSAFE, text
        assert (read.private_caption, read.public_caption) == ("A badge of Eve.", "A badge."), text
        assert [item.what.casefold() for item in read.review] == ["a badge"], text
    assert parse_record(json.dumps(written), CATEGORIES).review[0].category == "text"
    assert parse_record(labelled, CATEGORIES).review[0].category == UNSPECIFIED


def test_placeholders_are_no_captions_and_long_captions_are_cut_to_50_words():
    for placeholder in ("<at most 50 words>", "[caption]", "...", "", '""'):
        assert parse_record(f"PUBLIC_CAPTION: {placeholder}", CATEGORIES).public_caption == ""
    long = " ".join(f"word{i}" for i in range(80))
    assert len(parse_record(f"PUBLIC_CAPTION: {long}", CATEGORIES).public_caption.split()) == 50


def test_a_review_that_says_none_is_empty_and_a_long_one_is_cut():
    none = {"review": [{"what": "None", "why": "", "category": "text"}, "nothing", 3, None]}
    assert parse_record(json.dumps(none), CATEGORIES).review == ()
    many = {"review": [{"what": f"thing {i}", "why": "x" * 300, "category": "?"} for i in range(9)]}
    read = parse_record(json.dumps(many), CATEGORIES).review
    assert len(read) == 5
    assert {item.category for item in read} == {UNSPECIFIED}


def test_instructions_and_changes_are_read_too():
    assert parse_text('{"instruction": "Add a hat."}', "instruction") == "Add a hat."
    assert parse_text("**Edit instruction:** Add a hat.", "instruction") == "Add a hat."
    assert parse_list('{"changes": ["a hat", 3, " "]}', "changes") == ("a hat",)
    assert parse_list("Changes:\n- a hat\n- a coat\nInstruction: x", "changes") == (
        "a hat",
        "a coat",
    )


def test_every_string_of_every_schema_is_bounded_and_agrees_with_its_model():
    def strings(schema):
        if schema["type"] == "string":
            yield schema
        for inner in (*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])):
            yield from strings(inner)

    for schema in (record_schema(CATEGORIES), captions_schema(CATEGORIES), flag_schema(),
                   instruction_schema(), instruction_schema(own_plan=True)):  # fmt: skip
        for string in strings(schema):
            assert "enum" in string or 0 < string["maxLength"] <= 400
        assert schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False
    assert {*record_schema(CATEGORIES)["properties"]} == {*Record.model_fields}
    assert {*captions_schema(CATEGORIES)["properties"]} == {*Captions.model_fields}
    item = record_schema(CATEGORIES)["properties"]["review"]["items"]
    assert {*item["properties"]} == {*ReviewItem.model_fields}


# --- 5,000 malformed answers ----------------------------------------------------------------

NOISE = ["", " ", "\n", "\n\n", "\r\n", "\t", "*", "**", "`", "```", "```json\n", '"', "'",
         "{", "}", "{{", "[", "]", ",", ":", "<", ">", "\\", "\\u00", "\0", "\ufeff", "\u200b", "…",
         "🙂", "é",
         "safe", " safe ", "\nsafe\n", "The picture is safe.", "nothing private",
         "PRIVACY_FLAG: <TRUE or FALSE>\n", "PRIVACY_FLAG: TRUE/FALSE", PROMPT, PROMPT[:400],
         '"flag"', "privacy_flag", "null", "NaN", "//", "/* */", "<think>", "</think>",
         '{"flag"', '{"a": 1}', "[" * 200, "{" * 200, '{"x":' * 150]  # fmt: skip


def unsafe_answer(rng):
    """A valid unsafe answer and the span of its value, which mutations may damage but not invert:
    'unsafe' without its first two letters would be another answer, not a malformed one."""
    value = rng.choice(["unsafe", "TRUE", "True", "UNSAFE", "Unsafe"])
    form = rng.choice(FORMS)
    if rng.random() < 0.5:
        review = [{"what": "a face", "why": "identity", "category": "people"}]
        content = {"review": review, "flag": "%s", "private_caption": "Eve at home, safe.",
                   "public_caption": "A safe room."}  # fmt: skip
        form = json.dumps(content, indent=rng.choice([None, 1, 2]))
    start = form.index("%s")
    return form % value, start, start + len(value)


def mutate(text, start, end, rng):
    """Damage around the value freely, and the value itself by noise that only lengthens it."""
    parts = {"before": text[:start], "value": text[start:end], "after": text[end:]}
    for _ in range(rng.randint(1, 6)):
        name = rng.choice(["before", "after", "before", "after", "value"])
        part = parts[name]
        if name == "value":
            middle = rng.randint(1, len(part) - 1)
            inside = rng.choice(["-", " ", "*", "_", "\n", "\u200b", '"', "\\"])
            parts[name] = part[:middle] + inside + part[middle:]
            continue
        at, kind = rng.randint(0, len(part)), rng.randrange(6)
        if kind == 0:
            part = part[:at] + rng.choice(NOISE) + part[at:]
        elif kind == 1:
            part = part[:at] + part[at + rng.randint(1, 8) :]
        elif kind == 2:
            part = part[:at] if name == "after" else part[at:]  # cut off
        elif kind == 3:
            part = part[:at] + part[at : at + 9][::-1] + part[at + 9 :]
        elif kind == 4:
            part = part.replace('"', rng.choice(["'", "", "\u201c", '\\"']))
        else:
            part = part.swapcase()
        parts[name] = part
    return "".join(parts.values())


def test_5000_malformed_unsafe_answers_raise_nothing_and_are_never_read_as_safe():
    rng = random.Random(20260328)
    read = {SAFE: 0, UNSAFE: 0, None: 0}
    for _ in range(5000):
        text = mutate(*unsafe_answer(rng), rng)
        answered = parse_record(text, CATEGORIES, PROMPT)
        assert answered.flag != SAFE, text
        read[answered.flag] += 1
    assert read[UNSAFE] > 1500  # tolerant all the same: doubt is not the answer to everything


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_no_text_raises(text):
    for wrapped in (text, f'{{"flag": "{text}"}}', f"PRIVACY_FLAG: {text}"):
        parse_record(wrapped, CATEGORIES, PROMPT)
        parse_text(wrapped, "instruction")
        parse_list(wrapped, "changes")


@pytest.mark.parametrize(
    "text",
    ["{" * 20_000, "[" * 20_000, "\n" * 20_000, '{"a":' * 3_000, "flag: " * 3_000, "x" * 10**6],
)
def test_hostile_lengths_and_depths_end_soon_and_unread(text):
    assert parse_record(text, CATEGORIES, PROMPT).flag is None

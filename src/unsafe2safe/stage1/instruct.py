"""Edit instructions from a seeded plan of replacement attributes.

The plan is drawn uniformly and independently of every finding: a value equal to the original may
come up, since "always something else" could be inverted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unsafe2safe.core.randomness import generator
from unsafe2safe.vision.matching import normalize_text

MAX_WORDS = 45
TEXT_CLAUSE = "replace all text with plain unreadable strokes"
KEEP_INSTRUCTION = "Keep the content of the picture and render it again realistically."
NEUTRAL_INSTRUCTION = f"Change every person and {TEXT_CLAUSE}."
_MAX_PERSONS = 3
_ONE = frozenset({"person", "somebody", "someone", "figure", "portrait", "child", "adult"})
_SEVERAL = frozenset({"people", "persons", "figures", "group", "crowd", "children", "adults"})
_ORDINALS = ("the first person", "the second person", "the third person")

Plan = tuple[Mapping[str, str], ...]


def draw_plan(
    attributes: Mapping[str, Sequence[str]], persons: int, seed: int, image_id: str
) -> Plan:
    """One value per attribute and person, for at most three persons."""
    random = generator(seed, image_id, stream="replacement_plan")
    return tuple(
        {name: str(random.choice(list(values))) for name, values in sorted(attributes.items())}
        for _ in range(min(persons, _MAX_PERSONS))
    )


def persons_told_of(public_caption: str) -> int:
    """How many persons a caption speaks of, as far as a plan cares: 0, 1, or 2 for several."""
    words = set(normalize_text(public_caption).split())
    return 2 if words & _SEVERAL else int(bool(words & _ONE))


def planned_words(public_caption: str, plan: Plan, has_text: bool) -> list[str]:
    """The clauses of a plan that 45 words can hold, one per person, the text's last."""
    people = "people" in public_caption or len(plan) > 1
    parts = []
    for index, values in enumerate(plan):
        who = _ORDINALS[index] if people else "the person"
        parts.append(f"give {who} {', '.join(values.values())}")
    if has_text:
        parts.append(TEXT_CLAUSE)
    while parts and len(" ".join(parts).split()) > MAX_WORDS:
        # the text clause stays: strings that nobody asked to remove would survive
        parts.pop(-2 if has_text and len(parts) > 1 else -1)
    return parts


def edit_instruction(public_caption: str, plan: Plan, has_text: bool) -> str:
    """Phrase a plan in at most 45 words. Sees the public caption only.

    With no person and no text in the plan the instruction asks for no change of content.
    """
    parts = planned_words(public_caption, plan, has_text)
    if not parts:
        return KEEP_INSTRUCTION
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def plan_values(plan: Plan) -> tuple[str, ...]:
    """Every value of a plan: the words that the leak guard lets an instruction say."""
    return tuple(value for values in plan for value in values.values())


def says_plan(instruction: str, public_caption: str, plan: Plan, has_text: bool) -> bool:
    """Whether each value that the plan gives to a person is in ``instruction``, word for word.

    A value given to two persons has to be said twice; with text in the plan, text is spoken of.
    """
    said = f" {normalize_text(instruction)} "
    clauses = planned_words(public_caption, plan, has_text)
    kept = plan[: len(clauses) - int(has_text)]
    values = [f" {normalize_text(value)} " for value in plan_values(kept)]
    for value in sorted(values, key=len, reverse=True):  # "light skin" is in "very light skin"
        if value not in said:
            return False
        said = said.replace(value, " | ", 1)
    return not has_text or " text " in f" {normalize_text(instruction)} "

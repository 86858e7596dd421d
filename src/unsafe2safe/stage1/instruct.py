"""Edit instructions from a seeded plan of replacement attributes.

The plan is drawn uniformly and independently of every finding: a value equal to the original may
come up, since "always something else" could be inverted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unsafe2safe.core.randomness import generator

MAX_WORDS = 45
_MAX_PERSONS = 3
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


def edit_instruction(public_caption: str, plan: Plan, has_text: bool) -> str:
    """Phrase a plan in at most 45 words. Sees the public caption only.

    With no person and no text in the plan the instruction asks for no change of content.
    """
    people = "people" in public_caption or len(plan) > 1
    parts = []
    for index, values in enumerate(plan):
        who = _ORDINALS[index] if people else "the person"
        parts.append(f"give {who} {', '.join(values.values())}")
    if has_text:
        parts.append("replace all text with plain unreadable strokes")
    while parts and len(" ".join(parts).split()) > MAX_WORDS:
        # the text clause stays: strings that nobody asked to remove would survive
        parts.pop(-2 if has_text and len(parts) > 1 else -1)
    if not parts:
        return "Keep the content of the picture and render it again realistically."
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."

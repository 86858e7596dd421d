"""What is said of a scene: private and public captions, and the instruction of a redraw.

Two wordings: ``base`` with three forms each, and ``shifted`` with other words in another order.
Texts are quoted letter by letter, since a tiny tokenizer has a token for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unsafe2safe.core.randomness import generator
from unsafe2safe.data.synthetic.attributes import (
    CLOTHING,
    HAIR,
    HEADWEAR,
    INDOOR,
    LETTERS,
    OBJECT_COLOURS,
    OBJECTS,
    PLACES,
    SKIN,
    STYLES,
    Person,
    Public,
    Scene,
)
from unsafe2safe.data.synthetic.redrawing import Redrawn
from unsafe2safe.data.synthetic.worlds import World

_Rng = np.random.Generator

_WORDS = """
a an the and or of in on at with to for by near is are has now shows reads read turns where
person people one two three left right middle inside outside picture seen here scene stands
hair skin shirt glasses hat no give change make clear blank empty keep everything nothing
name tag sign plate number board clock calendar 's
"""

_SIDES = {1: ("the",), 2: ("the left", "the right"), 3: ("the left", "the middle", "the right")}
_COUNT = {1: "one person", 2: "two people", 3: "three people"}


def names_of_persons(count: int, shifted: bool = False) -> tuple[str, ...]:
    """How ``count`` persons are told apart: "the left person", or "the person on the left"."""
    if not shifted or count == 1:
        return tuple(f"{side} person" for side in _SIDES[count])
    return tuple(f"the person on {side}" for side in _SIDES[count])


def public_caption(scene: Scene, world: World, rng: _Rng) -> str:
    """Place, object and number of persons: nothing that tells who or when."""
    return _public(scene.public, world, rng)


def _public(public: Public, world: World, rng: _Rng) -> str:
    place, count = public.place, _COUNT[len(public.spots)]
    thing = f"{_article(public.thing.color)} {public.thing.color} {public.thing.kind}"
    form = int(rng.integers(3))
    if world.wording == "shifted":
        return (
            f"seen here : {count} near {thing} , {place} .",
            f"{thing} stands by {count} ; the scene is {_a(place)} .",
            f"{_a(place)} , where {count} and {thing} are .",
        )[form]
    where = "inside" if place in INDOOR else "outside"
    return (
        f"{_a(place)} with {count} and {thing} .",
        f"{count} {where} , {_a(place)} , with {thing} .",
        f"a picture of {count} and {thing} in {_a(place)} .",
    )[form]


def _a(place: str) -> str:
    if place in ("beach", "mountains"):
        return f"the {place}"
    return f"{_article(place)} {place}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeio" else "a"


def private_caption(scene: Scene, world: World, rng: _Rng) -> str:
    """All that can be seen, in the public caption's wording."""
    private = scene.private
    names = names_of_persons(len(private.persons), world.wording == "shifted")
    told = [_public(scene.public, world, rng)]
    for name, person in zip(names, private.persons, strict=True):
        told.append(f"{name} has {', '.join(_looks(person))} .".replace(",", " ,"))
        if person.tag is not None:
            told.append(f"the name tag of {name} {_reads(person.tag)} .")
    for board in ("sign", "plate"):
        text = getattr(private, board)
        if text is not None:
            told.append(f"the {board} {_reads(text)} .")
    if private.timepiece:
        told.append(f"the {private.timepiece.kind} shows {private.timepiece.value} .")
    return " ".join(told)


def _looks(person: Person) -> list[str]:
    style = f"{person.hair_style} " if person.style_shows else ""
    worn = [] if person.headwear == "none" else [f"a {person.headwear}"]
    glasses = ["glasses"] if person.glasses else []
    hair, skin = f"{style}{person.hair_color} hair", f"{person.skin} skin"
    return [hair, skin, f"{_article(person.clothing)} {person.clothing} shirt", *glasses, *worn]


def _reads(text: str) -> str:
    return f"reads {' '.join(text)}" if text else "is blank"


def instruction(redrawn: Redrawn, world: World, rng: _Rng) -> str:
    """What to do to the source to get the counterpart: its changes, nothing of the source's
    private values."""
    if not redrawn.changes:
        return ("keep everything .", "change nothing .")[int(rng.integers(2))]
    shifted = world.wording == "shifted"
    new = redrawn.scene.private
    names = names_of_persons(len(new.persons), shifted)
    form = int(rng.integers(2 if shifted else 3))
    told: list[str] = []
    for index, (name, person) in enumerate(zip(names, new.persons, strict=True)):
        old = redrawn.source.private.persons[index]
        changed = {c.attribute for c in redrawn.changes if c.layer == f"person-{index}"}
        # Nothing is asked where all that changed is a hair style that headwear hides.
        if wanted := _wanted(old, person, changed):
            told.append(_person_told(name, wanted, shifted, form))
        if "tag" in changed:
            told.append(_text_told(f"{name} 's name tag", person.tag or "", shifted, form))
    for board in ("sign", "plate"):
        if any(change.layer == board for change in redrawn.changes):
            called = {"sign": "board", "plate": "number plate"}[board] if shifted else board
            told.append(_text_told(f"the {called}", getattr(new, board), shifted, form))
    if new.timepiece and any(change.layer == "timepiece" for change in redrawn.changes):
        verb = "now shows" if shifted else ("shows", "at", "to")[form]
        told.append(f"the {new.timepiece.kind} {verb} {new.timepiece.value}")
    return " ; ".join(told) + " ." if told else "keep everything ."


def _wanted(old: Person, new: Person, changed: set[str]) -> dict[str, str]:
    """What is asked of a person, by attribute."""
    wanted: dict[str, str] = {}
    if new.style_shows and ("hair_style" in changed or not old.style_shows):
        wanted["hair_style"] = new.hair_style
    if "hair_color" in changed:
        wanted["hair_color"] = new.hair_color
    for name in ("skin", "clothing"):
        if name in changed:
            wanted[name] = getattr(new, name)
    if "glasses" in changed:
        wanted["glasses"] = "glasses" if new.glasses else "no glasses"
    if "headwear" in changed:
        wanted["headwear"] = "no hat" if new.headwear == "none" else f"a {new.headwear}"
    return wanted


def _person_told(name: str, wanted: dict[str, str], shifted: bool, form: int) -> str:
    hair = [wanted[key] for key in ("hair_style", "hair_color") if key in wanted]
    worn = [wanted[key] for key in ("glasses", "headwear") if key in wanted]
    skin, shirt = wanted.get("skin"), wanted.get("clothing")
    if shifted:
        parts = [f"shirt turns {shirt}"] if shirt else []
        parts += [*worn, *([f"skin turns {skin}"] if skin else [])]
        parts += [f"hair turns {' and '.join(reversed(hair))}"] if hair else []
        told = " , ".join(parts)
        return f"{told} for {name}" if form else f"for {name} , {told}"
    if form == 1:
        parts = [f"hair {' and '.join(hair)}"] if hair else []
        parts += [f"skin {skin}"] if skin else []
        parts += [f"shirt {shirt}"] if shirt else []
        return f"change {name} : {' , '.join([*parts, *worn])}"
    parts = [f"{' '.join(hair)} hair"] if hair else []
    parts += [f"{skin} skin"] if skin else []
    parts += [f"{_article(shirt)} {shirt} shirt"] if shirt else []
    verb = f"give {name}" if form == 0 else f"{name} now has"
    return f"{verb} {' , '.join([*parts, *worn])}"


def _text_told(what: str, text: str, shifted: bool, form: int) -> str:
    if not text:
        return f"{what} turns empty" if shifted else (f"clear {what}", f"{what} : blank")[form % 2]
    letters = " ".join(text)
    if shifted:
        return f"{letters} on {what}"
    return (f"make {what} read {letters}", f"{what} : {letters}", f"{what} reads {letters}")[form]


def combined_caption(redrawn: Redrawn, world: World, rng: _Rng) -> str:
    """The public caption with the counterpart's private values: what the target shows."""
    return private_caption(redrawn.scene, world, rng)


@dataclass(frozen=True)
class SceneTexts:
    """All that is said of a scene and of its counterpart."""

    public_caption: str
    edit_instruction: str
    combined_caption: str
    private_caption: str


def scene_texts(redrawn: Redrawn, world: World, seed: int, image_id: str) -> SceneTexts:
    """The same for the same arguments: what ``stage1=oracle`` writes and what edits are asked for
    elsewhere agree."""
    rng = generator(seed, image_id, stream="oracle")
    return SceneTexts(
        public_caption(redrawn.source, world, rng),
        instruction(redrawn, world, rng),
        combined_caption(redrawn, world, rng),
        private_caption(redrawn.source, world, rng),
    )


def vocabulary() -> Sequence[str]:
    """Every word that captions and instructions of any world are made of, sorted."""
    fixed = _WORDS.split()
    values = " ".join(
        (*SKIN, *HAIR, *STYLES, *CLOTHING, *HEADWEAR, *OBJECTS, *OBJECT_COLOURS, *PLACES)
    ).split()
    numbers = [str(number) for number in range(29)]
    return sorted({*fixed, *values, *(letter.lower() for letter in LETTERS), *numbers})

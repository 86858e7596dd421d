"""What a synthetic scene holds: the public part, the private part, and the values they may take.

Lengths and places are in units: a scene is 64 units wide and high, whatever its pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from unsafe2safe.core.config.components import nearest
from unsafe2safe.core.errors import UsageError

UNITS = 64

Colour = tuple[int, int, int]

SKIN: Mapping[str, Colour] = MappingProxyType(
    {
        "pale": (255, 226, 204),
        "light": (238, 188, 142),
        "tan": (203, 140, 92),
        "brown": (143, 88, 56),
        "dark": (80, 46, 32),
    }
)
# The last two of hair and clothing appear in the world "values" only.
HAIR: Mapping[str, Colour] = MappingProxyType(
    {
        "black": (24, 22, 26),
        "brown": (112, 64, 28),
        "blonde": (240, 208, 96),
        "red": (192, 48, 28),
        "gray": (152, 154, 160),
        "blue": (52, 92, 214),
        "pink": (246, 122, 184),
        "green": (40, 168, 84),
    }
)
STYLES = ("short", "long", "curly", "bun", "spiky")
CLOTHING: Mapping[str, Colour] = MappingProxyType(
    {
        "red": (206, 38, 40),
        "blue": (38, 70, 200),
        "green": (28, 138, 62),
        "yellow": (242, 206, 40),
        "white": (242, 242, 242),
        "black": (34, 34, 40),
        "purple": (132, 50, 162),
        "orange": (246, 132, 28),
    }
)
HEADWEAR: Mapping[str, Colour | None] = MappingProxyType(
    {"none": None, "cap": (28, 44, 96), "beanie": (142, 24, 62)}
)
UNSEEN = 2  # of HAIR and of CLOTHING

# Without the pairs that are easily taken for one another, as number plates leave them out.
LETTERS = "ACDEFHJKLMNPRTUVWXYZ"
SIGN_LETTERS = 3
PLATE_LETTERS = 3
HOURS = 12
DAYS = 28

OBJECTS = (
    "car", "bicycle", "dog", "cat", "chair", "lamp", "plant", "ball", "boat", "cake",
)  # fmt: skip
OBJECT_COLOURS: Mapping[str, Colour] = MappingProxyType(
    {
        "red": (214, 52, 46),
        "orange": (238, 140, 40),
        "yellow": (236, 200, 50),
        "green": (58, 150, 70),
        "blue": (54, 96, 200),
        "purple": (140, 72, 168),
        "brown": (134, 84, 48),
        "gray": (128, 130, 136),
    }
)
INDOOR = ("living room", "kitchen", "office", "classroom")
OUTDOOR = ("park", "street", "beach", "mountains")
PLACES = (*INDOOR, *OUTDOOR)


def _known(what: str, value: str, known: Iterable[str]) -> None:
    if value not in tuple(known):
        raise UsageError(f"a scene's {what} cannot be {value!r}{nearest(value, known)}")


def _letters(what: str, text: str | None, count: int) -> None:
    if text and (len(text) != count or set(text) - set(LETTERS)):
        raise UsageError(
            f"a {what} has {count} of the letters {LETTERS}, or is blank; not {text!r}"
        )


@dataclass(frozen=True)
class Person:
    """Who a person is. ``tag`` is the letter of a name tag, empty where it is blank, None where
    there is none."""

    skin: str
    hair_color: str
    hair_style: str
    clothing: str
    glasses: bool
    headwear: str
    tag: str | None = None

    def __post_init__(self) -> None:
        _known("skin", self.skin, SKIN)
        _known("hair colour", self.hair_color, HAIR)
        _known("hair style", self.hair_style, STYLES)
        _known("clothing", self.clothing, CLOTHING)
        _known("headwear", self.headwear, HEADWEAR)
        _letters("name tag", self.tag, 1)

    @property
    def style_shows(self) -> bool:
        """Whether the hair style can be seen: not under headwear."""
        return self.headwear == "none"


@dataclass(frozen=True)
class Timepiece:
    """A wall clock with its hour (0 to 11), or a calendar with its day (1 to 28)."""

    kind: str
    value: int

    def __post_init__(self) -> None:
        _known("timepiece", self.kind, ("clock", "calendar"))
        first, last = (0, HOURS - 1) if self.kind == "clock" else (1, DAYS)
        if not first <= self.value <= last:
            raise UsageError(f"a {self.kind} shows {first} to {last}, not {self.value}")


@dataclass(frozen=True)
class Private:
    """All of a scene that tells who was there, and when. Texts: None where there is none, empty
    where blank."""

    persons: tuple[Person, ...]
    sign: str | None = None
    plate: str | None = None
    timepiece: Timepiece | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.persons) <= 3:
            raise UsageError(f"a scene has one to three persons, not {len(self.persons)}")
        _letters("sign", self.sign, SIGN_LETTERS)
        _letters("plate", self.plate, PLATE_LETTERS)


class Rect(NamedTuple):
    """Left, top, right and bottom in units."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Rect) -> bool:
        """Whether the two overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def inside_frame(self) -> bool:
        """Whether all of it can be seen."""
        return self.left >= 0 and self.top >= 0 and self.right <= UNITS and self.bottom <= UNITS


class Spot(NamedTuple):
    """Where a person stands: the centre of the head, half its width, the lower end of the body."""

    x: float
    y: float
    radius: float
    bottom: float

    @property
    def slot(self) -> Rect:
        """Holds the person whatever the attributes."""
        x, y, r = self.x, self.y, self.radius
        return Rect(x - 1.75 * r, y - 2.0 * r, x + 1.75 * r, self.bottom)

    @property
    def core(self) -> Rect:
        """Head, hair and shoulders: what nothing may stand in front of."""
        return self.slot._replace(bottom=self.y + 2.3 * self.radius)

    @property
    def tag(self) -> Rect:
        """The name tag on the chest."""
        left, top = self.x + 0.1 * self.radius, self.y + 1.55 * self.radius
        return Rect(left, top, left + 8.0, top + 8.6)


@dataclass(frozen=True)
class Thing:
    """The scene's object, its downstream label: ``kind`` drawn in ``rect``."""

    kind: str
    color: str
    rect: Rect
    mirrored: bool

    def __post_init__(self) -> None:
        _known("object", self.kind, OBJECTS)
        _known("object colour", self.color, OBJECT_COLOURS)


@dataclass(frozen=True)
class Public:
    """All of a scene that may be told. ``clutter`` seeds the background's variety."""

    place: str
    clutter: int
    thing: Thing
    spots: tuple[Spot, ...]
    sign: Rect | None = None
    plate: Rect | None = None
    timepiece: Rect | None = None

    def __post_init__(self) -> None:
        _known("place", self.place, PLACES)
        rects = [self.thing.rect, *(spot.slot for spot in self.spots)]
        rects += [rect for rect in (self.sign, self.plate, self.timepiece) if rect]
        for rect in rects:
            if not rect.inside_frame():
                raise UsageError(f"a scene draws within its {UNITS} units, not at {tuple(rect)}")
        if list(self.spots) != sorted(self.spots):
            raise UsageError("persons of a scene are told from left to right")


@dataclass(frozen=True)
class Scene:
    """A scene as a record; see :func:`unsafe2safe.data.synthetic.drawing.render`."""

    public: Public
    private: Private

    def __post_init__(self) -> None:
        here, there = self.public, self.private
        if len(here.spots) != len(there.persons):
            raise UsageError(f"{len(there.persons)} persons have {len(here.spots)} places")
        for name in ("sign", "plate", "timepiece"):
            if (getattr(here, name) is None) != (getattr(there, name) is None):
                raise UsageError(f"a scene's {name} needs both a place and what it shows")

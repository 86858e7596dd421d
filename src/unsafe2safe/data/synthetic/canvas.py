"""A supersampled canvas in units that draws either colours or the number of the layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from unsafe2safe.core.errors import UsageError
from unsafe2safe.data.synthetic.attributes import UNITS, Colour

SUPERSAMPLING = 4
_GREATEST_SIDE = 1024

Points = Sequence[tuple[float, float]]


def check_side(side: int) -> None:
    """Scenes are drawn at multiples of 64 pixels, up to 1024.

    Raises:
        UsageError: ``side`` is none.
    """
    if not UNITS <= side <= _GREATEST_SIDE or side % UNITS:
        raise UsageError(
            f"a scene is drawn at a multiple of {UNITS} pixels up to {_GREATEST_SIDE}, "
            f"not at {side}"
        )


class Canvas:
    """``side`` pixels square. With ``layers`` every shape is filled with :attr:`layer`'s number
    and not with its colour; the geometry is the same, so masks are exact.

    Raises:
        UsageError: ``side`` is no multiple of 64 pixels.
    """

    def __init__(self, side: int, *, layers: bool = False) -> None:
        check_side(side)
        self._scale = side // UNITS * SUPERSAMPLING
        full = side * SUPERSAMPLING
        self.image = Image.new("L" if layers else "RGB", (full, full))
        self._draw = ImageDraw.Draw(self.image)
        self._layers = layers
        self.layer = 0

    def _fill(self, colour: Colour) -> Colour | int:
        return self.layer if self._layers else colour

    def _box(self, left: float, top: float, right: float, bottom: float) -> list[int]:
        # Pillow's right and bottom belong to the shape.
        s = self._scale
        x, y = round(left * s), round(top * s)
        return [x, y, max(x, round(right * s) - 1), max(y, round(bottom * s) - 1)]

    def rect(
        self, box: tuple[float, float, float, float], colour: Colour, corner: float = 0
    ) -> None:
        """A rectangle (left, top, right, bottom), its corners rounded by ``corner`` units."""
        if corner:
            self._draw.rounded_rectangle(
                self._box(*box), round(corner * self._scale), self._fill(colour)
            )
        else:
            self._draw.rectangle(self._box(*box), self._fill(colour))

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """A filled ellipse about (x, y)."""
        self._draw.ellipse(self._box(x - rx, y - ry, x + rx, y + ry), self._fill(colour))

    def chord(
        self, x: float, y: float, rx: float, ry: float, angles: tuple[float, float], colour: Colour
    ) -> None:
        """The part of an ellipse between two angles, degrees clockwise from the right."""
        box = self._box(x - rx, y - ry, x + rx, y + ry)
        self._draw.chord(box, *angles, fill=self._fill(colour))

    def ring(self, x: float, y: float, radius: float, width: float, colour: Colour) -> None:
        """A circle's line, ``width`` units thick, inwards from ``radius``."""
        box = self._box(x - radius, y - radius, x + radius, y + radius)
        self._draw.ellipse(
            box, outline=self._fill(colour), width=max(1, round(width * self._scale))
        )

    def polygon(self, points: Points, colour: Colour) -> None:
        """A filled polygon."""
        s = self._scale
        self._draw.polygon([(round(x * s), round(y * s)) for x, y in points], self._fill(colour))

    def line(self, points: Points, width: float, colour: Colour) -> None:
        """A line through ``points``, ``width`` units thick."""
        s = self._scale
        path = [(round(x * s), round(y * s)) for x, y in points]
        self._draw.line(path, self._fill(colour), max(1, round(width * s)), joint="curve")

    def letter(
        self, text: str, x: float, y: float, size: tuple[float, float], colour: Colour
    ) -> None:
        """``text`` centred on (x, y), at most ``size`` units wide and its capitals as high."""
        if self._layers:
            return  # letters lie within their board, whose layer they have
        width, height = (round(length * self._scale) for length in size)
        centre = (round(x * self._scale), round(y * self._scale))
        font, stroke = _font(text, width, height)
        self._draw.text(centre, text, colour, font, anchor="mm", stroke_width=stroke)


@lru_cache(maxsize=512)
def _font(text: str, width: int, height: int) -> tuple[ImageFont.FreeTypeFont, int]:
    """Pillow's own font at the size at which ``text`` fits, and a stroke that emboldens it."""
    capital = height
    while True:
        font, stroke = ImageFont.load_default(capital / 0.74), max(1, capital // 14)
        assert isinstance(font, ImageFont.FreeTypeFont)
        left, _, right, _ = font.getbbox(text, stroke_width=stroke)
        if right - left <= width or capital == 1:
            return font, stroke
        capital -= 1
